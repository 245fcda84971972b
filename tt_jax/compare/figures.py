"""Figures of one row of a comparison on some rows of a split: metrics over seeds, and differences to the reference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_jax.metrics import loss_metrics, probability, task_metrics
from tt_jax.metrics.bootstrap import LEVEL, cluster_draws
from tt_jax.metrics.ranking import SortedRows

Figure = dict[str, Any]


def over_seeds(values: Sequence[float | None]) -> Figure:
    """`mean` and `spread` (sample standard deviation, None of one seed) of a figure, and its value by seed."""
    if any(v is None for v in values):
        return {"mean": None, "spread": None, "seeds": list(values)}
    known = [float(v) for v in values if v is not None]
    spread = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "spread": spread, "seeds": known}


class TaskRows:
    """The labelled rows of a task: scores the predictions of each row of a comparison on them, by the same draws.

    Args:
      labels, weights, users, clusters: `[n]`, as in `tt_jax.metrics.bootstrap.metric_intervals`.
      soft: whether the labels are a teacher's probabilities.
      replicates: R of the bootstrap.
    """

    def __init__(
        self,
        labels: np.ndarray,
        weights: np.ndarray,
        users: np.ndarray | None,
        clusters: np.ndarray,
        *,
        soft: bool,
        replicates: int,
    ) -> None:
        self.rows = np.flatnonzero(~np.isnan(labels))
        self.labels, self.soft = labels[self.rows], soft
        self.weights = weights[self.rows].astype(np.float64)
        self.users = None if users is None else users[self.rows]
        self.ranked = not soft or bool(((self.labels == 0) | (self.labels == 1)).all())
        parts = list(cluster_draws(clusters[self.rows], replicates, seed=0)) if self.rows.size else []
        self._code = parts[0][0] if parts else np.zeros(0, np.int64)
        self._draws_RC = np.concatenate([draws for _, draws in parts]) if parts else np.zeros((0, 0))

    def metrics(self, probabilities_Sn: Sequence[np.ndarray]) -> dict[str, Figure]:
        """Every metric over seeds, of predictions for all rows of the split part, labelled or not."""
        found = [
            task_metrics(p[self.rows], self.labels, self.weights.astype(np.float32), self.users, soft=self.soft)
            for p in probabilities_Sn
        ]
        return {name: over_seeds([f[name] for f in found]) for name in found[0]}

    def losses(self, probabilities_Sn: Sequence[np.ndarray]) -> dict[str, Figure]:
        """`loss_metrics` over seeds, of the same predictions; empty without a row that counts."""
        if not self.weights.any():
            return {}
        weights = self.weights.astype(np.float32)
        found = [loss_metrics(p[self.rows], self.labels, weights, soft=self.soft) for p in probabilities_Sn]
        return {name: over_seeds([f[name] for f in found]) for name in found[0]}

    def replicates(self, probabilities_Sn: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Means over seeds of `logloss`, `kl` (soft labels) and `auc` (hard ones) in each replicate, `[R]`.

        NaN where one is undefined.
        """
        predicted = [p[self.rows] for p in probabilities_Sn]
        if not self.rows.size or not self.weights.any():
            return {}
        loss = np.mean([probability.row_losses(p, self.labels) for p in predicted], axis=0)
        found = {"logloss": self._mean(loss)}
        if self.soft:
            found["kl"] = found["logloss"] - self._mean(probability.binary_entropy(self.labels.astype(np.float64)))
        if self.ranked:
            found["auc"] = np.mean([self._auc(p) for p in predicted], axis=0)
        return found

    def _mean(self, values: np.ndarray) -> np.ndarray:
        count = self._draws_RC.shape[1]
        sums, weights = (np.bincount(self._code, self.weights * v, count) for v in (values, np.ones_like(values)))
        with np.errstate(invalid="ignore"):
            return (self._draws_RC @ sums) / (self._draws_RC @ weights)

    def _auc(self, p: np.ndarray) -> np.ndarray:
        ranked = SortedRows.of(p, self.labels)
        found = [ranked.auc(self.weights * draws_C[self._code]) for draws_C in self._draws_RC]
        return np.array([np.nan if value is None else value for value in found])


def differences(
    ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> dict[str, dict[str, list[float] | None]]:
    """By metric the 95 % intervals of the paired difference, `absolute` (ours - reference) and `relative` to it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: {
                "absolute": _interval(values - reference[name]),
                "relative": _interval(values / reference[name] - 1),
            }
            for name, values in ours.items()
        }


def _interval(values: np.ndarray) -> list[float] | None:
    """The middle 95 %; None if a replicate is undefined."""
    if not np.isfinite(values).all():
        return None
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
