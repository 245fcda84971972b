"""Metrics of all rows and of parts of them, with bootstrap intervals. Arrays in, plain dicts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.metrics.bootstrap import metric_intervals
from tt_jax.metrics.report import task_metrics

MOST_VALUES = 50
OTHER, MISSING = "other", "missing"
NO_VALUE = -1  # a missing key, as the encoder writes it in `keys`
TaskMetrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Rows:
    """Predictions of N rows for T tasks.

    Attributes:
      tasks: name -> `hard` or `soft`, in the order of the columns.
      probabilities, labels, weights: float32 `[N, T]`, as in `tt_jax.metrics.task_metrics`.
      users: int64 `[N]`, for `gauc`; None if the logs have none.
      clusters: int64 `[N]`, what the bootstrap resamples.
    """

    tasks: Mapping[str, str]
    probabilities: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    users: np.ndarray | None
    clusters: np.ndarray

    def metrics(self, part: np.ndarray | slice = slice(None), replicates: int = 0) -> TaskMetrics:
        """Task -> metrics of some rows, by mask or by index; with replicates, their `intervals` among them."""
        users, clusters = None if self.users is None else self.users[part], self.clusters[part]
        p, y, w = (a[part] for a in (self.probabilities, self.labels, self.weights))
        out: TaskMetrics = {}
        for t, (task, kind) in enumerate(self.tasks.items()):
            columns, soft = (p[:, t], y[:, t], w[:, t], users), kind == "soft"
            out[task] = {**task_metrics(*columns, soft=soft)}
            if replicates:
                out[task]["intervals"] = metric_intervals(*columns, clusters, soft=soft, replicates=replicates)
        return out

    def by_value(
        self, values: np.ndarray, name_of: Callable[[int], str], replicates: int = 0
    ) -> dict[str, TaskMetrics]:
        """Metrics of the rows of each value.

        Args:
          values: int64 `[N]`; `NO_VALUE` is called `missing`.
          name_of: name of a value; values of one name are one part. Of more than `MOST_VALUES` names those with the
            fewest rows are pooled as `other`.
          replicates: of the bootstrap; 0 = no intervals.
        """
        distinct, code = np.unique(values, return_inverse=True)
        names = [MISSING if v == NO_VALUE else name_of(v) for v in distinct.tolist()]
        rows: dict[str, int] = {}
        for name, count in zip(names, np.bincount(code, minlength=distinct.size).tolist(), strict=True):
            rows[name] = rows.get(name, 0) + count
        largest = sorted(rows, key=lambda n: -rows[n])[:MOST_VALUES]
        shown = [n for n in rows if n in largest and n != OTHER]
        pooled = [n for n in rows if n not in shown]
        place = {n: i for i, n in enumerate(shown)} | dict.fromkeys(pooled, len(shown))
        part = np.array([place[n] for n in names], np.int64)[code]
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(len(shown) + 2))
        titles = [*shown, *([OTHER] if pooled else [])]
        return {n: self.metrics(order[bounds[i] : bounds[i + 1]], replicates) for i, n in enumerate(titles)}
