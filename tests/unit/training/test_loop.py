"""The loop, in this process: what it writes, when it stops, what it refuses."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline.blocks.block import PreparedError
from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support import tiny
from tests.support.run_results import assert_same_bits, last_state, lines
from tests.support.tiny import EVAL_ROWS, TRAIN_ROWS
from tt_jax.config import Config, ConfigError
from tt_jax.runs.checkpoints import CheckpointError, Checkpoints
from tt_jax.runs.environment import environment, environment_differences
from tt_jax.runs.finite import DivergedError, diverged
from tt_jax.runs.metrics_log import TRAIN_SECONDS, read_scalars
from tt_jax.runs.record import read_record
from tt_jax.training.loop import train
from tt_jax.training.setup import Setup
from tt_jax.training.trained import evaluate, load_trained


@pytest.fixture(scope="module")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prepared_path: Path):
    """A finished run: (config, workdir, result)."""
    config = request.getfixturevalue("module_config")
    workdir = tmp_path_factory.mktemp("run") / "w"
    return config, workdir, train(config, workdir)


@pytest.fixture(scope="module")
def module_config(prepared_path: Path) -> Config:
    from tt_jax.config import TrainConfig

    return dataclasses.replace(
        tiny.CONFIG,
        data=dataclasses.replace(tiny.CONFIG.data, path=str(prepared_path), batch_size=100),
        train=TrainConfig(epochs=2, log_every=7, eval_every=20, save_every=8, early_stop="click.logloss"),
    )


def test_a_run_ends_after_its_steps_and_keeps_the_best_and_the_last_checkpoints(finished) -> None:
    _, workdir, result = finished
    assert result.step == result.total_steps == 2 * TRAIN_ROWS // 100
    assert not result.stopped_by
    with closing(Checkpoints(workdir)) as checkpoints:
        steps = checkpoints.steps()
    assert set(steps) == {56, 60} | {result.facts.best_step}
    assert result.examples_per_s > 0


def test_the_log_holds_every_figure_at_its_step(finished) -> None:
    _, workdir, result = finished
    found = lines(workdir)
    assert [f["step"] for f in found if "train/click/loss" in f] == list(range(7, 61, 7))
    assert [f["step"] for f in found if "eval/click/logloss" in f] == [20, 40, 60]
    assert [f["step"] for f in found if "eval/shopping/click/logloss" in f] == [20, 40, 60]
    seconds = [f[TRAIN_SECONDS] for f in read_scalars(workdir) if TRAIN_SECONDS in f]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == result.facts.train_seconds
    assert all(0.3 < f["train/click/loss"] < 1.5 for f in found if "train/click/loss" in f)
    assert list((workdir / "tensorboard").glob("events*"))


def test_the_record_holds_everything_the_run_used(finished) -> None:
    config, workdir, _ = finished
    record = read_record(workdir)
    assert record.config == config
    assert record.schema == tiny.SCHEMA
    assert record.data == PreparedSet.open(config.data.path).fingerprint
    assert record.environment == environment()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_run_that_goes_on_with_other_cores_is_told(
    finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, workdir, _ = finished
    train(config, workdir)
    assert "the bits may be others" not in caplog.text
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        assert environment()["cores"] == 1
        train(config, copy)
    finally:
        os.sched_setaffinity(0, all_cores)
    assert f"{copy}: from here on the bits may be others" in caplog.text
    assert f"cores was {len(all_cores)} and is 1" in caplog.text


def test_what_may_change_bits_is_named() -> None:
    now = environment()
    assert environment_differences(now, now | {"python": "3.99"}) == []
    assert environment_differences({"devices": now["devices"]}, now) == []  # of an earlier version
    other = now | {"devices": ["A", "B", "A"], "processor": "P", "jaxlib": "0.0.1", "xla_flags": "--x"}
    assert environment_differences(now | {"devices": ["cpu"]}, other) == [
        "devices was 1 x cpu and is 2 x A + 1 x B",
        f"processor was {now['processor']!r} and is 'P'",
        f"xla_flags was {now['xla_flags']!r} and is '--x'",
        f"jaxlib was {now['jaxlib']!r} and is '0.0.1'",
    ]


def test_evaluation_of_the_best_checkpoint_repeats_the_report_of_the_run(finished) -> None:
    config, workdir, result = finished
    trained = load_trained(workdir)
    assert trained.step == result.facts.best_step
    report = evaluate(trained, config.data.path)
    fingerprint = report.pop("fingerprint")
    assert fingerprint == load_trained(workdir).fingerprint
    in_the_loop = result.facts.report
    assert in_the_loop
    assert {key: report[key] for key in in_the_loop} == in_the_loop  # the verb adds slices and the funnel
    assert report["rows"] == EVAL_ROWS
    scores = [f["eval/click/logloss"] for f in lines(workdir) if "eval/click/logloss" in f]
    assert report["overall"]["click"]["logloss"] == min(scores)


def test_a_finished_run_does_nothing_more(finished) -> None:
    config, workdir, result = finished
    before = lines(workdir)
    again = train(config, workdir)
    assert again.step == result.step
    assert again.facts.train_seconds == result.facts.train_seconds
    assert again.examples_per_s is None
    assert lines(workdir) == before


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(finished, tmp_path: Path) -> None:
    config, workdir, _ = finished
    train(config, tmp_path / "same")
    assert_same_bits(last_state(config, workdir).state, last_state(config, tmp_path / "same").state)
    other = dataclasses.replace(config, seed=1)
    train(other, tmp_path / "other")
    a, b = last_state(config, workdir).state, last_state(other, tmp_path / "other").state
    assert not np.array_equal(a.params["bias"], b.params["bias"])


def test_a_run_stopped_by_sigterm_goes_on_to_the_same_bits(finished, tmp_path: Path) -> None:
    config, workdir, _ = finished
    stopped = None
    for delay in (0.0, 0.3, 0.6, 1.0, 1.5, 2.5):  # some of these meet compilation, some steps, some evaluations
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGTERM))
        previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a late signal must not end the test
        timer.start()
        stopped = train(config, tmp_path)
        timer.join()
        signal.signal(signal.SIGTERM, previous)
        if not stopped.stopped_by:
            break
    final = train(config, tmp_path)
    assert final.step == final.total_steps
    a, b = last_state(config, workdir), last_state(config, tmp_path)
    assert_same_bits(a.state, b.state)
    assert a.run | {"train_seconds": 0} == b.run | {"train_seconds": 0}
    assert lines(workdir) == lines(tmp_path)


# TensorStore's other reads are abandoned when the first one fails, each with a complaint that nobody can catch.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_resumed(
    finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, workdir, _ = finished
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    with closing(Checkpoints(copy)) as checkpoints:
        newest, before = checkpoints.steps()[-1], checkpoints.steps()[-2]
    for data in (copy / "checkpoints" / str(newest) / "state").rglob("d/*"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    result = train(config, copy)
    assert result.step == result.total_steps
    assert f"damaged-checkpoint-{newest}" in caplog.text
    assert (copy / f"damaged-checkpoint-{newest}").is_dir()
    assert before < newest
    assert_same_bits(last_state(config, workdir).state, last_state(config, copy).state)


def test_a_half_written_checkpoint_is_not_taken_for_one(finished, tmp_path: Path) -> None:
    config, workdir, _ = finished
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    half = copy / "checkpoints" / "70.orbax-checkpoint-tmp"
    shutil.copytree(copy / "checkpoints" / "60", half)
    (half / "manifest.json").unlink()
    with closing(Checkpoints(copy)) as checkpoints:
        assert 70 not in checkpoints.steps()
        assert checkpoints.steps()[-1] == 60
    assert train(config, copy).step == 60


def test_another_configuration_is_refused_by_name(finished) -> None:
    config, workdir, _ = finished
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.5))
    with pytest.raises(ConfigError, match=r"config\.optimizer\.learning_rate was 0\.001 and is 0\.5"):
        train(other, workdir)


def test_early_stopping_ends_after_its_patience(module_config: Config, tmp_path: Path) -> None:
    # A rate so high that the first evaluation is the best one: labels of the tiny world are noise.
    config = dataclasses.replace(
        module_config,
        optimizer=dataclasses.replace(module_config.optimizer, learning_rate=0.05, warmup=0.0),
        train=dataclasses.replace(module_config.train, eval_every=5, patience=2, epochs=20),
    )
    result = train(config, tmp_path)
    assert result.step < result.total_steps
    assert result.step == result.facts.best_step + 2 * 5


def test_divergence_is_an_error(module_config: Config, tmp_path: Path) -> None:
    optimizer = dataclasses.replace(module_config.optimizer, learning_rate=1e30, clip_norm=0.0, warmup=0.0)
    with pytest.raises(DivergedError, match="is not a number"):
        train(dataclasses.replace(module_config, optimizer=optimizer), tmp_path)


@pytest.mark.parametrize("broken", ["params", "tables", "accumulators"])
def test_no_state_that_is_not_finite_takes_the_place_of_a_checkpoint(
    broken: str, module_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A weight breaks at step 12, and the log that would tell of it comes after all kept checkpoints.
    compile_step = Setup.compile_step

    def breaking(setup: Setup):
        step = compile_step(setup)

        def run(state, batch):
            state, done = step(state, batch)
            if int(done) == 12:
                arrays = getattr(state, broken)
                name = sorted(arrays)[-1]
                bad = arrays[name].at[(0,) * arrays[name].ndim].set(float("nan"))
                state = state.replace(**{broken: {**arrays, name: bad}})
            return state, done

        return run

    monkeypatch.setattr(Setup, "compile_step", breaking)
    train_config = dataclasses.replace(module_config.train, log_every=1000, eval_every=0, save_every=4, early_stop="")
    with pytest.raises(DivergedError, match=rf"step 12: .* is not a number any more, in 1 of \d+ arrays \({broken}/"):
        train(dataclasses.replace(module_config, train=train_config), tmp_path)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [4, 8]


def test_an_error_of_many_names_shows_three() -> None:
    assert str(diverged(7, [f"train/task{i}/loss" for i in range(12)], 20, "figures")) == (
        "step 7: what is learned is not a number any more, in 12 of 20 figures (train/task0/loss, train/task1/loss,"
        " train/task2/loss, ...); a lower learning rate may help"
    )


def test_no_epochs_are_an_evaluated_checkpoint_of_the_first_weights(module_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(module_config, train=dataclasses.replace(module_config.train, epochs=0.0))
    result = train(config, tmp_path)
    assert (result.step, result.total_steps, result.facts.best_step) == (0, 0, 0)
    assert [line["step"] for line in lines(tmp_path)] == [0]
    trained = load_trained(tmp_path)
    assert trained.step == 0
    assert trained.report
    fresh = Setup(config, PreparedSet.open(config.data.path)).fresh_state()
    assert_same_bits((trained.params, trained.tables), (fresh.params, fresh.tables))
    assert train(config, tmp_path).step == 0
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scenarios": ("shoping",)}, r"unknown scenario 'shoping'; did you mean 'shopping'"),
        ({"eval_split": "evil"}, r"evil"),
        ({"train_splits": ("train", "tran")}, r"tran"),
        ({"path": "nowhere"}, r"nowhere"),
        ({"scenario_weights": ("shoping=2",)}, r"data.scenario_weights: unknown scenario 'shoping'; did you mean"),
    ],
)
def test_what_the_data_do_not_have_is_named(change: dict, expected: str, module_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(module_config, data=dataclasses.replace(module_config.data, **change))
    with pytest.raises((ConfigError, PreparedError), match=expected):
        train(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_an_unknown_early_stop_metric_is_named(module_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(module_config, train=dataclasses.replace(module_config.train, early_stop="clik.auc"))
    with pytest.raises(ConfigError, match=r"'clik\.auc'; did you mean 'click\.auc'"):
        train(config, tmp_path / "w")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (("clik=0",), r"train\.task_weights: unknown task 'clik'; did you mean 'click'"),
        (("click=0", "conversion=0", "teacher=0"), r"train\.task_weights: expected a weight > 0 for a task, all are 0"),
    ],
)
def test_wrong_task_weights_are_named(weights: tuple, expected: str, module_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(module_config, train=dataclasses.replace(module_config.train, task_weights=weights))
    with pytest.raises(ConfigError, match=expected):
        train(config, tmp_path / "w")


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_trained(tmp_path)


def test_a_run_without_a_checkpoint_is_named(finished, tmp_path: Path) -> None:
    _, workdir, _ = finished
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_trained(tmp_path)


def test_one_scenario_reads_its_rows_only(module_config: Config, tmp_path: Path) -> None:
    data = dataclasses.replace(module_config.data, scenarios=("shopping",))
    result = train(dataclasses.replace(module_config, data=data), tmp_path)
    prepared = PreparedSet.open(module_config.data.path)
    rows = sum(f.rows for f in prepared.files("train", ("shopping",)))
    assert result.total_steps == 2 * rows // 100
    report = result.facts.report
    assert set(report["scenarios"]) == {"shopping"}


def test_a_profile_of_some_steps_is_written(module_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(
        module_config, profile="3:6", train=dataclasses.replace(module_config.train, epochs=0.3, early_stop="")
    )
    train(config, tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


def test_a_step_never_compiles_again_and_fetches_nothing(module_config: Config) -> None:
    setup = Setup(module_config, PreparedSet.open(module_config.data.path))
    step, state = setup.compile_step(), setup.fresh_state()
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        with closing(setup.batches()) as batches:
            batch = next(batches)
            compiled.clear()
            with jax.transfer_guard("disallow"):
                for _ in range(5):
                    state, done = step(state, batch)
        assert int(done) == 5
        assert [name for name in compiled if "compile" in name] == []
    finally:
        jax.monitoring.clear_event_listeners()


def test_a_reader_leaves_alone_what_a_live_run_is_saving(finished, tmp_path: Path) -> None:
    _, workdir, _ = finished
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    saving = copy / "checkpoints" / "70.orbax-checkpoint-tmp"
    saving.mkdir()
    load_trained(copy)
    assert saving.is_dir()
