"""Figures of samples and counts: distances of distributions, bins of numbers, collisions of hashed ids."""

from __future__ import annotations

import math

import numpy as np

from tt_jax.metrics.ranking import ks_distance

BINS = 10  # of numbers, by the quantiles of the reference
TOP_VALUES = 20  # that count on their own, all others together
_SMOOTHING = 0.5  # rows added to each bin, so that an empty one gives no infinite index
_LEAK_BINS = 64


def psi(reference: np.ndarray, other: np.ndarray) -> float:
    """Population stability index of two histograms `[bins]`: sum((q - p) ln(q / p)), half a row added to each bin.

    Without any drift it is about (bins - 1) (1 / n + 1 / m) for n and m rows.
    """
    p = (reference + _SMOOTHING) / (reference.sum() + _SMOOTHING * reference.size)
    q = (other + _SMOOTHING) / (other.sum() + _SMOOTHING * other.size)
    return float(((q - p) * np.log(q / p)).sum())


def ks(a: np.ndarray, b: np.ndarray) -> float | None:
    """Kolmogorov-Smirnov distance of two samples of finite numbers, `[n]` and `[m]`; None if one is empty."""
    values, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    return ks_distance(*(np.bincount(side, minlength=values.size) for side in np.split(codes, [a.size])))


def number_bins(reference: np.ndarray) -> np.ndarray:
    """Inner edges of up to `BINS` bins with equally many of the reference, ascending and distinct."""
    return np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))


def number_histogram(edges: np.ndarray, numbers: np.ndarray, missing: float) -> np.ndarray:
    """Numbers in each bin, an edge being the last number of its bin, and last what is missing."""
    counts = np.bincount(np.searchsorted(edges, numbers, side="left"), minlength=edges.size + 1)
    return np.append(counts, missing).astype(np.float64)


def collisions(ids: int, rows: int) -> float:
    """Expected share of ids that share their row of a table with another one: 1 - (1 - 1 / rows)^(ids - 1)."""
    return 1 - (1 - 1 / rows) ** max(0, ids - 1)


def rows_for(ids: int, share: float) -> int:
    """Rows of a table in which that share of the ids is expected to share its row."""
    return max(1, math.ceil(1 / -math.expm1(math.log1p(-share) / max(1, ids - 1))))


def leak_codes(keys: np.ndarray, valid: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
    """The values of a column numbered from 0, int64 `[n]`, numbers by their quantiles; -1 where missing."""
    codes = np.full(keys.size, -1)
    if numbers is not None and np.unique(numbers[valid]).size > _LEAK_BINS:
        edges = np.unique(np.quantile(numbers[valid], np.linspace(0, 1, _LEAK_BINS + 1)[1:-1]))
        codes[valid] = np.searchsorted(edges, numbers[valid])
    else:
        codes[valid] = np.unique(keys[valid], return_inverse=True)[1]
    return codes
