"""What a funnel behind each row of the table loses against the teacher, by how many candidates it lets pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_jax.compare.figures import over_seeds
from tt_jax.compare.outcomes import Predicted, Rows
from tt_jax.schema import Schema
from tt_jax.training.funnel import Funnel

PASSED = (*range(1, 17), 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def split_funnel(
    schema: Schema, rows: Rows, predicted: Sequence[Predicted], utility: str
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The funnel of a split; None if its rows are no candidates with a teacher's scores.

    Rows that all have a label of what users did were all shown: winners of an auction, not its candidates.

    Args:
      utility: that all rows of the table, and the teacher, are ranked by; "" = the first head.

    Returns what it is of: `utility`, `bid` and by scenario `requests` and `candidates`; and by row of the table
    scenario -> a list with, for each K and N, `best`, `passed`, and over seeds `recall`, `gain` and `lost`, see
    `tt_jax.metrics.funnel`.
    """
    hard = [t for t, task in enumerate(schema.tasks) if task.kind == "hard"]
    if rows.requests is None or any(not np.isnan(rows.labels[:, t]).any() for t in hard):
        return None
    funnel = Funnel.of(schema, rows.labels, rows.requests, utility)
    if funnel is None:
        return None
    parts = {name: rows.of_scenario(name) for name in rows.scenarios}
    found = [
        {name: [funnel.metrics(p, part, passed=PASSED) for p in of_row.shown] for name, part in parts.items()}
        for of_row in predicted
    ]
    counts = {name: {k: of_seeds[0][k] for k in ("requests", "candidates")} for name, of_seeds in found[0].items()}
    about = {"utility": funnel.utility.expression, "bid": 1, "scenarios": counts}
    return about, [{name: _over_seeds(of_seeds) for name, of_seeds in by_name.items()} for by_name in found]


def _over_seeds(of_seeds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "best": at[0]["best"],
            "passed": at[0]["passed"],
            **{name: over_seeds([a[name] for a in at]) for name in ("recall", "gain", "lost")},
        }
        for at in zip(*(found["at"] for found in of_seeds), strict=True)
    ]
