"""Poisson bootstrap over clusters: confidence intervals of every metric, and of the difference of two predictors.

Rows of one user (or request) are not independent, so users are resampled, not rows: in a replicate each cluster counts
K times, K ~ Poisson(1), independently (Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams). A
replicate is a reweighting of the rows. What is a ratio of weighted sums is computed from the sums of each cluster; AUC,
GAUC and ECE, which depend on the order of rows, exactly, on rows that are sorted once.

Shapes: n rows, C clusters, R replicates, S sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tt_jax.metrics import probability
from tt_jax.metrics.ranking import SortedRows

INTERVALS = ("auc", "gauc", "logloss", "ne", "calibration", "ece", "kl", "logmae")
LEVEL = 0.95
NO_CLUSTER = -1  # a missing id, as the encoder writes it in `keys`
_DRAWS_AT_ONCE = 1 << 22
_DEFINED = 0.9  # share of the replicates in which a metric must be defined for its interval to be given

Interval = list[float]


def metric_intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    users: np.ndarray | None,
    clusters: np.ndarray,
    *,
    soft: bool,
    replicates: int,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """95 % intervals `[low, high]` of the metrics of one task.

    They are quantiles of the replicates. The calibration error is the exception: noise alone makes it larger, in a
    replicate twice, so its interval is the pivotal one, `2 estimate - quantiles`, cut off at 0; it takes away most of
    that bias, not all: of a calibrated predictor it is still above 0.

    Args:
      probabilities, labels, weights, users, soft: as for `tt_jax.metrics.task_metrics`.
      clusters: int64 `[n]`, what is resampled; a row of `NO_CLUSTER` is a cluster of its own.
      replicates: R, at least 1.
      seed: of the draws: the same arguments give the same intervals.

    Returns the keys `INTERVALS`; None where the metric is undefined on the rows, or in a tenth of the replicates.
    """
    labelled = ~np.isnan(labels)
    rows = _Rows(labels[labelled], weights[labelled], None if users is None else users[labelled], soft)
    return _intervals([_Predictor(rows, probabilities[labelled])], clusters[labelled], replicates, seed)


def difference_intervals(
    a: np.ndarray,
    b: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    users: np.ndarray | None,
    clusters: np.ndarray,
    *,
    soft: bool,
    replicates: int,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """95 % intervals of metric(a) - metric(b), of two predictors `[n]` of the same rows: both see the same draws.

    What the rows have in common cancels, so they are far narrower than the difference of two intervals. Of the
    calibration error it is the pivotal interval. Arguments and result are otherwise as of `metric_intervals`.
    """
    labelled = ~np.isnan(labels)
    rows = _Rows(labels[labelled], weights[labelled], None if users is None else users[labelled], soft)
    return _intervals([_Predictor(rows, p[labelled]) for p in (a, b)], clusters[labelled], replicates, seed)


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


class _Rows:
    """What the predictors have in common."""

    def __init__(self, labels: np.ndarray, weights: np.ndarray, users: np.ndarray | None, soft: bool) -> None:
        self.labels, self.weights, self.users, self.soft = labels, weights.astype(np.float64), users, soft
        self.ranked = not soft or bool(((labels == 0) | (labels == 1)).all())


class _Predictor:
    """A predictor's rows, sorted and summed as far as no draw is needed."""

    def __init__(self, rows: _Rows, p: np.ndarray) -> None:
        self.rows, y, w = rows, rows.labels.astype(np.float64), rows.weights
        self.by_score = SortedRows.of(p, rows.labels) if rows.ranked else None
        self.by_user = SortedRows.of(p, rows.labels, rows.users) if rows.ranked and rows.users is not None else None
        self.order, self.tie_starts = probability.tied_predictions(p)
        self.gap = w * (p.astype(np.float64) - y)
        parts = [np.ones(p.size), y, p.astype(np.float64), probability.row_losses(p, rows.labels)]
        if rows.soft:
            parts += [probability.binary_entropy(y), probability.row_log_errors(p, rows.labels)]
        self.parts = [w * part for part in parts]

    def cluster_sums(self, code: np.ndarray, count: int) -> np.ndarray:
        """float64 `[C, S]`."""
        return np.stack([np.bincount(code, part, count) for part in self.parts], axis=1)

    def ratios(self, sums_RS: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics `[R]` of the replicates' sums; NaN where one is undefined."""
        weight, label, prediction, loss, *soft = sums_RS.T
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_loss, constant = loss / weight, probability.binary_entropy(label / weight)
            found = {
                "logloss": mean_loss,
                "ne": np.where(constant > 0, mean_loss / constant, np.nan),
                "calibration": np.where(label > 0, prediction / label, np.nan),
            }
            if soft:
                found |= {"kl": np.maximum(0.0, (loss - soft[0]) / weight), "logmae": soft[1] / weight}
        return found

    def ordered(self, times: np.ndarray) -> dict[str, float]:
        """Metrics of one replicate that need the order of rows; `times` float64 `[n]`, how often each row counts."""
        w = self.rows.weights * times
        found = {"ece": self._ece(w, times) if w.any() else np.nan}
        for name, rows in (("auc", self.by_score), ("gauc", self.by_user)):
            value = None if rows is None else rows.auc(w)
            found[name] = np.nan if value is None else value
        return found

    def _ece(self, w: np.ndarray, times: np.ndarray) -> float:
        weight, gap = w[self.order], (self.gap * times)[self.order]
        if self.tie_starts.size < weight.size:
            weight, gap = np.add.reduceat(weight, self.tie_starts), np.add.reduceat(gap, self.tie_starts)
        return probability.binned_calibration_error(weight, gap)


def _intervals(
    predictors: list[_Predictor], clusters: np.ndarray, replicates: int, seed: int
) -> dict[str, Interval | None]:
    if replicates < 1:
        raise ValueError(f"expected at least one replicate, got {replicates}")
    if not clusters.size:
        return dict.fromkeys(INTERVALS)
    found: list[dict[str, np.ndarray]] = []
    sums = None
    for code, draws_rC in cluster_draws(clusters, replicates, seed):
        sums = sums or [p.cluster_sums(code, draws_rC.shape[1]) for p in predictors]
        found.append(_differences([_replicates(p, s, code, draws_rC) for p, s in zip(predictors, sums, strict=True)]))
    one = np.ones((1, clusters.size))
    own = np.arange(clusters.size)
    estimate = _differences([_replicates(p, p.cluster_sums(own, clusters.size), own, one) for p in predictors])
    out: dict[str, Interval | None] = dict.fromkeys(INTERVALS)
    for name in estimate:
        values = np.concatenate([part[name] for part in found])
        out[name] = _interval(name, float(estimate[name][0]), values, single=len(predictors) == 1)
    return out


def _replicates(
    predictor: _Predictor, sums_CS: np.ndarray, code: np.ndarray, draws_rC: np.ndarray
) -> dict[str, np.ndarray]:
    found = predictor.ratios(draws_rC @ sums_CS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter in the long operations
        ordered = list(pool.map(lambda draws_C: predictor.ordered(draws_C[code]), draws_rC))
    return found | {name: np.array([one[name] for one in ordered]) for name in ordered[0]}


def _differences(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    first, *others = found
    return {name: first[name] - others[0][name] for name in first} if others else first


def _interval(name: str, estimate: float, values: np.ndarray, *, single: bool) -> Interval | None:
    defined = values[~np.isnan(values)]
    if np.isnan(estimate) or defined.size < _DEFINED * values.size:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    if name == "ece":
        low, high = 2 * estimate - high, 2 * estimate - low
        return [max(0.0, low), max(0.0, high)] if single else [low, high]
    return [low, high]
