"""The evaluation report: every metric, per task, overall and per scenario, exact over rows streamed in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tt_jax.metrics import probability, ranking

Metrics = dict[str, int | float | None]

METRICS = ("rows", "positives", "auc", "gauc", "logloss", "ne", "calibration", "ece", "kl", "logmae")


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

    Returns the keys `METRICS`: `rows` labelled rows; `positives` the sum of their labels, unweighted; `auc` and `gauc`
    see `ranking`; `logloss` in nats; `ne` log loss / that of the best constant; `calibration` sum p / sum y; `ece` see
    `expected_calibration_error`; `kl` log loss - the teacher's entropy; `logmae` mean |ln p - ln teacher|. All but the
    first two are weighted. Raises ValueError on a value outside its range, in a row that has a label.
    """
    _check_values(probabilities, labels, weights, soft, "", 0)
    labelled = ~np.isnan(labels)
    p, y, w = probabilities[labelled], labels[labelled], weights[labelled]
    metrics: Metrics = dict.fromkeys(METRICS)
    positives = float(y.sum(dtype=np.float64))
    metrics |= {"rows": int(y.size), "positives": positives if soft else int(positives)}
    if not w.any():
        return metrics
    if not soft or bool(((y == 0) | (y == 1)).all()):
        metrics["auc"] = ranking.auc(p, y, w)
        metrics["gauc"] = None if users is None else ranking.gauc(p, y, w, users[labelled])
    return metrics | loss_metrics(p, y, w, soft=soft)


def loss_metrics(p: np.ndarray, y: np.ndarray, w: np.ndarray, *, soft: bool) -> Metrics:
    """Those of `task_metrics` that do not rank, of labelled rows of which at least one has weight."""
    loss, constant = probability.log_loss(p, y, w), probability.rate_entropy(y, w)
    w64 = w.astype(np.float64)
    label_sum = float(w64 @ y)
    metrics: Metrics = {
        "logloss": loss,
        "ne": loss / constant if constant > 0 else None,
        "calibration": float(w64 @ p) / label_sum if label_sum > 0 else None,
        "ece": probability.expected_calibration_error(p, y, w),
    }
    if soft:
        metrics["kl"] = max(0.0, loss - probability.entropy(y, w))  # rounding alone takes a KL below 0
        metrics["logmae"] = probability.log_mae(p, y, w)
    return metrics


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
        _require(known, chunk["scenario"], "scenario", f"0..{len(self.scenarios) - 1}", self.rows)
        for i, (task, kind) in enumerate(self.tasks.items()):
            p, y, w = (chunk[name][:, i] for name in ("probabilities", "labels", "weights"))
            _check_values(p, y, w, kind == "soft", f"task {task!r}: ", self.rows)
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
        by_scenario = {name: self._task_metrics(data, data["scenario"] == i) for i, name in enumerate(self.scenarios)}
        return {
            "overall": self._task_metrics(data, slice(None)),
            "scenarios": by_scenario,
            "rows": self.rows,
        }

    def _task_metrics(self, data: dict[str, np.ndarray], rows: np.ndarray | slice) -> dict[str, Metrics]:
        p_NT, y_NT, w_NT = (data[name][rows] for name in ("probabilities", "labels", "weights"))
        users = data["users"][rows] if "users" in data else None
        return {
            task: task_metrics(p_NT[:, i], y_NT[:, i], w_NT[:, i], users, soft=kind == "soft")
            for i, (task, kind) in enumerate(self.tasks.items())
        }

    def _concatenated(self) -> dict[str, np.ndarray]:
        if not self._chunks:
            empty = np.zeros((0, len(self.tasks)), np.float32)
            return {"probabilities": empty, "labels": empty, "weights": empty, "scenario": np.zeros(0, np.int32)}
        return {name: np.concatenate([c[name] for c in self._chunks]) for name in self._chunks[0]}


def _check_values(p: np.ndarray, y: np.ndarray, w: np.ndarray, soft: bool, where: str, first_row: int) -> None:
    unlabelled = np.isnan(y)
    in_range = (y >= 0) & (y <= 1) if soft else (y == 0) | (y == 1)
    wants = "0..1" if soft else "0 or 1 of a hard label"
    _require(unlabelled | in_range, y, f"{where}label", f"{wants}, or NaN for none", first_row)
    _require(unlabelled | ((p >= 0) & (p <= 1)), p, f"{where}probability", "0..1", first_row)
    _require(unlabelled | (np.isfinite(w) & (w >= 0)), w, f"{where}weight", "a finite number >= 0", first_row)


def _require(ok: np.ndarray, values: np.ndarray, what: str, expected: str, first_row: int) -> None:
    if not ok.all():
        i = int(np.argmin(ok))
        raise ValueError(f"{what} of row {first_row + i} is {values[i]}; expected {expected}")
