"""A bit that flips on disk, in any file of a checkpoint or a prepared set, is told by the file's name."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.blocks.block import PreparedError
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from tests.support import tiny
from tests.support.cli import Call
from tests.support.damage import damages
from tests.support.run_results import assert_same_bits
from tt_jax.config import Config, TrainConfig
from tt_jax.runs.checkpoints import CheckpointError, Checkpoints
from tt_jax.training.loop import train
from tt_jax.training.setup import Setup
from tt_jax.training.trained import load_trained


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, rng: np.random.Generator) -> None:
    """Flips one bit."""
    content = bytearray(path.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def test_every_damage_of_every_file_of_a_checkpoint_is_told_by_its_name(config: Config, copy: Path) -> None:
    abstract = Setup(config, PreparedSet.open(config.data.path)).abstract_state
    rng, folder = np.random.default_rng(0), copy / "checkpoints" / "12"
    with closing(Checkpoints(copy)) as checkpoints:
        for path in files(folder):
            for _ in damages(path, rng):
                with pytest.raises(CheckpointError, match=re.escape(str(path))):
                    checkpoints.restore(abstract, 12)
        assert int(checkpoints.restore(abstract, 12).state.step) == 12
        (folder / "new").touch()
        with pytest.raises(CheckpointError, match="new: not in the manifest"):
            checkpoints.restore(abstract, 12)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_takes_the_checkpoint_before_a_damaged_one(
    config: Config, run: Path, copy: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(seed)
    path = files(copy / "checkpoints" / "12" / "state")[seed]
    flip(path, rng)
    before = load_trained(copy)  # a reader leaves it where it is, for a run may be saving
    assert before.step == 8
    assert "the one before it is taken" in caplog.text
    assert path.exists()
    assert train(config, copy).step == 12
    assert (copy / "damaged-checkpoint-12").is_dir()
    assert str(path) in caplog.text
    assert_same_bits(load_trained(run).params, load_trained(copy).params)


@pytest.mark.parametrize("verb", ["evaluate", "export", "calibrate", "label"])
def test_no_checkpoint_left_is_told_in_one_line(verb: str, copy: Path, call: Call, tmp_path: Path) -> None:
    for step in (4, 8, 12):
        flip(files(copy / "checkpoints" / str(step))[1], np.random.default_rng(step))
    out = {"export": [f"--out={tmp_path / 'out'}"], "label": [f"--out={tmp_path / 'out'}"]}.get(verb, [])
    flag = "--teacher" if verb == "label" else "--workdir"
    assert "all checkpoints are damaged: 4, 8, 12" in call.refused(verb, f"{flag}={copy}", *out)
    assert not (tmp_path / "out").exists()


def test_a_run_of_which_all_checkpoints_are_damaged_does_not_begin_anew_unasked(config: Config, copy: Path) -> None:
    for step in (4, 8, 12):
        flip(files(copy / "checkpoints" / str(step))[1], np.random.default_rng(step))
    with pytest.raises(CheckpointError, match="all checkpoints are damaged: 4, 8, 12"):
        train(config, copy)
    for path in sorted(copy.glob("damaged-*")):
        with pytest.raises(CheckpointError, match=f"to train from step 0, remove .*{path.name}"):
            train(config, copy)
        shutil.rmtree(path)
    assert train(config, copy).step == 12


def test_skew_reads_no_damaged_checkpoint(copy: Path, call: Call) -> None:
    path = files(copy / "checkpoints" / "4")[2]
    flip(path, np.random.default_rng(4))
    assert str(path) in call.refused("skew", f"--workdir={copy}")


def test_the_newest_is_taken_for_a_best_one_that_is_damaged(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Labels of the tiny world are noise: at this rate the first evaluation is the best.
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=0.05, warmup=0.0),
        train=TrainConfig(epochs=0.5, eval_every=5, keep_last=1, early_stop="click.logloss"),
    )
    best = train(config, tmp_path).facts.best_step
    assert best is not None
    assert load_trained(tmp_path).step == best < 15
    assert load_trained(tmp_path).report is not None
    flip(files(tmp_path / "checkpoints" / str(best))[3], np.random.default_rng(1))
    found = load_trained(tmp_path)
    assert (found.step, found.report) == (15, None)  # the report is of the best step
    assert "the best checkpoint is damaged" in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_taken_with_a_line(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "checkpoints" / "12" / "manifest.json").unlink()
    facts = copy / "checkpoints" / "12" / "run" / "metadata"
    assert load_trained(copy).step == 8  # what has hashes says so in the run's facts too
    known = json.loads(facts.read_text())
    del known["hashed"]
    facts.write_text(json.dumps(known))
    caplog.clear()
    assert load_trained(copy).step == 12
    assert "saved by an earlier version: it has no hashes to verify" in caplog.text


def read(root: Path) -> None:
    """Reads all of a prepared set."""
    prepared = PreparedSet.open(root)
    for split in prepared.manifest.splits:
        blocks = prepared.blocks((split,))
        for i in range(len(blocks)):
            blocks[i]
    prepared.samples()


def test_every_damage_of_every_file_of_a_prepared_set_is_told_by_its_name(tmp_path: Path) -> None:
    import pyarrow as pa

    rng, root = np.random.default_rng(0), tmp_path / "set"
    chunk = Chunk("train", "log", 0, pa.table(tiny.columns(rng, 300)))
    prepare(tiny.SCHEMA, [chunk], root, 64, ads=tiny.ads_table(rng, 9), documents={"notes.json": {"a": 1}})
    found = files(root)
    assert {p.name for p in found} > {"ads.parquet", "manifest.json", "notes.json", "samples.json", "schema.json"}
    read(root)
    for path in found:
        named = root if path.name == "manifest.json" else path  # a set without one is only half written
        for _ in damages(path, rng):
            with pytest.raises(PreparedError, match=re.escape(str(named))):
                read(root)
    read(root)


def test_training_and_its_verbs_read_no_damaged_block(
    prepared_path: Path, copy: Path, tmp_path: Path, call: Call
) -> None:
    shutil.copytree(prepared_path, tmp_path / "set")
    path = next((tmp_path / "set").glob("split=eval/scenario=shopping/*"))
    flip(path, np.random.default_rng(0))
    data = f"--data={tmp_path / 'set'}"
    assert f"{path}: expected SHA-256" in call.refused("evaluate", f"--workdir={copy}", data)
    assert f"{path}: expected SHA-256" in call.refused("skew", f"--workdir={copy}", data)
    assert f"{path}: expected SHA-256" in call("label", f"--teacher={copy}", data, f"--out={tmp_path / 'labelled'}")[2]
    assert not (tmp_path / "labelled").exists()
