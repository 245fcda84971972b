"""Metrics as running sums: of training on the device, fetched when they are logged; by hour of the log on the host."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tt_jax.losses import masked_sum
from tt_jax.metrics.probability import row_losses

NO_HOUR = -1
# Times as integers, by size: dates as 20240131, which have no hour, else seconds, milliseconds, microseconds or
# nanoseconds since 1970.
_DATES = (19_700_101, 21_001_231)
_UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6))
_NANOSECONDS = 10**9


class TaskSums(NamedTuple):
    """Weighted sums over the labelled rows of each task, float32 `[T]`: a pytree that is merged by addition.

    Start again from `zeros` after each log: float32 sums of millions of batches would lose their last digits.
    """

    loss_T: jax.Array
    weight_T: jax.Array
    label_T: jax.Array
    probability_T: jax.Array


def zeros(tasks: int) -> TaskSums:
    """The sums of no rows, of `tasks` tasks. Four buffers, so that the state can be donated."""
    return TaskSums(*(jnp.zeros(tasks, jnp.float32) for _ in TaskSums._fields))


def update(
    state: TaskSums, losses_BT: jax.Array, logits_BT: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array
) -> TaskSums:
    """The state with one more batch, all `[B, T]`; losses as of `losses.cross_entropy`."""
    loss_T, weight_T = masked_sum(losses_BT, labels_BT, weights_BT)
    label_T, _ = masked_sum(labels_BT, labels_BT, weights_BT)
    probability_T, _ = masked_sum(jax.nn.sigmoid(logits_BT.astype(jnp.float32)), labels_BT, weights_BT)
    return merge(state, TaskSums(loss_T, weight_T, label_T, probability_T))


def merge(a: TaskSums, b: TaskSums) -> TaskSums:
    """The sums over the rows of both."""
    return jax.tree.map(jnp.add, a, b)


def compute(state: TaskSums, tasks: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Task -> `loss` (weighted mean) and `calibration` (sum p / sum y), None where undefined. Waits for the device."""
    of_tasks = zip(tasks, *(sums_T.tolist() for sums_T in jax.device_get(state)), strict=True)
    return {
        task: {"loss": _ratio(loss, weight), "calibration": _ratio(probability, label)}
        for task, loss, weight, label, probability in of_tasks
    }


# ---- by hour of the log ----------------------------------------------------------------------------------------------


def hours_of(time: np.ndarray) -> np.ndarray:
    """Hours since 1970, int64 `[n]`, of times in any of the units; `NO_HOUR` for a date, or where there is no time."""
    unit = np.select([time < limit for limit, _ in _UNITS], [unit for _, unit in _UNITS], _NANOSECONDS)
    has_none = (time < 0) | ((time >= _DATES[0]) & (time <= _DATES[1]))
    return np.where(has_none, NO_HOUR, time // (3600 * unit))


class Hours:
    """Rows of an evaluation, summed by hour, scenario and task.

    It is no `EvalRows`: it keeps sums, so that its memory grows with the hours of a log and not with its rows.
    """

    def __init__(self, tasks: Sequence[str], scenarios: Sequence[str]) -> None:
        self.tasks, self.scenarios = tuple(tasks), tuple(scenarios)
        self._sums: dict[int, np.ndarray] = {}  # hour -> float64 [S, T, (rows, weight, loss, label, probability)]

    def append(
        self,
        probabilities_NT: np.ndarray,
        labels_NT: np.ndarray,
        weights_NT: np.ndarray,
        scenario_N: np.ndarray,
        time_N: np.ndarray,
    ) -> None:
        """Adds N rows: `scenario_N` is int, an index into `scenarios`; times are int64, in any unit of `hours_of`."""
        hours, which = np.unique(hours_of(time_N), return_inverse=True)
        cells = len(hours) * len(self.scenarios)
        cell = which * len(self.scenarios) + scenario_N
        found = np.zeros((cells, len(self.tasks), 5))
        for t in range(len(self.tasks)):
            labelled = ~np.isnan(labels_NT[:, t])
            p, y, w = (a[labelled, t].astype(np.float64) for a in (probabilities_NT, labels_NT, weights_NT))
            for i, values in enumerate((np.ones_like(w), w, w * row_losses(p, y), w * y, w * p)):
                found[:, t, i] = np.bincount(cell[labelled], values, cells)
        for hour, sums in zip(hours.tolist(), found.reshape(len(hours), len(self.scenarios), -1, 5), strict=True):
            self._sums[hour] = self._sums.get(hour, 0.0) + sums

    def report(self) -> list[dict[str, Any]]:
        """By hour, in order: `{"hour": "2023-11-14T22Z", "overall": {task: figures}, "scenarios": {name: ...}}`.

        `hour` is None for rows without one, which come first. Figures: `rows` with a label; `logloss`, `rate` (the mean
        label) and `calibration` (sum p / sum y), weighted, None where undefined.
        """
        return [
            {
                "hour": None if hour == NO_HOUR else _name_of(hour),
                "overall": self._figures(sums.sum(0)),
                "scenarios": {s: self._figures(sums[i]) for i, s in enumerate(self.scenarios)},
            }
            for hour, sums in sorted(self._sums.items())
        ]

    def _figures(self, sums_T: np.ndarray) -> dict[str, dict[str, float | None]]:
        return {
            task: {
                "rows": int(rows),
                "logloss": _ratio(loss, weight),
                "rate": _ratio(label, weight),
                "calibration": _ratio(probability, label),
            }
            for task, (rows, weight, loss, label, probability) in zip(self.tasks, sums_T.tolist(), strict=True)
        }


def _name_of(hour: int) -> str:
    return f"{datetime.datetime.fromtimestamp(3600 * hour, datetime.UTC):%Y-%m-%dT%HZ}"


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
