"""Metrics, differences to the reference, curves and the effect of calibration, on the rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tt_jax.compare.figures import TaskRows, differences
from tt_jax.compare.outcomes import Predicted, Rows
from tt_jax.metrics.curves import calibration_curve, roc_curve
from tt_jax.schema import Schema


@dataclass(frozen=True)
class Quality:
    """Figures of a row of the table on a split, by scope (`overall` or a scenario) and task.

    Attributes:
      metrics: of the probabilities that are shown; with the `difference` to the reference where both are defined.
      curves: `roc` and `calibration` of the first seed; None where one is undefined.
      before: the metrics that do not rank, and the calibration `curve`, of the probabilities as the models give them;
        empty where those are shown, or no row of the task counts.
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
        for i, task in enumerate(schema.tasks):
            users = None if rows.users is None else rows.users[chosen]
            scored = TaskRows(
                rows.labels[chosen, i], rows.weights[chosen, i], users, rows.clusters[chosen],
                soft=task.kind == "soft", replicates=replicates,
            )  # fmt: skip
            _score(found, scope, task.name, scored, predicted, chosen, schema.head_of_task[i])
    return found


def _score(
    found: Sequence[Quality],
    scope: str,
    task: str,
    scored: TaskRows,
    predicted: Sequence[Predicted],
    chosen: np.ndarray,
    head: int,
) -> None:
    """Adds the figures of a task."""
    reference: dict[str, np.ndarray] = {}
    for k, (quality, p) in enumerate(zip(found, predicted, strict=True)):
        shown_Sn = [of_seed[chosen, head] for of_seed in p.shown]
        metrics, replicated = scored.metrics(shown_Sn), scored.replicates(shown_Sn)
        reference = replicated if k == 0 else reference
        intervals = differences(replicated, reference) if k else {}
        for name, interval in intervals.items():
            base = found[0].metrics[scope][task][name]
            if None not in (metrics[name]["mean"], base["mean"]):
                metrics[name]["difference"] = _difference(metrics[name], base, interval)
        quality.metrics[scope][task] = metrics
        quality.curves[scope][task] = scored_curves(scored, shown_Sn[0])
        quality.before[scope][task] = _before(scored, [of_seed[chosen, head] for of_seed in p.raw]) if p.changed else {}


def _before(scored: TaskRows, raw_Sn: Sequence[np.ndarray]) -> dict[str, Any]:
    losses = scored.losses(raw_Sn)
    return {**losses, "curve": _calibration(scored, raw_Sn[0])} if losses else {}


def _difference(ours: dict[str, Any], reference: dict[str, Any], intervals: dict[str, Any]) -> dict[str, Any]:
    """A paired difference to the reference, of the means over seeds, with its intervals."""
    absolute = ours["mean"] - reference["mean"]
    return {
        "absolute": absolute,
        "absolute_interval": intervals["absolute"],
        "relative": absolute / reference["mean"] if reference["mean"] else None,
        "relative_interval": intervals["relative"],
    }


def scored_curves(scored: TaskRows, probabilities: np.ndarray) -> dict[str, Any]:
    """`roc` and `calibration` of predictions for all rows; None where one is undefined."""
    roc = roc_curve(probabilities[scored.rows], scored.labels, scored.weights) if scored.ranked else None
    return {
        "roc": roc and {name: values.tolist() for name, values in roc._asdict().items()},
        "calibration": _calibration(scored, probabilities),
    }


def _calibration(scored: TaskRows, probabilities: np.ndarray) -> dict[str, list[float]] | None:
    found = calibration_curve(probabilities[scored.rows], scored.labels, scored.weights)
    return found and {name: values.tolist() for name, values in found._asdict().items()}
