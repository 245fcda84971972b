"""Metrics by hour of the log, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from tests.support import tiny
from tt_jax.metrics.hours import by_hour, hours_of
from tt_jax.metrics.rows import EvalRows


def test_hours_of_times_in_any_unit() -> None:
    second = 1_700_000_000
    times = np.array([second, second * 1000, second * 10**6, second * 10**9, 20231114, -1], np.int64)
    assert hours_of(times).tolist() == [second // 3600] * 4 + [-1] * 2


def test_hours_are_told_by_scenario_and_task() -> None:
    rng, schema, shape = np.random.default_rng(0), tiny.TOLD, (40, len(tiny.TOLD.task_names))
    p, w = rng.uniform(0.1, 0.9, (40, len(schema.heads))), rng.uniform(0, 2, shape).astype(np.float32)
    y, scenario = (rng.random(shape) < 0.5).astype(np.float32), rng.integers(0, 2, 40, dtype=np.int32)
    y[3] = np.nan
    keys = np.zeros((40, len(schema.key_columns)), np.int64)
    keys[:, schema.key_columns.index("time")] = time = 3600 * np.arange(40) // 20
    rows = EvalRows(schema, ("shopping",), logit(p).astype(np.float32), y, w, scenario, keys)
    found = by_hour(rows)
    assert [h["hour"] for h in found] == ["1970-01-01T00Z", "1970-01-01T01Z"]
    assert list(found[0]["scenarios"]) == ["shopping"]
    for t, task in enumerate(schema.task_names):
        of_hour = (time // 3600 == 0) & ~np.isnan(y[:, t])
        for place, kept in (
            (found[0]["scenarios"]["shopping"], of_hour & (scenario == 1)),
            (found[0]["overall"], of_hour),
        ):
            q, z, v = p[kept, schema.head_of_task[t]], y[kept, t], w[kept, t]
            assert place[task] == pytest.approx(
                {
                    "rows": kept.sum(),
                    "logloss": np.average(-np.where(z == 1, np.log(q), np.log1p(-q)), weights=v),
                    "rate": np.average(z, weights=v),
                    "calibration": (v * q).sum() / (v * z).sum(),
                },
                rel=1e-6,
            )
