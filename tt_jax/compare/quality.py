"""Metrics, differences to the reference, curves and the effect of calibration, on the rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tt_jax.compare.compared_rows import Predicted, Rows
from tt_jax.compare.figures import calibration_of, curves_of, differences, metrics_over_seeds, replicates_over_seeds
from tt_jax.metrics.task_rows import COUNTS, TaskRows, check_values
from tt_jax.schema import Schema


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


def split_quality(schema: Schema, rows: Rows, predicted: Sequence[Predicted], replicates: int) -> list[Quality]:
    """By row of the table; the first one is the reference."""
    found = [Quality() for _ in predicted]
    for scope, chosen in rows.scopes().items():
        for quality in found:
            quality.metrics[scope], quality.curves[scope], quality.before[scope] = {}, {}, {}
        for task in range(len(schema.tasks)):
            _add_task(found, scope, schema, task, rows, chosen, predicted, replicates)
    return found


def _add_task(
    found: Sequence[Quality],
    scope: str,
    schema: Schema,
    task: int,
    rows: Rows,
    chosen: np.ndarray,
    predicted: Sequence[Predicted],
    replicates: int,
) -> None:
    """Adds the figures of a task on the chosen rows."""
    name, of_reference = schema.task_names[task], {}
    for k, (quality, of_row) in enumerate(zip(found, predicted, strict=True)):
        shown_S = _scored(schema, task, rows, chosen, of_row.shown)
        metrics = quality.metrics[scope][name] = metrics_over_seeds(shown_S)
        quality.curves[scope][name] = curves_of(shown_S[0])
        quality.before[scope][name] = _before(_scored(schema, task, rows, chosen, of_row.raw)) if of_row.changed else {}
        replicated = replicates_over_seeds(shown_S, rows.clusters[chosen], replicates)
        if k == 0:
            of_reference = replicated
            continue
        reference = found[0].metrics[scope][name]
        for metric, difference in differences(metrics, reference, replicated, of_reference).items():
            metrics[metric]["difference"] = difference


def _scored(
    schema: Schema, task: int, rows: Rows, chosen: np.ndarray, of_seeds: Sequence[np.ndarray]
) -> list[TaskRows]:
    """The chosen rows of a task with the predictions of each seed."""
    labels, weights = rows.labels[chosen, task], rows.weights[chosen, task]
    users = None if rows.users is None else rows.users[chosen]
    soft, where, scored = schema.tasks[task].kind == "soft", f"task {schema.task_names[task]!r}: ", []
    for p in of_seeds:
        of_head = p[chosen, schema.head_of_task[task]]
        check_values(of_head, labels, weights, soft=soft, where=where)
        scored.append(TaskRows.of(of_head, labels, weights, users, soft=soft))
    return scored


def _before(raw_S: Sequence[TaskRows]) -> dict[str, Any]:
    if not raw_S[0].terms_Sn[0].any():
        return {}
    metrics = metrics_over_seeds(raw_S)
    return {**{name: m for name, m in metrics.items() if name not in COUNTS}, "curve": calibration_of(raw_S[0])}
