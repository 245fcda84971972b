"""Log loss and calibration by hour of the log: sums, so that memory grows with the hours and not with the rows."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_jax.metrics.probability import row_losses

NO_HOUR = -1
# Times as integers, by size: dates as 20240131, which have no hour, else seconds, milliseconds, microseconds or
# nanoseconds since 1970.
_DATES = (19_700_101, 21_001_231)
_UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6))
_NANOSECONDS = 10**9


def hours_of(time: np.ndarray) -> np.ndarray:
    """Hours since 1970, int64 `[n]`, of times in any of the units; `NO_HOUR` for a date, or where there is no time."""
    unit = np.select([time < limit for limit, _ in _UNITS], [unit for _, unit in _UNITS], _NANOSECONDS)
    has_none = (time < 0) | ((time >= _DATES[0]) & (time <= _DATES[1]))
    return np.where(has_none, NO_HOUR, time // (3600 * unit))


class Hours:
    """Rows of an evaluation, summed by hour, scenario and task."""

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
        """Adds N rows; arguments as of `EvalState.append`, and int64 times."""
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
                "hour": None if hour == NO_HOUR else _name(hour),
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


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


def _name(hour: int) -> str:
    return f"{datetime.datetime.fromtimestamp(3600 * hour, datetime.UTC):%Y-%m-%dT%HZ}"
