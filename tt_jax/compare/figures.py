"""Figures of one row of a comparison on some rows of a split: metrics over seeds, and differences to the reference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_jax.metrics.bootstrap import interval, replicate_metrics
from tt_jax.metrics.probability import calibration_curve, roc_curve
from tt_jax.metrics.table import METRICS, with_interval
from tt_jax.metrics.task_rows import TaskRows

Figure = dict[str, Any]


def over_seeds(values: Sequence[float | None]) -> Figure:
    """`mean` and `spread` (sample standard deviation, None of one seed) of a figure, and its value by seed."""
    if any(v is None for v in values):
        return {"mean": None, "spread": None, "seeds": list(values)}
    known = [float(v) for v in values if v is not None]
    spread = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "spread": spread, "seeds": known}


def metrics_over_seeds(rows_S: Sequence[TaskRows]) -> dict[str, Figure]:
    """Every metric over seeds; `rows_S`: a task's rows with the predictions of each seed."""
    found = [rows.metrics() for rows in rows_S]
    return {name: over_seeds([f[name] for f in found]) for name in METRICS}


def replicates_over_seeds(rows_S: Sequence[TaskRows], clusters: np.ndarray, replicates: int) -> dict[str, np.ndarray]:
    """Means over seeds of the metrics with an interval in each replicate, float64 `[R]`, NaN where one is undefined.

    Arguments as of `tt_jax.metrics.bootstrap.replicate_metrics`; the draws are the same for every row of a comparison.
    """
    found = [replicate_metrics(rows, clusters, replicates=replicates) for rows in rows_S]
    return {name: np.mean([f[name] for f in found], axis=0) for name in with_interval()}


def differences(
    ours: dict[str, Figure],
    reference: dict[str, Figure],
    replicated: dict[str, np.ndarray],
    of_reference: dict[str, np.ndarray],
) -> dict[str, dict[str, Any]]:
    """By replicated metric the paired difference to the reference, of the means over seeds, where both are defined.

    `absolute` (ours - reference) and `relative` to it, each with its 95 % `_interval`.
    """
    found = {}
    for name, of_a in replicated.items():
        a, b = ours[name]["mean"], reference[name]["mean"]
        if a is None or b is None:
            continue
        absolute, relative = a - b, a / b - 1 if b else None
        of_b = of_reference[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = {
                "absolute": absolute,
                "absolute_interval": interval(of_a - of_b),
                "relative": relative,
                "relative_interval": interval(of_a / of_b - 1) if b else None,
            }
    return found


def curves_of(rows: TaskRows) -> dict[str, Any]:
    """`roc` and `calibration` of predictions; None where one is undefined."""
    roc = roc_curve(rows.p, rows.y, rows.terms["weight"]) if rows.ranked else None
    return {
        "roc": roc and {name: values.tolist() for name, values in roc._asdict().items()},
        "calibration": calibration_of(rows),
    }


def calibration_of(rows: TaskRows) -> dict[str, list[float]] | None:
    """The calibration curve of predictions; None where it is undefined."""
    found = calibration_curve(rows.p, rows.y, rows.terms["weight"])
    return found and {name: values.tolist() for name, values in found._asdict().items()}
