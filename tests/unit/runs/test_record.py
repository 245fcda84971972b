"""A bit that flips in what a run writes beside its checkpoints, and checkpoints that are not where they were."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline.blocks.block import PreparedError
from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support import tiny
from tests.support.cli import Call
from tests.support.damage import damages
from tests.support.run_results import assert_same_bits
from tt_jax.calibration.calibrate import read_calibration, write_calibration
from tt_jax.calibration.maps import Calibration, CalibrationError, Curve
from tt_jax.config import Config, ConfigError, StageConfig
from tt_jax.runs.metrics_log import MetricWriter, read_scalars
from tt_jax.runs.record import read_record, write_record
from tt_jax.training import progressive
from tt_jax.training.continuous import go_on
from tt_jax.training.loop import train
from tt_jax.training.trained import load_saved, load_trained


def assert_same_or_told(path: Path, read: Callable[[], Any], error: type[ValueError]) -> None:
    """One bit flipped after another: what is read is the same, or an error names the file. Then the file is whole."""
    rng, content, before = np.random.default_rng(0), path.read_bytes(), read()
    messages = []
    for _ in range(200):
        changed = bytearray(content)
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            found = read()
        except error as e:
            messages.append(str(e))
        else:
            assert found == before
    path.write_bytes(content)
    assert all(str(path) in message for message in messages)
    assert len(messages) > 100


def test_the_record_of_a_run_is_what_was_written_or_is_refused(copy: Path) -> None:
    assert_same_or_told(copy / "config.json", lambda: read_record(copy), ConfigError)


def test_a_record_of_an_earlier_version_has_no_digest(copy: Path) -> None:
    path, before = copy / "config.json", read_record(copy)
    fields = json.loads(path.read_text())
    del fields["digest"]
    path.write_text(json.dumps(fields))
    assert read_record(copy) == before


def test_a_calibration_is_what_was_written_or_is_refused(tmp_path: Path) -> None:
    curve = Curve(scale=0.7512345, shift=-0.25, rows=1234, positives=99.5)
    before = Calibration("platt", "a" * 64, "eval", {"click": "click"}, {"click": curve}, {})
    write_calibration(tmp_path, before)
    path = tmp_path / "calibration.json"
    assert_same_or_told(path, lambda: read_calibration(tmp_path, tiny.SCHEMA), CalibrationError)
    assert read_calibration(tmp_path, tiny.SCHEMA) == before


def test_what_a_killed_save_left_is_no_checkpoint_without_a_record(config: Config, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    assert train(config, tmp_path).step == 12


def test_checkpoints_without_the_record_of_their_run_are_refused(config: Config, copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"checkpoints, and no config\.json"):
        train(config, copy)


def test_a_checkpoint_under_the_name_of_another_is_damaged(
    config: Config, run: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = copy / "checkpoints"
    (places / "12").rename(places / "x")
    (places / "8").rename(places / "12")
    (places / "x").rename(places / "8")
    assert load_trained(copy).step == 4
    assert "12: cannot be read: it is the checkpoint of step 8, under another name" in caplog.text
    assert train(config, copy).step == 12
    assert load_trained(copy).step == 12
    assert_same_bits(load_trained(run).params, load_trained(copy).params)


def test_a_checkpoint_that_a_live_run_has_removed_is_left_out(copy: Path) -> None:
    saved = load_saved(copy)
    assert next(saved).step == 12
    shutil.rmtree(copy / "checkpoints" / "8")
    assert [found.step for found in saved] == [4]


def test_a_run_that_went_on_is_mended_by_the_same_command(config: Config, copy: Path, prepared_path: Path) -> None:
    day = [f"{prepared_path}:eval"]
    (result,) = go_on(config, copy, day, StageConfig())
    whole = load_trained(copy)
    path = copy / "checkpoints" / str(result.step) / "_CHECKPOINT_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    (again,) = go_on(config, copy, day, StageConfig())
    assert again.step == result.step
    assert_same_bits(whole.params, load_trained(copy).params)
    assert go_on(config, copy, day, StageConfig()) == []


def test_damaged_lines_of_the_log_are_told_and_dropped(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = copy / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "a": 1}\n{"rtep": 2}\n[3]\n{"step": 4, "b\xff": 1}\n{"step": 5}\n{"step": 6')
    for line in (2, 3, 4):
        kept = path.read_bytes()
        path.write_bytes(kept.splitlines()[line - 1])
        with pytest.raises(ValueError, match=re.escape(f"{path}: line 1: ")):
            read_scalars(copy)
        path.write_bytes(kept)
    MetricWriter(copy, 12).close()
    assert read_scalars(copy) == [{"step": 1, "a": 1}, {"step": 5}]
    assert [f"{path}: line {n}: " in caplog.text for n in (1, 2, 3, 4, 5, 6)] == [False, True, True, True, False, False]


def test_a_damaged_progressive_json_is_told_by_its_name(copy: Path) -> None:
    path = copy / "progressive.json"
    for text in (b"[{}]", b"{}", b'[{"step": 1, "\xff": 1}]', b"["):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            progressive.read(copy)


def test_a_damaged_corpus_of_a_prepared_set_is_not_indexed(
    prepared_path: Path, tiny_bundle: Path, call: Call, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(prepared_path, root)
    out = f"--out={tmp_path / 'index'}"
    for _ in damages(root / "ads.parquet", np.random.default_rng(0)):
        assert str(root / "ads.parquet") in call.refused(
            "index", f"--bundle={tiny_bundle}", f"--ads={root / 'ads.parquet'}", out
        )
    assert call("index", f"--bundle={tiny_bundle}", f"--ads={root / 'ads.parquet'}", out)[0] == 0


def test_a_corpus_that_no_manifest_lists_is_refused(prepared_path: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.readers import Chunk

    chunk = Chunk("train", "log", 0, pa.table(tiny.columns(np.random.default_rng(0), 60)))
    prepare(tiny.SCHEMA, [chunk], tmp_path / "set", 64)
    shutil.copy(prepared_path / "ads.parquet", tmp_path / "set")
    with pytest.raises(PreparedError, match=r"ads\.parquet: not in the manifest"):
        PreparedSet.open(tmp_path / "set")


def test_a_record_is_written_with_its_digest(copy: Path) -> None:
    record = read_record(copy)
    write_record(copy, record)
    assert read_record(copy) == record
    assert "digest" in json.loads((copy / "config.json").read_text())
