"""The rows of an evaluation and their report, and a metric that is added to the table."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from tests.support import tiny
from tt_jax.metrics import METRICS, EvalRows, task_metrics
from tt_jax.schema import Task

TASKS = {"click": "hard", "save": "hard", "teacher": "soft"}
SCENARIOS = ("standard", "shopping", "closed")
SCHEMA = dataclasses.replace(
    tiny.SCHEMA,
    tasks=tuple(Task(name, name, kind=kind) for name, kind in TASKS.items()),  # type: ignore[arg-type]
    scenarios=SCENARIOS, request_id="", time="", slices=(),
)  # fmt: skip


def logged(seed: int, n: int = 1500):
    """Probabilities, labels and weights of three tasks, partly unlabelled; scenarios 0 and 1 only; users."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, (n, 3)).astype(np.float32)
    y = (rng.random((n, 3)) < p).astype(np.float32)
    y[:, 2] = rng.random(n)
    y[rng.random((n, 3)) < 0.3] = np.nan
    w = rng.exponential(1, (n, 3)).astype(np.float32)
    return p, y, w, rng.integers(0, 2, n).astype(np.int32), rng.integers(0, 40, n)


def rows_of(p, y, w, scenario, users) -> EvalRows:
    keys = np.stack([users, np.zeros_like(users)], axis=1)
    return EvalRows(SCHEMA, SCENARIOS, logit(p.astype(np.float64)), y, w, scenario, keys)


def test_the_report_of_parts_is_that_of_the_whole():
    p, y, w, scenario, users = data = logged(0)
    rows = rows_of(*data)
    assert (rows.probabilities == p).all()
    parts = [rows.select(np.arange(start, stop)) for start, stop in ((0, 7), (7, 900), (900, 1500))]
    report = EvalRows.concat(parts).report()
    assert report == rows.report()
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
    rows = rows_of(*logged(1))
    assert rows.report()["scenarios"]["closed"] == dict.fromkeys(TASKS, nothing)
    report = rows.select(np.zeros(1500, bool)).report()
    assert report["rows"] == 0
    assert report["overall"] == report["scenarios"]["standard"] == dict.fromkeys(TASKS, nothing)


def test_tasks_do_not_leak_into_each_other():
    p, y, w, scenario, users = logged(2)
    before = rows_of(p, y, w, scenario, users).report()["overall"]
    for t, task in enumerate(("click", "save")):
        seen = ~np.isnan(y[:, t])
        expected = roc_auc_score(y[seen, t], p[seen, t], sample_weight=w[seen, t])
        assert before[task]["auc"] == pytest.approx(expected, abs=1e-6)
    assert abs(before["click"]["auc"] - before["save"]["auc"]) > 1e-3
    changed = y.copy()
    changed[::2, 1] = np.nan
    changed[1::2, 1] = 1 - changed[1::2, 1]
    after = rows_of(p, changed, w, scenario, users).report()["overall"]
    assert after["click"] == before["click"]
    assert after["teacher"] == before["teacher"]
    assert after["save"]["rows"] < before["save"]["rows"]
    assert after["save"]["auc"] < 0.5 < before["save"]["auc"]


def test_logs_without_users_have_no_gauc():
    rows = rows_of(*logged(5))
    strangers = dataclasses.replace(rows, schema=dataclasses.replace(SCHEMA, user_id=""), keys=rows.keys[:, :1])
    assert rows.metrics()["click"]["gauc"] is not None
    assert strangers.metrics()["click"]["gauc"] is None
    assert strangers.metrics()["click"]["auc"] is not None


def test_other_predictions_of_the_same_rows():
    p, y, w, scenario, users = logged(7)
    rows, other = rows_of(p, y, w, scenario, users), p[:, ::-1]
    found = rows.with_logits(logit(other.astype(np.float64))).metrics()
    assert rows.metrics() != found == rows_of(other, y, w, scenario, users).metrics()


def test_bad_rows_are_named_by_task_and_row():
    p, y, w, scenario, users = logged(6)
    y[3, 1] = 0.25
    with pytest.raises(ValueError, match=r"task 'save': label of row 3 is 0\.25"):
        rows_of(p, y, w, scenario, users).report()
    with pytest.raises(ValueError, match=r"weights: expected 1500 rows, got 7"):
        rows_of(p, y, w[:7], scenario, users)
