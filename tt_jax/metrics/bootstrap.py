"""Poisson bootstrap over clusters: confidence intervals of every metric, and of the difference of two predictors.

Rows of one user (or request) are not independent, so users are resampled, not rows: in a replicate each cluster counts
K times, K ~ Poisson(1), independently (Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams). A
replicate is a reweighting of the rows. What is a ratio of weighted sums is computed from the sums of each cluster; AUC
and GAUC, which depend on the order of rows, exactly, on rows that are sorted once.

ECE has no interval. It adds up absolute values, so noise alone makes it larger, in a replicate twice, and its sampling
distribution changes its shape where a bin is calibrated: quantiles of replicates, as they are or mirrored at the
estimate, covered the truth in 85 % and less of simulated worlds (`tests/unit/metrics/test_coverage.py`). Neither has a
difference of two ECEs. `calibration`, sum p / sum y, has an interval that holds.

Shapes: n labelled rows, C clusters, R replicates, S sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tt_jax.metrics.table import with_interval
from tt_jax.metrics.task_rows import TaskRows

LEVEL = 0.95
NO_CLUSTER = -1  # a missing id, as the encoder writes it in `keys`
_DRAWS_AT_ONCE = 1 << 22
_DEFINED = 0.9  # share of the replicates in which a metric must be defined for its interval to be given

Interval = list[float]


def metric_intervals(
    rows: TaskRows, clusters: np.ndarray, *, replicates: int, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % intervals `[low, high]` of the metrics of one task.

    They are quantiles of the replicates.

    Args:
      clusters: int64 `[rows given]`, what is resampled; a row of `NO_CLUSTER` is a cluster of its own.
      replicates: R, at least 1.
      seed: of the draws: the same arguments give the same intervals.

    Returns the keys of `table.with_interval`; None where the metric is undefined on the rows, or in a tenth of the
    replicates.
    """
    found, estimate = replicate_metrics(rows, clusters, replicates=replicates, seed=seed), rows.metrics()
    return {name: None if estimate[name] is None else interval(found[name]) for name in with_interval()}


def difference_intervals(
    a: TaskRows, b: TaskRows, clusters: np.ndarray, *, replicates: int, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % intervals of metric(a) - metric(b), of two predictors of the same rows: both see the same draws.

    What the rows have in common cancels, so they are far narrower than the difference of two intervals.

    Args:
      a, b: the same rows with the predictions of each.
      clusters, replicates, seed: as of `metric_intervals`: int64 `[rows given]`, R, and a number.

    Returns metric -> `[low, high]`; None where either metric is undefined, or in a tenth of the replicates.
    """
    of_a, of_b = (replicate_metrics(rows, clusters, replicates=replicates, seed=seed) for rows in (a, b))
    estimates = (a.metrics(), b.metrics())
    defined = {name: all(found[name] is not None for found in estimates) for name in with_interval()}
    return {name: interval(of_a[name] - of_b[name]) if defined[name] else None for name in with_interval()}


def replicate_metrics(rows: TaskRows, clusters: np.ndarray, *, replicates: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The metrics of `table.with_interval` in each replicate, float64 `[R]`, NaN where one is undefined.

    The draws depend on seed and clusters alone, so replicates of two predictors of the same rows are pairs. Arguments
    as of `metric_intervals`.
    """
    if replicates < 1:
        raise ValueError(f"expected at least one replicate, got {replicates}")
    found: list[dict[str, np.ndarray]] = []
    in_order_given, code, sums_CS = np.argsort(rows.row), np.empty(rows.row.size, np.int64), None
    for code_given, draws_rC in cluster_draws(clusters[rows.row[in_order_given]], replicates, seed):
        if sums_CS is None:
            code[in_order_given] = code_given
            terms = rows.terms.values()
            sums_CS = np.stack([np.bincount(code, term, draws_rC.shape[1]) for term in terms], axis=1)
        sums_rS = draws_rC @ sums_CS
        sums = dict(zip(rows.terms, sums_rS.T, strict=True))
        found.append(rows.ratios(sums) | _ordered(rows, code, draws_rC))
    return {name: np.concatenate([part[name] for part in found]) for name in with_interval()}


def _ordered(rows: TaskRows, code: np.ndarray, draws_rC: np.ndarray) -> dict[str, np.ndarray]:
    """Those of the metrics that need the order of rows, `[r]`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter in the long operations
        found = list(pool.map(lambda draws_C: rows.ordered(draws_C[code]), draws_rC))
    return {name: np.array([one[name] for one in found], np.float64) for name in found[0]}  # None is NaN


def interval(values: np.ndarray) -> Interval | None:
    """The middle 95 % of replicates `[R]`; None if over a tenth of them are undefined.

    The ends are the order statistics 0.025 (R + 1) and 0.975 (R + 1): NumPy's default lies within them, and loses a
    hundredth of the coverage at R = 200.
    """
    defined = values[np.isfinite(values)]
    if defined.size < max(1, _DEFINED * values.size):
        return None
    return np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="weibull").tolist()


def cluster_draws(clusters: np.ndarray, replicates: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`(code, draws)`: the cluster of each row, 0..C-1 `[n]`, and how often each counts, float64 `[r, C]`.

    The draws come some replicates at a time, R in all.
    """
    known = clusters != NO_CLUSTER
    distinct, found = np.unique(clusters[known], return_inverse=True)
    code = np.empty(clusters.size, np.int64)
    code[known] = found
    code[~known] = distinct.size + np.arange(clusters.size - found.size)
    count = distinct.size + clusters.size - found.size
    rng, at_once = np.random.default_rng(seed), max(1, _DRAWS_AT_ONCE // max(1, count))
    for start in range(0, replicates, at_once):
        yield code, rng.poisson(1.0, (min(at_once, replicates - start), count)).astype(np.float64)
