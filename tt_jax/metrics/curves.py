"""Curves to look at: ROC and calibration, as a few points each. NumPy, float64.

Arguments as in `tt_jax.metrics.task_metrics`, of labelled rows only: `p` `[n]`, `y` `[n]`, `w` `[n]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
    """Share of the negatives, and of the positives, scored at least as high as a falling threshold; from 0 to 1."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray


class Calibration(NamedTuple):
    """Mean prediction, mean label and weight of bins, by ascending prediction."""

    prediction: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def roc_curve(p: np.ndarray, y: np.ndarray, w: np.ndarray, points: int = 101) -> Roc | None:
    """The ROC curve at up to `points` evenly spread false-positive rates, and at its ends.

    Between the points that ties allow, it is linear, as `ranking.auc` has it. None if a class has no weight.
    """
    order = np.argsort(-p, kind="stable")
    last_of_tie = np.flatnonzero(np.append(p[order][1:] != p[order][:-1], True)) if p.size else np.zeros(0, np.int64)
    w = w[order].astype(np.float64)
    positive = np.cumsum(np.where(y[order] > 0, w, 0.0))[last_of_tie]
    negative = np.cumsum(np.where(y[order] > 0, 0.0, w))[last_of_tie]
    if not p.size or not positive[-1] or not negative[-1]:
        return None
    false, true = np.append(0.0, negative / negative[-1]), np.append(0.0, positive / positive[-1])
    if false.size <= points:
        return Roc(false, true)
    at = np.linspace(0, 1, points)
    return Roc(at, np.append(np.interp(at[:-1], false, true), 1.0))


def calibration_curve(p: np.ndarray, y: np.ndarray, w: np.ndarray, bins: int = 20) -> Calibration | None:
    """Mean label over mean prediction, in quantiles of the predictions of equal weight. None without weight."""
    order = np.argsort(p, kind="stable")
    w = w[order].astype(np.float64)
    if not w.any():
        return None
    middle = np.cumsum(w) - w / 2
    bin_of = np.minimum((middle * bins / w.sum()).astype(np.int64), bins - 1)
    weight, prediction, label = (
        np.bincount(bin_of, w * values, bins) for values in (np.ones_like(w), p[order], y[order])
    )
    filled = weight > 0
    return Calibration(prediction[filled] / weight[filled], label[filled] / weight[filled], weight[filled])
