"""Metrics of all rows and of parts of them, with bootstrap intervals. Arrays in, plain dicts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tt_jax.metrics.bootstrap import difference_intervals, metric_intervals
from tt_jax.metrics.ranking import user_codes
from tt_jax.metrics.task_rows import TaskRows, check_values

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

    Raises ValueError naming the task, the row and the value that is out of range.
    """

    tasks: Mapping[str, str]
    probabilities: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    users: np.ndarray | None
    clusters: np.ndarray

    def __post_init__(self) -> None:
        for t, (task, kind) in enumerate(self.tasks.items()):
            p, y, w = (a[:, t] for a in (self.probabilities, self.labels, self.weights))
            check_values(p, y, w, soft=kind == "soft", where=f"task {task!r}: ")

    def metrics(self, part: np.ndarray | slice = slice(None), replicates: int = 0) -> TaskMetrics:
        """Task -> metrics of some rows, by mask or by index; with replicates, their `intervals` among them."""
        out: TaskMetrics = {}
        for task, rows in self._tasks(part).items():
            out[task] = {**rows.metrics()}
            if replicates:
                out[task]["intervals"] = metric_intervals(rows, self.clusters[part], replicates=replicates)
        return out

    def differences(self, reference: Rows, replicates: int) -> TaskMetrics:
        """Task -> metric -> paired interval of its difference to that of other predictions of the same rows."""
        ours, theirs = self._tasks(), reference._tasks()
        return {t: difference_intervals(ours[t], theirs[t], self.clusters, replicates=replicates) for t in ours}

    def _tasks(self, part: np.ndarray | slice = slice(None)) -> dict[str, TaskRows]:
        users = None if self._users is None else self._users[part]
        p, y, w = (a[part] for a in (self.probabilities, self.labels, self.weights))
        return {
            task: TaskRows.of(p[:, t], y[:, t], w[:, t], users, soft=kind == "soft")
            for t, (task, kind) in enumerate(self.tasks.items())
        }

    @cached_property
    def _users(self) -> np.ndarray | None:
        return None if self.users is None else user_codes(self.users)

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
