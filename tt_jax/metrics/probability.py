"""Exact metrics of probabilities against hard or soft labels: log loss, entropy, calibration, curves. NumPy, float64.

In every function `p` are probabilities `[n]`, `y` labels in [0, 1] `[n]`, `w` row weights >= 0 `[n]` whose sum is
above 0; entropies and losses are in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CLIP = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm
CALIBRATION_BINS = 20  # of equal weight by prediction, of the curve and of the ECE
ROC_POINTS = 101


def log_loss(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Weighted mean cross-entropy."""
    return _mean(row_losses(p, y), w)


def row_losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row, float64 `[n]`."""
    p = _clipped(p)
    y = y.astype(np.float64)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def entropy(y: np.ndarray, w: np.ndarray) -> float:
    """Weighted mean entropy of the labels themselves: 0 for hard ones, the least log loss for a teacher's."""
    return _mean(binary_entropy(y.astype(np.float64)), w)


def row_log_errors(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|ln p - ln teacher| of each row, both clipped as for the log loss, float64 `[n]`."""
    return np.abs(np.log(_clipped(p)) - np.log(_clipped(y)))


def binned_calibration_error(weight: np.ndarray, gap: np.ndarray) -> float:
    """Expected calibration error: mean over bins of |mean prediction - mean label|, weighted by the bins' weight.

    The bins are quantiles of the predictions, of equal weight. Equal-width bins would put nearly all rows of a rare
    event into one. Rows tied in prediction share a bin, the one that holds the middle of their weight, so the figure
    does not depend on row order, and a constant predictor has the error |p - mean label|.

    Args:
      weight, gap: float64 `[G + 1]`, of rows in order of prediction: what weight, and weighted p - y, add up to before
        each of the G groups that tie, and in all.
    """
    middle = 0.5 * (weight[1:] + weight[:-1])
    bounds = np.searchsorted(middle, np.arange(1, CALIBRATION_BINS) * (weight[-1] / CALIBRATION_BINS))
    gap_at_bounds = gap[np.concatenate([[0], bounds, [middle.size]])]
    return float(np.abs(np.diff(gap_at_bounds)).sum() / weight[-1])


def _mean(values: np.ndarray, w: np.ndarray) -> float:
    return float(np.average(values, weights=w.astype(np.float64)))


def _clipped(p: np.ndarray) -> np.ndarray:
    return np.clip(p.astype(np.float64), CLIP, 1 - CLIP)


def binary_entropy(rate: np.ndarray) -> np.ndarray:
    """Entropy of a coin, of any shape, float64: -r ln r - (1 - r) ln(1 - r), with 0 ln 0 = 0."""
    inside = (rate > 0) & (rate < 1)
    r = np.where(inside, rate, 0.5)
    return np.where(inside, -r * np.log(r) - (1 - r) * np.log1p(-r), 0.0)


# ---- curves ----------------------------------------------------------------------------------------------------------


class Roc(NamedTuple):
    """Share of the negatives, and of the positives, scored at least as high as a falling threshold; from 0 to 1."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray


class Calibration(NamedTuple):
    """Mean prediction, mean label and weight of bins, by ascending prediction."""

    prediction: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def roc_curve(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> Roc | None:
    """The ROC curve at up to `ROC_POINTS` evenly spread false-positive rates, and at its ends.

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
    if false.size <= ROC_POINTS:
        return Roc(false, true)
    at = np.linspace(0, 1, ROC_POINTS)
    return Roc(at, np.append(np.interp(at[:-1], false, true), 1.0))


def calibration_curve(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> Calibration | None:
    """Mean label over mean prediction, in `CALIBRATION_BINS` quantiles of the predictions of equal weight.

    None without weight.
    """
    order = np.argsort(p, kind="stable")
    w = w[order].astype(np.float64)
    if not w.any():
        return None
    middle = np.cumsum(w) - w / 2
    bin_of = np.minimum((middle * CALIBRATION_BINS / w.sum()).astype(np.int64), CALIBRATION_BINS - 1)
    weight, prediction, label = (
        np.bincount(bin_of, w * values, CALIBRATION_BINS) for values in (np.ones_like(w), p[order], y[order])
    )
    filled = weight > 0
    return Calibration(prediction[filled] / weight[filled], label[filled] / weight[filled], weight[filled])
