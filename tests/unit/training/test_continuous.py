"""A run that goes on with more sets: exactly, however it is killed; validated first; replaying what it was asked to."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.batches import mixed_batches, to_device
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from tests.support import tiny
from tests.support.cli import Call
from tests.support.run_results import assert_same_bits, last_state, lines
from tt_jax.bundle.reader import Bundle
from tt_jax.config import Config, ConfigError, StageConfig, TrainConfig
from tt_jax.runs.checkpoints import Checkpoints
from tt_jax.runs.record import read_record, write_record
from tt_jax.schema import Schema
from tt_jax.training import loop, progressive
from tt_jax.training.continuous import go_on
from tt_jax.training.loop import train
from tt_jax.training.optimizers import schedule
from tt_jax.training.setup import Setup
from tt_jax.training.trained import evaluate, export, load_trained

DAY_ROWS = 1000
OPTIONS = StageConfig(replay=0.25, rate=0.5, accumulators=0.5)
STEPS = DAY_ROWS // 75  # of batches of 100 rows, a quarter of them replayed


def prepared_day(out: Path, seed: int, schema: Schema = tiny.SCHEMA) -> Path:
    """A day of logs in two splits, its rows 10 seconds apart."""
    columns = tiny.columns(np.random.default_rng(seed), DAY_ROWS)
    columns["time"] = [1_700_000_000 + 10 * i for i in range(DAY_ROWS)]
    columns["user_id"] = [f"day {seed}"] * DAY_ROWS
    table = pa.table(columns)
    chunks = (Chunk(name, "day", i, table.slice(i, DAY_ROWS // 2)) for i, name in ((0, "train"), (500, "night")))
    prepare(schema, chunks, out, block_rows=128)
    return out


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two days as arguments."""
    folder = tmp_path_factory.mktemp("days")
    return [f"{prepared_day(folder / f'day{i}', i)}:train,night" for i in (1, 2)]


@pytest.fixture(scope="module")
def config(prepared_path: Path) -> Config:
    return dataclasses.replace(
        tiny.CONFIG,
        model=dataclasses.replace(tiny.CONFIG.model, experts=1, low_rank_layers=0, mlp=()),  # compiles quickly
        data=dataclasses.replace(tiny.CONFIG.data, path=str(prepared_path), batch_size=100),
        optimizer=dataclasses.replace(tiny.CONFIG.optimizer, warmup=0.3),
        train=TrainConfig(epochs=0.5, log_every=5, save_every=4),
    )


@pytest.fixture(scope="module")
def begun(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned its own set, and could go on."""
    workdir = tmp_path_factory.mktemp("begun") / "w"
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def gone_on(config: Config, begun: Path, days: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after both days."""
    workdir = tmp_path_factory.mktemp("gone_on") / "w"
    shutil.copytree(begun, workdir)
    results = go_on(config, workdir, days, OPTIONS)
    assert [r.step for r in results] == [15 + STEPS, 15 + 2 * STEPS]
    return workdir


class Killed(Exception):
    pass


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """A function that has the run die: before a step, or before or after it writes the validation before a step."""

    def kill_at(where: str, at: int) -> None:
        monkeypatch.undo()
        write, stops = progressive.write, loop._Loop.stops

        def dying_write(workdir, writer, found) -> None:
            if found["step"] != at or where == "written":
                write(workdir, writer, found)
            if found["step"] == at:
                raise Killed

        def dying_stops(self, step: int) -> bool:
            if step == at:
                raise Killed
            return stops(self, step)

        if where == "step":
            monkeypatch.setattr(loop._Loop, "stops", dying_stops)
        elif where:
            monkeypatch.setattr(progressive, "write", dying_write)

    return kill_at


def test_a_run_killed_at_any_point_goes_on_to_the_same_bits(
    config: Config, begun: Path, gone_on: Path, days: list[str], tmp_path: Path, kill_at
) -> None:
    copy = tmp_path / "w"
    shutil.copytree(begun, copy)
    start, middle = 15, 15 + STEPS
    for where, at in (
        ("validated", start), ("written", start), ("step", start + 7), ("step", middle),
        ("step", middle + 6),
    ):  # fmt: skip
        kill_at(where, at)
        with pytest.raises(Killed):
            go_on(config, copy, days, OPTIONS)
    kill_at("", 0)
    assert [r.step for r in go_on(config, copy, days, OPTIONS)] == [middle + STEPS]
    a, b = last_state(config, gone_on), last_state(config, copy)
    assert_same_bits(a.state, b.state)
    assert a.run | {"train_seconds": 0} == b.run | {"train_seconds": 0}
    assert lines(gone_on) == lines(copy)
    assert (gone_on / "progressive.json").read_bytes() == (copy / "progressive.json").read_bytes()
    assert read_record(gone_on) == read_record(copy)


def test_the_same_command_again_does_nothing(config: Config, gone_on: Path, days: list[str]) -> None:
    before = lines(gone_on)
    assert go_on(config, gone_on, days, OPTIONS) == []
    assert lines(gone_on) == before
    with pytest.raises(ConfigError, match="went on with 2 sets; give the last one again"):
        train(config, gone_on)


def test_rows_are_validated_before_they_are_learned(
    config: Config, begun: Path, gone_on: Path, days: list[str]
) -> None:
    found = progressive.read(gone_on)
    assert [(f["path"], f["step"], f["rows"]) for f in found] == [
        (days[0].partition(":")[0], 15, DAY_ROWS), (days[1].partition(":")[0], 15 + STEPS, DAY_ROWS),
    ]  # fmt: skip
    before = load_trained(begun)
    path = days[0].partition(":")[0]
    offline = [evaluate(before, path, split) for split in ("train", "night")]
    for task in tiny.SCHEMA.task_names:
        rows, weights = zip(
            *((r["overall"][task]["logloss"], r["overall"][task]["rows"]) for r in offline), strict=True
        )
        if task != "conversion":  # whose rows have weights
            assert found[0]["overall"][task]["logloss"] == pytest.approx(np.average(rows, weights=weights), rel=1e-9)
    of_hours = [h["overall"]["click"] for h in found[0]["hours"]]
    assert [h["hour"] for h in found[0]["hours"]] == ["2023-11-14T22Z", "2023-11-14T23Z", "2023-11-15T00Z"]
    assert sum(h["rows"] for h in of_hours) == DAY_ROWS
    mean = np.average([h["logloss"] for h in of_hours], weights=[h["rows"] for h in of_hours])
    assert found[0]["overall"]["click"]["logloss"] == pytest.approx(mean, rel=1e-9)
    logged = [line for line in lines(gone_on) if "progressive/click/logloss" in line]
    assert [line["step"] for line in logged] == [16] * 4 + [16 + STEPS] * 4  # the set, then its hours
    assert logged[0]["progressive/click/logloss"] == found[0]["overall"]["click"]["logloss"]
    assert logged[1]["hour"] == "2023-11-14T22Z"


def test_the_newest_state_is_what_is_evaluated_and_exported(
    gone_on: Path, begun: Path, days: list[str], prepared_path: Path, tmp_path: Path
) -> None:
    trained = load_trained(gone_on)
    assert trained.step == 15 + 2 * STEPS
    report = evaluate(trained, days[1].partition(":")[0], "train")
    assert set(report["slices"]["user_id"]) == {"known"}
    assert set(evaluate(load_trained(begun), days[1].partition(":")[0], "train")["slices"]["user_id"]) == {"new"}
    export(trained, tmp_path / "bundle")
    learned = json.loads((tmp_path / "bundle" / "learned.json").read_text())
    assert "learned.json" in [f.path for f in Bundle.load(tmp_path / "bundle").manifest.files]
    assert [(s["path"], s["splits"]) for s in learned] == [
        (str(prepared_path), ["train"]), *((d.partition(":")[0], ["train", "night"]) for d in days),
    ]  # fmt: skip
    assert learned[1]["fingerprint"] == PreparedSet.open(learned[1]["path"]).fingerprint


@pytest.mark.parametrize("on_device", [False, True])
def test_each_batch_replays_its_share_and_a_position_resumes(days: list[str], on_device: bool) -> None:
    import jax

    parts = [Part(PreparedSet.open(day.partition(":")[0]), ("train", "night")) for day in days]
    user = tiny.SCHEMA.key_columns.index("user_id")
    arrays = ("labels",) if on_device else ("keys", "labels")  # the keys are wider than what a device holds

    def batches():
        found = mixed_batches(parts[1], parts[:1], 30, (), 100, seed=3, window=2, arrays=arrays)
        return to_device(found, jax.devices()[0]) if on_device else found

    with closing(batches()) as whole, closing(batches()) as again:
        seen = [{k: np.asarray(v) for k, v in next(whole).items()} for _ in range(20)]
        for _ in range(7):
            next(again)
        with closing(batches()) as resumed:
            resumed.set_state(again.get_state())
            for batch in seen[7:]:
                assert np.asarray(next(resumed)["labels"]).tobytes() == batch["labels"].tobytes()
    if on_device:
        return
    new = seen[0]["keys"][0, user]
    assert all((b["keys"][:, user] == new).tolist() == [True] * 70 + [False] * 30 for b in seen)
    requests = np.concatenate([b["keys"][70:, tiny.SCHEMA.key_columns.index("time")] for b in seen])
    assert len(set(requests[:500])) > 450  # drawn without repetition, but for the windows


def test_what_cannot_be_gone_on_with_is_refused(
    config: Config, begun: Path, gone_on: Path, days: list[str], tmp_path: Path
) -> None:
    path = days[0].partition(":")[0]
    age = next(f for f in tiny.SCHEMA.features if f.name == "age")
    others = [dataclasses.replace(f, mean=41.0) if f is age else f for f in tiny.SCHEMA.features]
    other = prepared_day(tmp_path / "other", 3, dataclasses.replace(tiny.SCHEMA, features=tuple(others)))
    copy = tmp_path / "w"
    shutil.copytree(begun, copy)
    rate = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.5))
    for changed, sets, expected in (
        (config, [str(other)], "its schema is not that of the run: feature age.mean was 40.0 and is 41.0"),
        (config, [path, path], "given twice"),
        (config, [f"{path}:train,train"], "expected distinct splits"),
        (config, [f"{path}:noon"], "unknown split 'noon'"),
        (rate, [path], r"config\.optimizer\.learning_rate was 0\.001 and is 0\.5"),
    ):
        with pytest.raises(ValueError, match=expected):
            go_on(changed, copy, sets, OPTIONS)
    with pytest.raises(ConfigError, match=r"replay: 0\.001 of a batch of 100 rows is 0 of them"):
        go_on(config, copy, [path], StageConfig(replay=0.001))
    with pytest.raises(ConfigError, match="the run has learned train, night of it, as set 1"):
        go_on(config, gone_on, [path], OPTIONS)
    assert read_record(copy) == read_record(begun)
    with closing(Checkpoints(copy)) as checkpoints:
        assert checkpoints.steps()[-1] == 15


def test_a_run_that_stops_early_cannot_go_on(config: Config, begun: Path, days: list[str], tmp_path: Path) -> None:
    early = dataclasses.replace(config, train=dataclasses.replace(config.train, early_stop="click.logloss"))
    copy = tmp_path / "w"
    shutil.copytree(begun, copy)
    write_record(copy, dataclasses.replace(read_record(copy), config=early))
    with pytest.raises(ConfigError, match="picks its best step has no newest one"):
        go_on(early, copy, days, OPTIONS)


@pytest.mark.parametrize("wrong", [{"replay": 1.0}, {"rate": 0.0}, {"accumulators": 1.5}])
def test_options_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: expected a number"):
        StageConfig(**wrong)


def test_the_command_line(
    call: Call,
    config: Config,
    begun: Path,
    days: list[str],
    tmp_path: Path,
) -> None:
    copy = tmp_path / "w"
    shutil.copytree(begun, copy)
    code, _, err = call(
        "train", f"--workdir={copy}", f"--data={days[0]}", "--schedule=rewarm", "--config.train.keep_last=9"
    )
    assert (code, "25 of 25 steps done" in err) == (0, True)
    stage = read_record(copy).stages[0]
    assert (stage.start, stage.steps, stage.options) == (15, 10, StageConfig(schedule="rewarm"))
    with closing(Checkpoints(copy)) as checkpoints:
        abstract = Setup(config, PreparedSet.open(config.data.path)).abstract_state
        before, first, later = (checkpoints.restore(abstract, step).state for step in (15, 16, 20))
    changes = [
        np.abs(np.asarray(a.params["bias"] - b.params["bias"])).max() for a, b in ((before, first), (first, later))
    ]
    assert 0 < changes[0] < changes[1] / 4  # the warm-up of 3 steps begins with a third of the rate, again
    assert "<svg" in (copy / "progressive.html").read_text()
    assert "is set 1 of this run already" in call("train", f"--workdir={copy}", f"--data={days[0]}")[2]
    assert call.refused("train", f"--workdir={copy}") == (
        "expected --config, or --data for an existing run to go on with"
    )
    assert "--replay: expected --data" in call.refused("train", f"--workdir={copy}", "--config=x.py", "--replay=0.1")


@pytest.mark.parametrize("kind", ["constant", "rewarm"])
def test_the_schedule_of_a_set_begins_with_it(kind: Literal["constant", "rewarm"], config: Config) -> None:
    optimizer = StageConfig(schedule=kind, rate=0.2).optimizer(config.optimizer)
    assert optimizer.embedding_learning_rate == 0.2 * config.optimizer.embedding_learning_rate
    found = [np.asarray(schedule(optimizer, 100, start=50)(step)).item() for step in range(50, 151)]
    if kind == "constant":
        assert found == [1.0] * 101
    else:
        assert found == [np.asarray(schedule(config.optimizer, 100)(step)).item() for step in range(101)]
        assert found[0] == pytest.approx(1 / 30)  # of 30 steps of warm-up, and the first one learns
        assert (max(found), found[-1]) == (1.0, pytest.approx(config.optimizer.final_fraction))
