"""What a funnel behind each row of the table loses against the teacher, by how many candidates it lets pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_jax.compare.figures import differences, over_seeds
from tt_jax.compare.predictions import Predicted
from tt_jax.evaluation.funnel_report import Funnel
from tt_jax.metrics.bootstrap import interval
from tt_jax.metrics.funnel import BEST, FunnelSums
from tt_jax.metrics.rows import EvalRows

PASSED = (*range(1, 17), 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
FIGURES = ("recall", "gain", "lost")


def split_funnel(
    rows: EvalRows, predicted: Sequence[Predicted], utility: str, replicates: int
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The funnel of a split; None if its rows are no candidates with a teacher's scores.

    Rows that all have a label of what users did were all shown: winners of an auction, not its candidates.

    Args:
      utility: that all rows of the table, and the teacher, are ranked by; "" = the first head.
      replicates: of the bootstrap over requests.

    Returns what it is of: `utility`, `bid` and by scenario `requests` and `candidates`; and by row of the table
    scenario -> a list with, for each K and N, `best`, `passed`, and `recall`, `gain` and `lost`, see
    `tt_jax.metrics.funnel`: each over seeds, with the 95 % `interval` of its mean over seeds and, but in the first row,
    the paired `difference` to that, see `tt_jax.compare.figures.differences`.
    """
    hard = [t for t, task in enumerate(rows.schema.tasks) if task.kind == "hard"]
    if any(not np.isnan(rows.labels[:, t]).any() for t in hard):
        return None
    funnel = Funnel.of(rows, utility)
    if funnel is None:
        return None
    counts, by_row = {}, [{} for _ in predicted]
    for name in rows.scenarios:
        part, reference = rows.in_scenario(name), None
        for of_row, found in zip(predicted, by_row, strict=True):
            sums_S = [funnel.sums(one, part, BEST, PASSED) for one in of_row.shown]
            counts[name] = {"requests": sums_S[0].requests, "candidates": sums_S[0].candidates}
            ours = _of_row(sums_S, replicates)
            found[name] = _figures(*ours, reference)
            reference = reference or ours
    return {"utility": funnel.utility.expression, "bid": 1, "scenarios": counts}, by_row


_OfRow = tuple[list[dict[str, Any]], dict[str, np.ndarray]]


def _of_row(sums_S: Sequence[FunnelSums], replicates: int) -> _OfRow:
    """By pair of K and N the figures over seeds; and by figure the means over seeds in each replicate, `[A, R]`."""
    at = [
        {"best": a[0]["best"], "passed": a[0]["passed"], **{name: over_seeds([f[name] for f in a]) for name in FIGURES}}
        for a in zip(*(sums.figures() for sums in sums_S), strict=True)
    ]
    replicated_S = [sums.replicates(replicates) for sums in sums_S]
    return at, {name: np.mean([found[name] for found in replicated_S], axis=0) for name in FIGURES}


def _figures(at: list[dict[str, Any]], replicated: dict[str, np.ndarray], reference: _OfRow | None) -> list[Any]:
    """With intervals, and differences to the reference."""
    for a, figures in enumerate(at):
        ours = {name: replicated[name][a] for name in FIGURES}
        for name, values in ours.items():
            figures[name]["interval"] = interval(values)
        if reference is not None:
            theirs = {name: values[a] for name, values in reference[1].items()}
            for name, difference in differences(figures, reference[0][a], ours, theirs).items():
                figures[name]["difference"] = difference
    return at
