"""Exact metrics of probabilities against hard or soft labels: log loss, entropy, calibration. NumPy, float64 results.

In every function `p` are probabilities `[n]`, `y` labels in [0, 1] `[n]`, `w` row weights >= 0 `[n]` whose sum is
above 0; entropies and losses are in nats.
"""

from __future__ import annotations

import numpy as np

CLIP = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm
ECE_BINS = 20


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)) in float32, of any shape, without overflow."""
    z = np.asarray(logits, np.float32)
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, np.float32(1), e) / (np.float32(1) + e)


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


def binned_calibration_error(weight: np.ndarray, gap: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean over bins of |mean prediction - mean label|, weighted by the bins' weight.

    The bins are quantiles of the predictions, of equal weight. Equal-width bins would put nearly all rows of a rare
    event into one. Rows tied in prediction share a bin, the one that holds the middle of their weight, so the figure
    does not depend on row order, and a constant predictor has the error |p - mean label|.

    Args:
      weight, gap: float64 `[G + 1]`, of rows in order of prediction: what weight, and weighted p - y, add up to before
        each of the G groups that tie, and in all.
    """
    middle = 0.5 * (weight[1:] + weight[:-1])
    bounds = np.searchsorted(middle, np.arange(1, bins) * (weight[-1] / bins))
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
