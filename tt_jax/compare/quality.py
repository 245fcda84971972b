"""Metrics, differences to the reference, curves and the effect of calibration, on the rows of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tt_jax.compare.figures import calibration_of, curves_of, differences, metrics_over_seeds, replicates_over_seeds
from tt_jax.compare.predictions import Predicted, scopes
from tt_jax.metrics.rows import EvalRows
from tt_jax.metrics.table import counts
from tt_jax.metrics.task_rows import TaskRows


@dataclass(frozen=True)
class Quality:
    """Figures of a row of the table on a split, by scope (`overall` or a scenario) and task.

    Attributes:
      metrics: of the probabilities that are shown; with the `difference` to the reference where both are defined.
      curves: `roc` and `calibration` of the first seed; None where one is undefined.
      before: the metrics but the counts, and the calibration `curve`, of the probabilities as the models give
        them; empty where those are shown, or no row of the task counts.
    """

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)


def split_quality(rows: EvalRows, predicted: Sequence[Predicted], replicates: int) -> list[Quality]:
    """By row of the table; the first one is the reference."""
    parts = scopes(rows)
    found = [Quality(*({scope: {} for scope in parts} for _ in range(3))) for _ in predicted]
    for task in rows.schema.task_names:
        _add_task(found, task, parts, rows.clusters, predicted, replicates)
    return found


def _add_task(
    found: Sequence[Quality],
    task: str,
    parts: Mapping[str, np.ndarray],
    clusters: np.ndarray,
    predicted: Sequence[Predicted],
    replicates: int,
) -> None:
    """Adds the figures of a task, by scope."""
    of_reference: dict[str, dict[str, np.ndarray]] = {}
    for k, (quality, of_row) in enumerate(zip(found, predicted, strict=True)):
        shown_S = [rows.task_rows(task) for rows in of_row.shown]
        raw_S = [rows.task_rows(task) for rows in of_row.raw] if of_row.changed else []
        for scope, chosen in parts.items():
            part_S = [rows.part(chosen) for rows in shown_S]
            metrics = quality.metrics[scope][task] = metrics_over_seeds(part_S)
            quality.curves[scope][task] = curves_of(part_S[0])
            quality.before[scope][task] = _before([rows.part(chosen) for rows in raw_S])
            replicated = replicates_over_seeds(part_S, clusters, replicates)
            if k == 0:
                of_reference[scope] = replicated
                continue
            reference = found[0].metrics[scope][task]
            for metric, difference in differences(metrics, reference, replicated, of_reference[scope]).items():
                metrics[metric]["difference"] = difference


def _before(raw_S: Sequence[TaskRows]) -> dict[str, Any]:
    if not raw_S or not raw_S[0].terms["weight"].any():
        return {}
    metrics = metrics_over_seeds(raw_S)
    return {**{name: m for name, m in metrics.items() if name not in counts()}, "curve": calibration_of(raw_S[0])}
