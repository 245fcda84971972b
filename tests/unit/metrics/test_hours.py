"""Losses by hour of the log, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tt_jax.metrics.hours import Hours, hours_of


def test_hours_of_times_in_any_unit() -> None:
    second = 1_700_000_000
    times = np.array([second, second * 1000, second * 10**6, second * 10**9, 20231114, -1], np.int64)
    assert hours_of(times).tolist() == [second // 3600] * 4 + [-1] * 2


def test_hours_are_summed_by_scenario_and_task() -> None:
    rng = np.random.default_rng(0)
    p, w = rng.uniform(0.1, 0.9, (40, 1)).astype(np.float32), rng.uniform(0, 2, (40, 1)).astype(np.float32)
    y, scenario, time = (
        (rng.random((40, 1)) < 0.5).astype(np.float32),
        rng.integers(0, 2, 40),
        3600 * np.arange(40) // 20,
    )
    y[3] = np.nan
    hours = Hours(("click",), ("a", "b"))
    for part in (slice(0, 13), slice(13, 40)):
        hours.append(p[part], y[part], w[part], scenario[part], time[part])
    found = hours.report()
    assert [h["hour"] for h in found] == ["1970-01-01T00Z", "1970-01-01T01Z"]
    kept = (time // 3600 == 0) & (scenario == 1) & ~np.isnan(y[:, 0])
    loss = -np.where(y[kept] == 1, np.log(p[kept].astype(float)), np.log1p(-p[kept].astype(float)))
    expected = {
        "rows": kept.sum(), "logloss": np.average(loss, weights=w[kept]), "rate": np.average(y[kept], weights=w[kept]),
        "calibration": (w[kept] * p[kept]).sum() / (w[kept] * y[kept]).sum(),
    }  # fmt: skip
    assert found[0]["scenarios"]["b"]["click"] == pytest.approx(expected, rel=1e-6)
