"""The full report of a run (scenarios, slices, new and known ids, intervals, funnel) against plain computations."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tests.support import tiny
from tt_jax.cli.evaluate import calibration_table
from tt_jax.cli.main import main
from tt_jax.evaluation.predict import make_predict, predict_rows
from tt_jax.metrics import task_metrics
from tt_jax.metrics.bootstrap import metric_intervals
from tt_jax.metrics.funnel import funnel_metrics
from tt_jax.metrics.ranking import user_codes
from tt_jax.metrics.rows import MOST_VALUES, OTHER, EvalRows
from tt_jax.metrics.table import METRICS, counts, with_interval
from tt_jax.metrics.task_rows import TaskRows
from tt_jax.training.trained import evaluate, load_trained, predictions


@pytest.fixture(scope="module")
def trained(told_run: Path):
    return load_trained(told_run)


@pytest.fixture(scope="module")
def stored(told_path: Path) -> dict[str, np.ndarray]:
    """All rows of the eval split, in stored order."""
    blocks = PreparedSet.open(told_path).blocks(("eval",))
    return {name: np.concatenate([blocks[i][name] for i in range(len(blocks))]) for name in blocks[0]}


@pytest.fixture(scope="module")
def report(trained, told_path: Path):
    return evaluate(trained, str(told_path))


def expected(trained, stored, mask) -> dict[str, dict[str, float]]:
    """Metrics of some rows, predicted all at once."""
    schema = trained.record.schema
    arrays = {name: stored[name] for name in ("query_ids", "ad_ids", "query_floats", "ad_floats")}
    p = expit(np.asarray(trained.model.predict(trained.params, trained.tables, arrays)))
    users = stored["keys"][:, schema.key_columns.index("user_id")]
    return {
        t.name: task_metrics(p[mask][:, h], stored["labels"][mask, i], stored["weights"][mask, i], users[mask],
                             soft=t.kind == "soft")
        for i, (t, h) in enumerate(zip(schema.tasks, schema.head_of_task, strict=True))
    }  # fmt: skip


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for task, metrics in wanted.items():
        assert found[task] == {m: v if v is None else pytest.approx(v, rel=2e-3) for m, v in metrics.items()}


def test_it_begins_as_the_report_of_the_loop(trained, told_path: Path, report) -> None:
    prepared = PreparedSet.open(told_path)
    part = Part(prepared, ("eval",))
    short = predict_rows(make_predict(trained.model), (trained.params, trained.tables), part, (), 64).report()
    assert {name: report[name] for name in short} == short
    assert list(report) == ["overall", "scenarios", "slices", "rows", "funnel", "gates", "fingerprint"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_slices_are_the_rows_of_each_value_under_its_name(trained, stored, report) -> None:
    columns = tiny.TOLD.key_columns
    hours = stored["keys"][:, columns.index("hour")]
    assert {int(v) for v in report["slices"]["hour"]} == set(range(24))
    close(report["slices"]["hour"]["7"], expected(trained, stored, hours == 7))
    country, (_, first, _) = report["slices"]["country"], tiny.TOLD.layout["query"].ids[1]
    assert set(country) == {*tiny.COUNTRIES, "missing", "other"}
    de = stored["query_ids"][:, first] == 2 + tiny.COUNTRIES.index("de")
    close(country["de"], expected(trained, stored, de))
    for slices in report["slices"].values():
        assert sum(metrics["click"]["rows"] for metrics in slices.values()) == report["overall"]["click"]["rows"]


def test_new_ids_are_those_that_training_never_saw(trained, told_path: Path, stored, report) -> None:
    blocks = PreparedSet.open(told_path).blocks(("train",))
    for name in ("user_id", "ad_id"):
        column = tiny.TOLD.key_columns.index(name)
        seen = {int(v) for i in range(len(blocks)) for v in blocks[i]["keys"][:, column]}
        new = np.array([int(v) not in seen for v in stored["keys"][:, column]])
        found = report["slices"][name]
        if new.any():
            close(found["new"], expected(trained, stored, new))
        assert ("new" in found) == bool(new.any())
        close(found["known"], expected(trained, stored, ~new))
    assert "new" in report["slices"]["ad_id"]


@pytest.fixture(scope="module")
def bootstrapped(trained, told_path: Path):
    return evaluate(trained, str(told_path), "eval", replicates=10)


def test_intervals_stand_beside_the_metrics(trained, told_path: Path, report, bootstrapped) -> None:
    found = copy.deepcopy(bootstrapped)
    assert found["bootstrap"] == {"replicates": 10, "level": 0.95, "clusters": "user_id"}
    _, rows = predictions(trained, str(told_path))
    assert rows.schema == tiny.TOLD
    users = rows.keys[:, tiny.TOLD.key_columns.index("user_id")]
    clicks = TaskRows.of(expit(rows.logits)[:, 0], rows.labels[:, 0], rows.weights[:, 0], user_codes(users), soft=False)
    assert found["overall"]["click"]["intervals"] == metric_intervals(clicks, users, replicates=10)
    parts = [found["overall"], *found["scenarios"].values(), *(m for s in found["slices"].values() for m in s.values())]
    for part in parts:
        for metrics in part.values():
            intervals = metrics.pop("intervals")
            assert tuple(intervals) == with_interval()
    assert {name: found[name] for name in ("overall", "scenarios", "slices")} == {
        name: report[name] for name in ("overall", "scenarios", "slices")
    }


def test_the_funnel_is_ranked_by_the_utility_against_the_teacher(
    trained, told_path: Path, report, bootstrapped
) -> None:
    _, rows = predictions(trained, str(told_path))
    assert report["funnel"]["utility"] == "bid * click"
    assert report["funnel"]["bid"] == 1
    requests = rows.keys[:, tiny.TOLD.key_columns.index("request_id")]
    for s, name in enumerate(tiny.SCENARIOS):
        part = rows.scenario == s
        arguments = expit(rows.logits)[part, 0], rows.labels[part, 2], requests[part]
        wanted = funnel_metrics(*arguments)
        assert report["funnel"]["scenarios"][name] == wanted
        assert bootstrapped["funnel"]["scenarios"][name] == funnel_metrics(*arguments, replicates=10)
        assert wanted["requests"] > 100
        assert len(wanted["at"]) > 1


def test_calibration_is_told_by_task_and_scenario_with_its_rows(trained, report) -> None:
    lines = [line.split() for line in calibration_table(report).splitlines()]
    assert lines[0] == ["sum", "p", "/", "sum", "y", "rows", "positives", "calibration"]
    found = {f"{task} {scenario}".replace(",", ""): rest for task, scenario, *rest in lines[1:]}
    assert len(found) == len(lines) - 1 == len(tiny.TOLD.tasks) * len(tiny.SCENARIOS)
    for scenario, tasks in report["scenarios"].items():
        for task, m in tasks.items():
            rows, _, ratio = found[f"{task} {scenario}"]
            assert rows == f"{m['rows']:,}"
            assert ratio == ("-" if m["calibration"] is None else f"{m['calibration']:.4f}")
    after = {s: {t: {**m, "calibration": 2.0} for t, m in tasks.items()} for s, tasks in report["scenarios"].items()}
    calibrated = calibration_table({**report, "calibrated": {"scenarios": after}}).splitlines()
    assert calibrated[0].endswith("calibrated")
    assert all(line.endswith("2.0000") for line in calibrated[1:])


def test_the_verb_writes_it(told_run: Path, tmp_path: Path, report, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", f"--workdir={told_run}", f"--out={tmp_path / 'r.json'}"])
    assert end.value.code == 0
    assert json.loads((tmp_path / "r.json").read_text()) == report
    printed = capsys.readouterr().out.splitlines()
    click = report["scenarios"]["standard"]["click"]
    shown = [name for name, metric in METRICS.items() if metric.brief]
    wanted = [
        "click",
        f"{click['rows']:,}",
        *(format(click[name], "," if name in counts() else ".4f") for name in shown[1:]),
    ]
    at = next(i for i, line in enumerate(printed) if line.startswith("standard"))
    assert printed[at].split() == ["standard", *shown]
    assert printed[at + 1].split() == wanted
    assert "funnel, standard" in "\n".join(printed)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", f"--workdir={told_run}", "--bootstrap=-1"])
    assert (end.value.code, capsys.readouterr().err) == (2, "tt-jax: error: --bootstrap=-1: expected at least 0\n")


def test_many_values_are_pooled_and_names_may_be_shared() -> None:
    n = 2000
    rng = np.random.default_rng(0)
    p, y = rng.random((n, 1)).astype(np.float32), (rng.random((n, 1)) < 0.3).astype(np.float32)
    schema = dataclasses.replace(tiny.SCHEMA, tasks=tiny.SCHEMA.tasks[:1], user_id="", request_id="")
    rows = EvalRows(
        schema, schema.scenarios, logit(p), y, np.ones((n, 1), np.float32), np.zeros(n, np.int32),
        np.zeros((n, len(schema.key_columns)), np.int64),
    )  # fmt: skip
    p = rows.probabilities
    values = np.where(np.arange(n) < 1000, np.arange(n) % 10, np.arange(n))
    found = rows.by_value(values, str)
    assert len(found) == MOST_VALUES + 1
    assert list(found)[-1] == OTHER
    assert found["3"]["click"] == task_metrics(p[values == 3, 0], y[values == 3, 0], np.ones(100, np.float32), None,
                                               soft=False)  # fmt: skip
    assert sum(m["click"]["rows"] for m in found.values()) == n
    parity = rows.by_value(values, lambda v: OTHER if v % 2 else "even")
    assert list(parity) == ["even", OTHER]
    assert parity["even"]["click"]["rows"] == np.count_nonzero(values % 2 == 0)
