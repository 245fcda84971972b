"""The rows that a model is judged on: predictions beside what happened, and the metrics of all of them or of parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from tt_jax.metrics.bootstrap import NO_CLUSTER, difference_intervals, metric_intervals
from tt_jax.metrics.ranking import user_codes
from tt_jax.metrics.task_rows import TaskRows, check_values
from tt_jax.schema import Schema

MOST_VALUES = 50
OTHER, MISSING = "other", "missing"
NO_VALUE = -1  # a missing key, as the encoder writes it in `keys`
TaskMetrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class EvalRows:
    """Rows of an evaluation, in stored order, as columns: N rows, H heads, T tasks, K keys.

    Attributes:
      schema: of the rows.
      scenarios: names of those that were asked for, in the order of reports; some may have no row.
      logits: float `[N, H]`, what is predicted; `[N, 0]` of rows that nothing has been predicted for yet.
      labels, weights: float32 `[N, T]`; a NaN label = none.
      scenario: int32 `[N]`, index into `Schema.scenarios`.
      keys: int64 `[N, K]`, see `Schema.key_columns`.
      query_scenario: int32 `[N]`, what `tt_jax.models.scenario.query_scenarios` says, which a calibration needs; None =
        not asked.

    Raises ValueError on columns of unequal length.
    """

    schema: Schema
    scenarios: tuple[str, ...]
    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    scenario: np.ndarray
    keys: np.ndarray
    query_scenario: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, column in self._columns().items():
            if len(column) != len(self):
                raise ValueError(f"{name}: expected {len(self)} rows, got {len(column)}")

    def __len__(self) -> int:
        return len(self.labels)

    # ---- columns -----------------------------------------------------------------------------------------------------

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float32 `[N, H]`."""
        return expit(self.logits).astype(np.float32, copy=False)

    def key(self, column: str) -> np.ndarray:
        """int64 `[N]`, of a column of `Schema.key_columns`."""
        return self.keys[:, self.schema.key_columns.index(column)]

    @property
    def requests(self) -> np.ndarray | None:
        """int64 `[N]`; None if the logs have none."""
        return self.key(self.schema.request_id) if self.schema.request_id else None

    @property
    def clusters(self) -> np.ndarray:
        """int64 `[N]`, what a bootstrap resamples, by `cluster_column`."""
        column = cluster_column(self.schema)
        return self.key(column) if column else np.full(len(self), NO_CLUSTER, np.int64)

    @cached_property
    def _users(self) -> np.ndarray | None:
        return user_codes(self.key(self.schema.user_id)) if self.schema.user_id else None

    def in_scenario(self, name: str) -> np.ndarray:
        """bool `[N]`."""
        return self.scenario == self.schema.scenarios.index(name)

    # ---- other rows --------------------------------------------------------------------------------------------------

    def select(self, chosen: np.ndarray) -> EvalRows:
        """Some of the rows, by a mask, bool `[N]`, or by their numbers."""
        return dataclasses.replace(self, **{name: column[chosen] for name, column in self._columns().items()})

    def with_logits(self, logits: np.ndarray) -> EvalRows:
        """The same rows with other predictions, float `[N, H]`."""
        other = dataclasses.replace(self, logits=logits)
        other.__dict__["_users"] = self._users  # the same: to number them takes a sort
        return other

    @staticmethod
    def concat(parts: Sequence[EvalRows]) -> EvalRows:
        """The rows of all of them, in order; at least one, of one schema."""
        columns = [part._columns() for part in parts]
        return dataclasses.replace(
            parts[0], **{name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
        )

    def _columns(self) -> dict[str, np.ndarray]:
        names = ("logits", "labels", "weights", "scenario", "keys", "query_scenario")
        return {name: column for name in names if (column := getattr(self, name)) is not None}

    # ---- metrics -----------------------------------------------------------------------------------------------------

    def task_rows(self, task: str) -> TaskRows:
        """The rows that have a label of a task, predicted by its head.

        Raises ValueError naming the task, the row and the value that is out of range.
        """
        t = self.schema.task_names.index(task)
        p, y, w = self.probabilities[:, self.schema.head_of_task[t]], self.labels[:, t], self.weights[:, t]
        soft = self.schema.tasks[t].kind == "soft"
        check_values(p, y, w, soft=soft, where=f"task {task!r}: ")
        return TaskRows.of(p, y, w, self._users, soft=soft)

    def metrics(self, replicates: int = 0) -> TaskMetrics:
        """Task -> metrics of all rows; with replicates of a bootstrap, their `intervals` among them."""
        return {task: self._metrics(self.task_rows(task), replicates) for task in self.schema.task_names}

    def report(self, replicates: int = 0) -> dict[str, Any]:
        """`{"overall": {task: metrics}, "scenarios": {name: {task: metrics}}, "rows": N}`, ready for JSON.

        Every scenario of `scenarios` is there, also without a row: `rows` and `positives` 0, the rest None. With
        replicates of a bootstrap, `intervals` are among the metrics.
        """
        overall: TaskMetrics = {}
        scenarios: dict[str, TaskMetrics] = {name: {} for name in self.scenarios}
        for task in self.schema.task_names:
            rows = self.task_rows(task)
            overall[task] = self._metrics(rows, replicates)
            for name, metrics in scenarios.items():
                metrics[task] = self._metrics(rows.part(self.in_scenario(name)), replicates)
        return {"overall": overall, "scenarios": scenarios, "rows": len(self)}

    def _metrics(self, rows: TaskRows, replicates: int) -> dict[str, Any]:
        found: dict[str, Any] = {**rows.metrics()}
        if replicates:
            found["intervals"] = metric_intervals(rows, self.clusters, replicates=replicates)
        return found

    def differences(self, reference: EvalRows, replicates: int) -> Mapping[str, Mapping[str, Any]]:
        """Task -> metric -> paired interval of its difference to that of other predictions of the same rows."""
        return {
            task: difference_intervals(
                self.task_rows(task), reference.task_rows(task), self.clusters, replicates=replicates
            )
            for task in self.schema.task_names
        }

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
        return {
            title: self.select(order[bounds[i] : bounds[i + 1]]).metrics(replicates) for i, title in enumerate(titles)
        }


def cluster_column(schema: Schema) -> str:
    """Whose rows are not independent of one another: the column of users, else of requests, else "": rows are."""
    return schema.user_id or schema.request_id
