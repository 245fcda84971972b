"""The evaluation report: every metric, per task, overall and per scenario, exact over rows streamed in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tt_jax.metrics import ranking
from tt_jax.metrics.task_rows import Metrics, TaskRows, check_values, require


def task_metrics(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, users: np.ndarray | None, *, soft: bool
) -> Metrics:
    """All metrics of one task over the rows that have a label; None where one is undefined, never NaN.

    Args:
      probabilities: float32 `[n]`, in [0, 1].
      labels: float32 `[n]`, NaN = no label; 0 or 1, or any probability if `soft`.
      weights: float32 `[n]`, >= 0.
      users: int64 `[n]`, the group of a row for `gauc`, -1 where it has none; None if the logs have no user.
      soft: the labels are a teacher's probabilities, so `kl` and `logmae` are defined, and `auc` and `gauc` are not
        unless all labels happen to be 0 or 1.

    Returns the keys `METRICS`, see `task_rows.DEFINITIONS`: `auc` and `gauc` as in `ranking`; `ne` is the normalized
    entropy of He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook, section 3; `ece` as in
    `probability.binned_calibration_error`. All but the counts are weighted. Raises ValueError on a value outside its
    range, in a row that has a label.
    """
    check_values(probabilities, labels, weights, soft=soft)
    codes = None if users is None else ranking.user_codes(users)
    return TaskRows.of(probabilities, labels, weights, codes, soft=soft).metrics()


class EvalState:
    """Rows of an evaluation, streamed in batches and kept on the host: 12 bytes per row and task, and 12 per row.

    Exact ranking metrics need every row, so the state is the rows themselves; states of parts of the data `merge`.

    Args:
      tasks: name -> `hard` or `soft` (`schema.Task.kind`), in the order of the columns.
      scenarios: names, in the order of the scenario index.
    """

    def __init__(self, tasks: Mapping[str, str], scenarios: Sequence[str]) -> None:
        self.tasks = dict(tasks)
        self.scenarios = tuple(scenarios)
        self.rows = 0
        self._chunks: list[dict[str, np.ndarray]] = []

    def append(
        self,
        probabilities_NT: Any,
        labels_NT: Any,
        weights_NT: Any,
        scenario_N: Any,
        users_N: Any | None = None,
    ) -> None:
        """Adds N rows. Rows that only pad a batch are the caller's to cut off.

        Args:
          probabilities_NT, labels_NT, weights_NT: `[N, T]`, as in `task_metrics`, stored as float32.
          scenario_N: `[N]` int, index into `scenarios`.
          users_N: `[N]` int64; None, on every call, if the logs have no user.

        Raises ValueError naming the task, the row (counted over all calls) and the value that is out of range.
        """
        n, t = len(scenario_N), len(self.tasks)
        # Copies: a host view of a device buffer changes under us once that buffer is donated.
        chunk = {
            "probabilities": np.array(probabilities_NT, np.float32),
            "labels": np.array(labels_NT, np.float32),
            "weights": np.array(weights_NT, np.float32),
            "scenario": np.array(scenario_N, np.int32),
        }
        if users_N is not None:
            chunk["users"] = np.array(users_N, np.int64)
        for name, array in chunk.items():
            wants = (n,) if name in ("scenario", "users") else (n, t)
            if array.shape != wants:
                raise ValueError(f"{name}: expected shape {wants} ([rows, tasks] or [rows]), got {array.shape}")
        if self._chunks and self._chunks[0].keys() != chunk.keys():
            raise ValueError("users: expected on every call or on none")
        known = (chunk["scenario"] >= 0) & (chunk["scenario"] < len(self.scenarios))
        require(known, chunk["scenario"], "scenario", f"0..{len(self.scenarios) - 1}", self.rows)
        for i, (task, kind) in enumerate(self.tasks.items()):
            p, y, w = (chunk[name][:, i] for name in ("probabilities", "labels", "weights"))
            check_values(p, y, w, soft=kind == "soft", where=f"task {task!r}: ", first_row=self.rows)
        self._chunks.append(chunk)
        self.rows += n

    def merge(self, other: EvalState) -> None:
        """Adds the rows of another state. Raises ValueError if its tasks or scenarios are not the same."""
        if (list(self.tasks.items()), self.scenarios) != (list(other.tasks.items()), other.scenarios):
            raise ValueError(
                f"cannot merge an evaluation of {other.tasks}, {other.scenarios} into {self.tasks}, {self.scenarios}"
            )
        if self._chunks and other._chunks and self._chunks[0].keys() != other._chunks[0].keys():
            raise ValueError("users: expected in both evaluations or in neither")
        self._chunks += other._chunks
        self.rows += other.rows

    def report(self) -> dict[str, Any]:
        """`{"overall": {task: metrics}, "scenarios": {name: {task: metrics}}, "rows": n}`, ready for JSON.

        Every scenario is there, also without a row: `rows` and `positives` 0, the rest None.
        """
        data = self._concatenated()
        users = ranking.user_codes(data["users"]) if "users" in data else None
        in_scenario = {name: data["scenario"] == i for i, name in enumerate(self.scenarios)}
        overall: dict[str, Metrics] = {}
        scenarios: dict[str, dict[str, Metrics]] = {name: {} for name in self.scenarios}
        for i, (task, kind) in enumerate(self.tasks.items()):
            p, y, w = (data[name][:, i] for name in ("probabilities", "labels", "weights"))
            rows = TaskRows.of(p, y, w, users, soft=kind == "soft")
            overall[task] = rows.metrics()
            for name, chosen in in_scenario.items():
                scenarios[name][task] = rows.part(chosen).metrics()
        return {"overall": overall, "scenarios": scenarios, "rows": self.rows}

    def _concatenated(self) -> dict[str, np.ndarray]:
        if not self._chunks:
            empty = np.zeros((0, len(self.tasks)), np.float32)
            return {"probabilities": empty, "labels": empty, "weights": empty, "scenario": np.zeros(0, np.int32)}
        return {name: np.concatenate([c[name] for c in self._chunks]) for name in self._chunks[0]}
