"""Metrics by hour of the log."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from tt_jax.metrics.probability import row_losses
from tt_jax.metrics.rows import EvalRows

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


def by_hour(rows: EvalRows) -> list[dict[str, Any]]:
    """By hour, in order: `{"hour": "2023-11-14T22Z", "overall": {task: figures}, "scenarios": {name: ...}}`.

    The schema has a time. `hour` is None for rows without one, which come first. Figures: `rows` with a label;
    `logloss`, `rate` (the mean label) and `calibration` (sum p / sum y), weighted, None where undefined.
    """
    hours, which = np.unique(hours_of(rows.key(rows.schema.time)), return_inverse=True)
    scenarios = rows.schema.scenarios
    cell, shape = which * len(scenarios) + rows.scenario, (len(hours), len(scenarios))
    sums = {task: _sums(rows, task, cell, shape) for task in rows.schema.task_names}
    return [
        {
            "hour": None if hour == NO_HOUR else _name_of(hour),
            "overall": {task: _figures(found[h].sum(axis=0)) for task, found in sums.items()},
            "scenarios": {
                name: {task: _figures(found[h, scenarios.index(name)]) for task, found in sums.items()}
                for name in rows.scenarios
            },
        }
        for h, hour in enumerate(hours.tolist())
    ]


def _sums(rows: EvalRows, task: str, cell: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float64 `[hours, scenarios, (rows, weight, loss, label, probability)]`, of the rows `[N]` of each cell."""
    t = rows.schema.task_names.index(task)
    labelled = ~np.isnan(rows.labels[:, t])
    of_task = (rows.probabilities[:, rows.schema.head_of_task[t]], rows.labels[:, t], rows.weights[:, t])
    p, y, w = (column[labelled].astype(np.float64) for column in of_task)
    columns = (np.ones_like(w), w, w * row_losses(p, y), w * y, w * p)
    return np.stack([np.bincount(cell[labelled], c, np.prod(shape)).reshape(shape) for c in columns], axis=-1)


def _figures(sums: np.ndarray) -> dict[str, float | None]:
    rows, weight, loss, label, probability = sums.tolist()
    return {
        "rows": int(rows),
        "logloss": loss / weight if weight > 0 else None,
        "rate": label / weight if weight > 0 else None,
        "calibration": probability / label if label > 0 else None,
    }


def _name_of(hour: int) -> str:
    return f"{datetime.datetime.fromtimestamp(3600 * hour, datetime.UTC):%Y-%m-%dT%HZ}"
