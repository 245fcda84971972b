"""The streamed evaluation state and its report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.paths import ROOT
from tt_jax.metrics import METRICS, EvalState, task_metrics
from tt_jax.metrics.task_rows import DEFINITIONS

TASKS = {"click": "hard", "save": "hard", "teacher": "soft"}
SCENARIOS = ("standard", "shopping", "closed")


def logged(seed: int, n: int = 1500):
    """Arguments of `EvalState.append`: three tasks, partly unlabelled, scenarios 0 and 1 only."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, (n, 3)).astype(np.float32)
    y = (rng.random((n, 3)) < p).astype(np.float32)
    y[:, 2] = rng.random(n)
    y[rng.random((n, 3)) < 0.3] = np.nan
    w = rng.exponential(1, (n, 3)).astype(np.float32)
    return p, y, w, rng.integers(0, 2, n).astype(np.int32), rng.integers(0, 40, n)


def collect(data, sizes) -> EvalState:
    state, start = EvalState(TASKS, SCENARIOS), 0
    for size in sizes:
        state.append(*(column[start : start + size] for column in data))
        start += size
    return state


def test_report_of_streamed_batches_is_that_of_the_whole():
    p, y, w, scenario, users = data = logged(0)
    report = collect(data, [1000, 0, 1, 499]).report()
    assert report["rows"] == 1500
    assert list(report["overall"]) == list(TASKS)
    assert list(report["scenarios"]) == list(SCENARIOS)
    for t, (task, kind) in enumerate(TASKS.items()):
        whole = task_metrics(p[:, t], y[:, t], w[:, t], users, soft=kind == "soft")
        assert report["overall"][task] == whole
        for s, name in enumerate(SCENARIOS[:2]):
            r = scenario == s
            part = task_metrics(p[r, t], y[r, t], w[r, t], users[r], soft=kind == "soft")
            assert report["scenarios"][name][task] == part
            assert part["rows"] == np.count_nonzero(~np.isnan(y[r, t])) > 0
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_scenario_without_rows_and_an_evaluation_without_rows_are_reported():
    nothing = dict.fromkeys(METRICS) | {"rows": 0, "positives": 0}
    assert collect(logged(1), [1500]).report()["scenarios"]["closed"] == dict.fromkeys(TASKS, nothing)
    report = EvalState(TASKS, SCENARIOS).report()
    assert report["rows"] == 0
    assert report["overall"] == report["scenarios"]["standard"] == dict.fromkeys(TASKS, nothing)


def test_tasks_do_not_leak_into_each_other():
    p, y, w, scenario, users = logged(2)
    before = collect((p, y, w, scenario, users), [1500]).report()["overall"]
    for t, task in enumerate(("click", "save")):
        seen = ~np.isnan(y[:, t])
        expected = roc_auc_score(y[seen, t], p[seen, t], sample_weight=w[seen, t])
        assert before[task]["auc"] == pytest.approx(expected, abs=1e-6)
    assert abs(before["click"]["auc"] - before["save"]["auc"]) > 1e-3
    changed = y.copy()
    changed[::2, 1] = np.nan
    changed[1::2, 1] = 1 - changed[1::2, 1]
    after = collect((p, changed, w, scenario, users), [1500]).report()["overall"]
    assert after["click"] == before["click"]
    assert after["teacher"] == before["teacher"]
    assert after["save"]["rows"] < before["save"]["rows"]
    assert after["save"]["auc"] < 0.5 < before["save"]["auc"]


def test_merged_states_equal_one():
    data = logged(3)
    left, right = collect(data, [700]), EvalState(TASKS, SCENARIOS)
    right.append(*(column[700:] for column in data))
    left.merge(right)
    assert left.report() == collect(data, [1500]).report()
    with pytest.raises(ValueError, match="cannot merge"):
        left.merge(EvalState({"click": "hard"}, SCENARIOS))


def test_state_owns_its_rows():
    data = logged(4)
    state = collect(data, [1500])
    before = state.report()
    data[0][:] = 0.5
    assert state.report() == before


def test_logs_without_users_have_no_gauc():
    p, y, w, scenario, users = logged(5)
    state = EvalState(TASKS, SCENARIOS)
    state.append(p, y, w, scenario)
    assert state.report()["overall"]["click"]["gauc"] is None
    assert state.report()["overall"]["click"]["auc"] is not None
    with pytest.raises(ValueError, match="users"):
        state.append(p, y, w, scenario, users)
    with pytest.raises(ValueError, match="users"):
        state.merge(collect((p, y, w, scenario, users), [1500]))


def test_bad_rows_are_named_by_task_and_row():
    p, y, w, scenario, users = logged(6)
    state = collect((p, y, w, scenario, users), [1500])
    bad = y.copy()
    bad[3, 1] = 0.25
    with pytest.raises(ValueError, match=r"task 'save': label of row 1503 is 0\.25"):
        state.append(p, bad, w, scenario, users)
    with pytest.raises(ValueError, match=r"scenario of row 1500 is 3; expected 0\.\.2"):
        state.append(p, y, w, np.full(1500, 3), users)
    with pytest.raises(ValueError, match=r"labels: expected shape \(1500, 3\)"):
        state.append(p, y[:, :1], w, scenario, users)
    assert state.rows == 1500


def test_the_definitions_are_those_of_the_page():
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for name, meaning in DEFINITIONS.items():
        assert f"| `{name}` | {meaning} |" in page
