"""The full report of a trained model on a split: metrics by scenario and slice with intervals, and what a funnel loses.

Evaluation inside the training loop stays with `tt_jax.evaluation.predict`; this is for the verb, which has the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from input_pipeline.blocks.prepared_set import Part
from tt_jax.calibration.calibrate import calibrated
from tt_jax.calibration.maps import Calibration
from tt_jax.evaluation.funnel_report import Funnel
from tt_jax.features.hashing import hash_string
from tt_jax.metrics.bootstrap import LEVEL
from tt_jax.metrics.rows import NO_VALUE, OTHER, EvalRows, cluster_column
from tt_jax.schema import Schema

NEW, KNOWN = 0, 1


def full_report(
    rows: EvalRows,
    utility: str,
    trained_on: Sequence[Part] | None,
    replicates: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """The report of `EvalRows.report`, and more, ready for JSON.

    Args:
      rows: of `predict_rows`.
      utility: of the run; "" = the first head.
      trained_on: what the model was trained on, to tell new ids; None = not at hand.
      replicates: of the bootstrap; 0 = no intervals.
      calibration: of the model; None = it has none.

    Returns `overall` and `scenarios` as there; `slices`, column -> value -> task -> metrics: the slices of the schema,
    and by id of user and ad `known` and `new`, those that training never saw; `bootstrap`, how the `intervals` beside
    the metrics were made; `funnel` by scenario, see `funnel_of`; `rows`. All of that is not calibrated; `calibrated`
    has `overall` and `scenarios` of the calibrated probabilities and, with intervals, `differences`, task -> metric ->
    the paired interval of what calibration changes, on all rows.
    """
    schema, plain = rows.schema, rows.report(replicates)
    report: dict[str, Any] = {
        "overall": plain["overall"],
        "scenarios": plain["scenarios"],
        "slices": {name: rows.by_value(rows.key(name), _names(schema, name), replicates) for name in schema.slices},
        "rows": len(rows),
    }
    if trained_on:
        for column in filter(None, (schema.user_id, schema.ad_id)):
            ids = rows.key(column)
            known = np.where(ids == NO_VALUE, NO_VALUE, _known(ids, column, trained_on, rows.scenarios))
            report["slices"][column] = rows.by_value(known, ("new", "known").__getitem__, replicates)
    if replicates:
        report["bootstrap"] = {"replicates": replicates, "level": LEVEL, "clusters": cluster_column(schema)}
    if calibration is not None:
        after = calibrated(rows, calibration)
        of_after = after.report(replicates)
        report["calibrated"] = {
            "method": calibration.method,
            "split": calibration.split,
            "overall": of_after["overall"],
            "scenarios": of_after["scenarios"],
        }
        if replicates:
            report["calibrated"]["differences"] = after.differences(rows, replicates)
    funnel = funnel_of(rows, utility, replicates)
    return {**report, **({"funnel": funnel} if funnel else {})}


def _names(schema: Schema, column: str) -> Callable[[int], str]:
    """Key -> name: a string was hashed, but the vocabulary of the feature of that name has it; others are numbers."""
    feature = next((f for f in schema.features if f.name == column), None)
    vocabulary = () if feature is None or not feature.is_ids else schema.table_owner(feature).vocabulary
    if not vocabulary or not isinstance(vocabulary[0], str):
        return str
    hashes = np.array([hash_string(v) for v in vocabulary if isinstance(v, str)], np.uint64).view(np.int64).tolist()
    by_hash = dict(zip(hashes, map(str, vocabulary), strict=True))
    return lambda key: by_hash.get(key, OTHER)


def _known(ids: np.ndarray, column: str, parts: Sequence[Part], scenarios: Sequence[str]) -> np.ndarray:
    """`KNOWN` or `NEW` `[N]`: whether the parts have a row of that id. Memory grows with `ids`, not with them."""
    distinct, code = np.unique(ids, return_inverse=True)
    seen = np.zeros(distinct.size, bool)
    place = parts[0].prepared.schema.key_columns.index(column)
    first, *others = (part.prepared.blocks(part.splits, scenarios, ("keys",)) for part in parts)
    blocks = first.joined(others)
    for i in range(len(blocks)):
        keys = blocks[i]["keys"][:, place]
        at = np.minimum(np.searchsorted(distinct, keys), distinct.size - 1)
        seen[at[distinct[at] == keys]] = True
    return np.where(seen, KNOWN, NEW)[code]


def funnel_of(rows: EvalRows, expression: str, replicates: int = 0) -> dict[str, Any] | None:
    """`funnel_metrics` by scenario against the teacher, with intervals over requests; None without a teacher.

    See `tt_jax.evaluation.funnel_report`.
    """
    funnel = Funnel.of(rows, expression)
    if funnel is None:
        return None
    by_name = {s: funnel.metrics(rows, rows.in_scenario(s), replicates) for s in rows.scenarios}
    return {"utility": funnel.utility.expression, "bid": 1, "scenarios": by_name}
