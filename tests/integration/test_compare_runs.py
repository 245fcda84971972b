"""The runs of `tt-jax compare`: trained once, evaluated by this version, refused where something else lies there."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support.tiny_comparison import compare_arguments, plan_of
from tt_jax.calibration.calibrate import CALIBRATION
from tt_jax.cli.main import main
from tt_jax.compare import train_models
from tt_jax.compare.plan import CompareError, Plan
from tt_jax.compare.train_models import DONE, finish_runs, fitted_tasks, read_done, read_fitted, read_predictions
from tt_jax.runs.metrics_log import METRICS_FILE


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that `train` was called for."""
    names: list[str] = []
    train = train_models.train
    monkeypatch.setattr(
        train_models, "train", lambda config, workdir, name: names.append(name) or train(config, workdir, name)
    )
    return names


@pytest.fixture(scope="module")
def one(compared_data: Path) -> Plan:
    """A plan of the first run alone."""
    plan = plan_of(compared_data)
    return dataclasses.replace(plan, rows=(dataclasses.replace(plan.rows[0], seeds=plan.rows[0].seeds[:1]),))


@pytest.fixture
def copy(one: Plan, compared: Path, tmp_path: Path) -> Path:
    """A comparison of which that run is finished."""
    name = one.runs[0].name
    shutil.copytree(compared / "runs" / name, tmp_path / "runs" / name)
    return tmp_path


def test_finished_runs_are_not_repeated_and_the_others_go_on(
    compared_data: Path, compared: Path, trained: list[str]
) -> None:
    plan, prepared = plan_of(compared_data), PreparedSet.open(compared_data)
    before = finish_runs(plan, prepared, compared, lambda _: None)
    assert trained == []
    (compared / "runs" / plan.runs[3].name / DONE).unlink()
    assert finish_runs(plan, prepared, compared, lambda _: None) == before
    assert trained == [plan.runs[3].name]
    report = (compared / "report.json").read_bytes()
    with pytest.raises(SystemExit):
        main(compare_arguments(compared_data, compared))
    assert (compared / "report.json").read_bytes() == report


def test_a_signal_stops_the_comparison_and_the_same_call_ends_it(
    compared_data: Path, compared: Path, one: Plan, tmp_path: Path
) -> None:
    plan, prepared = plan_of(compared_data), PreparedSet.open(compared_data)
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes between two runs must not end the test
    stopped = threading.Event()

    def keep_asking() -> None:
        while not stopped.wait(0.1):
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        assert finish_runs(plan, prepared, tmp_path, lambda _: None) is None
    finally:
        stopped.set()
        asking.join()
        signal.signal(signal.SIGTERM, previous)
    assert read_done(plan.runs[-1], tmp_path / "runs" / plan.runs[-1].name, "platt") is None
    done = finish_runs(one, prepared, tmp_path, lambda _: None)
    whole = finish_runs(one, prepared, compared, lambda _: None)
    assert done is not None
    assert whole is not None
    (name,) = done
    assert done[name].weights == whole[name].weights
    assert done[name].fingerprint == whole[name].fingerprint


def test_what_another_version_finished_is_evaluated_again(
    compared_data: Path, one: Plan, copy: Path, trained: list[str]
) -> None:
    """As the first version left it: no version, no calibration, and probabilities where there are logits now."""
    (run,), prepared, told = one.runs, PreparedSet.open(compared_data), []
    folder = copy / "runs" / run.name
    done = read_done(run, folder, "platt")
    assert done is not None
    logits = read_predictions(folder, "test", done)
    fields = ("identity", "data", "weights", "step", "best_step", "total_steps", "examples", "train_seconds")
    (folder / DONE).write_text(json.dumps({name: getattr(done, name) for name in fields}))
    (folder / CALIBRATION).unlink()
    np.savez(folder / "predictions-test.npz", weights=np.array(done.weights), probabilities=np.zeros((1, 1)))
    log = (folder / METRICS_FILE).read_bytes()
    assert finish_runs(one, prepared, copy, told.append) == {run.name: done}
    assert trained == [run.name]  # which found it trained to its end
    assert (folder / METRICS_FILE).read_bytes() == log
    assert "evaluated by another version" in told[0]
    np.testing.assert_array_equal(read_predictions(folder, "test", done), logits)
    assert read_fitted(folder, done, prepared.schema) is not None


def test_another_calibration_takes_no_training(compared_data: Path, one: Plan, copy: Path) -> None:
    (run,), prepared = one.runs, PreparedSet.open(compared_data)
    folder = copy / "runs" / run.name
    before = read_done(run, folder, "platt")
    plain = finish_runs(dataclasses.replace(one, calibrate="none"), prepared, copy, lambda _: None)
    assert before is not None
    assert plain is not None
    done = plain[run.name]
    assert done.weights == done.fingerprint == before.weights != before.fingerprint
    assert (done.calibration, done.train_seconds) == ("", before.train_seconds)
    assert read_fitted(folder, done, prepared.schema) is None
    # One that was fitted since is not that of the report.
    (folder / CALIBRATION).write_text("{}")
    with pytest.raises(
        CompareError, match=r"calibration\.json: not what the run was finished with; remove .*done\.json"
    ):
        read_fitted(folder, done, prepared.schema)


def test_a_head_is_calibrated_by_what_it_learned(compared_data: Path, one: Plan) -> None:
    schema, config = PreparedSet.open(compared_data).schema, one.runs[0].config
    own = {name: name for name in ("click", "conversion")}

    def fitted(*weights: str) -> dict[str, str]:
        return fitted_tasks(
            schema, dataclasses.replace(config, train=dataclasses.replace(config.train, task_weights=weights))
        )

    assert fitted() == own
    assert fitted("click=0") == {**own, "click": "teacher_click"}
    assert fitted("click=0", "teacher_click=0") == own


def test_a_directory_of_another_run_is_refused(compared_data: Path, compared: Path, tmp_path: Path) -> None:
    run, other = plan_of(compared_data).runs[:2]
    with pytest.raises(CompareError, match=f"holds the run {run.identity[:12]}, expected {other.identity[:12]}"):
        read_done(other, compared / "runs" / run.name, "platt")
    done = read_done(run, compared / "runs" / run.name, "platt")
    assert done is not None
    folder = tmp_path / "copy"
    folder.mkdir()
    stored = (compared / "runs" / other.name / "predictions-test.npz").read_bytes()
    (folder / "predictions-test.npz").write_bytes(stored)
    with pytest.raises(CompareError, match="made by the weights"):
        read_predictions(folder, "test", done)
    (folder / "predictions-test.npz").write_bytes(stored[:100])
    with pytest.raises(CompareError, match="not the predictions of a run"):
        read_predictions(folder, "test", done)
