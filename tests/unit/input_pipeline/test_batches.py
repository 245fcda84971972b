"""The Grain pipeline: every row once an epoch, well mixed, aligned across matrices, resumed to the same bytes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline.batches import Batches, ResumeError, eval_batches, to_device, train_batches
from input_pipeline.blocks.block import PreparedError
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.writer import PreparedWriter
from tests.support import tiny
from tt_jax.schema import array_specs

BLOCK = 32
ROWS = {"standard": 330, "shopping": 75}  # 11 and 3 blocks, the last ones short
TOTAL = sum(ROWS.values())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """A set in which every number of a row is the row's number; shopping rows begin at 1000."""
    root = tmp_path_factory.mktemp("prepared")
    writer = PreparedWriter(root, tiny.SCHEMA, BLOCK)
    for (scenario, rows), first in zip(ROWS.items(), (0, 1000), strict=True):
        numbers = np.arange(first, first + rows)[:, None]
        arrays = {n: np.repeat(numbers, w, 1).astype(d) for n, (d, w) in array_specs(tiny.SCHEMA).items()}
        writer.add("train", scenario, arrays, {})
    writer.close()
    writer.finish()
    return PreparedSet.open(root)


def _numbers(batch: dict) -> np.ndarray:
    """Row numbers of a batch, after checking that all matrices agree on them."""
    for name, (dtype, width) in array_specs(tiny.SCHEMA).items():
        matrix = np.asarray(batch[name])
        assert matrix.shape == (len(batch["keys"]), width)
        assert matrix.dtype == (np.int32 if name == "keys" and isinstance(batch[name], jax.Array) else dtype)
        np.testing.assert_array_equal(matrix, np.repeat(np.asarray(batch["labels"])[:, :1], width, 1).astype(dtype))
    return np.asarray(batch["labels"])[:, 0].astype(int)


def _epoch(prepared: PreparedSet, batch_size: int = 15, **options: object) -> np.ndarray:
    arguments = {"scenarios": (), "seed": 0, "window": 4, "epochs": 1, **options}
    with train_batches(prepared, ("train",), batch_size=batch_size, **arguments) as batches:  # pyright: ignore[reportArgumentType]
        return np.concatenate([_numbers(b) for b in batches])


ALL = np.concatenate([np.arange(330), np.arange(1000, 1075)])


def test_an_epoch_has_every_row_once(prepared: PreparedSet) -> None:
    for window in (1, 4, 100):
        for threads in (1, 3):
            np.testing.assert_array_equal(np.sort(_epoch(prepared, window=window, threads=threads)), ALL)
    np.testing.assert_array_equal(np.sort(_epoch(prepared, scenarios=("shopping",))), ALL[330:])


def test_order_depends_on_the_seed_and_the_epoch_only(prepared: PreparedSet) -> None:
    order = _epoch(prepared)
    np.testing.assert_array_equal(order, _epoch(prepared, threads=4, batch_size=27))
    assert (order != _epoch(prepared, seed=1)).mean() > 0.9
    two = _epoch(prepared, epochs=2)
    np.testing.assert_array_equal(two[:TOTAL], order)
    np.testing.assert_array_equal(np.sort(two[TOTAL:]), ALL)
    assert (two[TOTAL:] != order).mean() > 0.9


def test_rows_are_mixed(prepared: PreparedSet) -> None:
    one_window = _epoch(prepared, window=100)
    place = np.argsort(one_window)  # of each row
    assert abs(np.corrcoef(place, np.arange(TOTAL))[0, 1]) < 0.15  # 3 standard deviations of a random order
    neighbours = np.abs(np.diff(place))
    assert abs(neighbours.mean() / (TOTAL / 3) - 1) < 0.15  # |i - j| of two uniform places has the mean n / 3
    blocks_of_batch = [len(set(n // BLOCK)) for n in _epoch(prepared, batch_size=40, window=4)[:400].reshape(-1, 40)]
    assert np.mean(blocks_of_batch) > 4
    assert min(blocks_of_batch) > 1


def test_batches_span_windows_and_epochs_and_only_the_last_rows_are_dropped(prepared: PreparedSet) -> None:
    rows = _epoch(prepared, batch_size=64, epochs=3)
    assert len(rows) == 3 * TOTAL // 64 * 64
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(rows[epoch * TOTAL : (epoch + 1) * TOTAL]), ALL)


def test_several_splits_are_one_population(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, tiny.SCHEMA, BLOCK)
    for first, split in enumerate(("train", "more", "other")):
        numbers = np.arange(first * 100, first * 100 + 95)[:, None]
        arrays = {n: np.repeat(numbers, w, 1).astype(d) for n, (d, w) in array_specs(tiny.SCHEMA).items()}
        writer.add(split, "shopping", arrays, {})
    writer.close()
    writer.finish()
    prepared, of = PreparedSet.open(tmp_path), {"scenarios": (), "batch_size": 19, "seed": 0}
    with train_batches(prepared, ("train", "more"), **of, window=4, epochs=1) as batches:
        rows = np.concatenate([_numbers(b) for b in batches])
        position = batches.get_state()
    np.testing.assert_array_equal(np.sort(rows), [*range(95), *range(100, 195)])
    assert 0.2 < (rows[:95] < 100).mean() < 0.8  # mixed, not one after the other
    with (
        train_batches(prepared, ("train",), **of, window=4) as batches,
        pytest.raises(ResumeError, match=r"splits was \['train', 'more'\] and is \['train'\]"),
    ):
        batches.set_state(position)
    with pytest.raises(PreparedError, match="unknown split 'mroe'; did you mean 'more'"):
        train_batches(prepared, ("train", "mroe"), **of)


def test_other_scenarios_are_not_touched(prepared: PreparedSet) -> None:
    path = prepared.root / prepared.files("train", ("standard",))[0].path
    path.rename(path.with_suffix(".away"))
    try:
        np.testing.assert_array_equal(np.sort(_epoch(prepared, scenarios=("shopping",))), ALL[330:])
        with pytest.raises(PreparedError, match=path.name):
            _epoch(prepared)
    finally:
        path.with_suffix(".away").rename(path)


def _start(prepared: PreparedSet, on_device: bool, **options: object) -> Batches:
    of = {"splits": ("train",), "scenarios": (), "batch_size": 50, "seed": 3, "window": 4, "epochs": 3}
    batches = train_batches(prepared, **{**of, **options})  # pyright: ignore[reportArgumentType]
    return to_device(batches, jax.devices()[0]) if on_device else batches


@pytest.mark.parametrize("on_device", [False, True])
def test_resume_gives_the_same_bytes_from_every_position(prepared: PreparedSet, on_device: bool) -> None:
    states, numbers = [], []
    with _start(prepared, on_device) as batches:
        states.append(json.dumps(batches.get_state()))
        for batch in batches:
            numbers.append(_numbers(batch))
            time.sleep(0.001)  # so that the threads run ahead of what is consumed
            states.append(json.dumps(batches.get_state()))
        assert json.dumps(batches.get_state()) == states[-1]
    assert len(numbers) == 3 * TOTAL // 50
    for i, state in enumerate(states):
        with _start(prepared, on_device) as fresh:
            fresh.set_state(json.loads(state))
            assert json.dumps(fresh.get_state()) == state
            rest = [_numbers(b) for b in fresh]
        np.testing.assert_array_equal(np.array(rest).ravel(), np.array(numbers[i:]).ravel())


def test_resume_in_the_middle_of_a_run_and_across_host_and_device(prepared: PreparedSet) -> None:
    with _start(prepared, on_device=False) as batches:
        next(batches)
        state = batches.get_state()
        expected = _numbers(next(batches))
        next(batches)
        batches.set_state(state)
        np.testing.assert_array_equal(_numbers(next(batches)), expected)
        batches.set_state(state)
        with to_device(batches, jax.devices()[0]) as moved:
            np.testing.assert_array_equal(_numbers(next(moved)), expected)
            next(moved)
            moved.set_state(state)
            np.testing.assert_array_equal(_numbers(next(moved)), expected)


def test_a_longer_run_continues_after_the_end_of_a_shorter_one(prepared: PreparedSet) -> None:
    with _start(prepared, on_device=False, epochs=1) as short:
        for _ in short:
            pass
        state = short.get_state()
    with _start(prepared, on_device=False, epochs=3) as long:
        numbers = [_numbers(b) for b in long]
        long.set_state(state)
        np.testing.assert_array_equal(_numbers(next(long)), numbers[TOTAL // 50])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 51}, "batch_size was 50 and is 51"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"window": 5}, "window was 4 and is 5"),
        ({"scenarios": ("shopping",)}, r"scenarios was \['shopping', 'standard'\] and is \['shopping'\]"),
        ({"process": (0, 2)}, r"process was \[0, 1\] and is \[0, 2\]"),
    ],
)
def test_a_resume_that_would_not_be_exact_is_refused(prepared: PreparedSet, change: dict, message: str) -> None:
    with _start(prepared, on_device=False) as batches, _start(prepared, on_device=False, **change) as other:
        with pytest.raises(ResumeError, match=message):
            other.set_state(json.loads(json.dumps(batches.get_state())))
        state = batches.get_state()
        state["signature"]["prepared"] = "another"
        with pytest.raises(ResumeError, match="prepared was 'another'"):
            other.set_state(state)
        with pytest.raises(ResumeError, match="version"):
            other.set_state({})


def test_all_scenarios_by_name_and_by_default_are_the_same_run(prepared: PreparedSet) -> None:
    with _start(prepared, on_device=False) as all_of_them:
        next(all_of_them)
        state, expected = all_of_them.get_state(), _numbers(next(all_of_them))
    with _start(prepared, on_device=False, scenarios=("shopping", "standard")) as named:
        named.set_state(state)
        np.testing.assert_array_equal(_numbers(next(named)), expected)


def test_processes_share_an_epoch(prepared: PreparedSet) -> None:
    parts = [_epoch(prepared, batch_size=1, process=(i, 3)) for i in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), ALL)
    assert min(len(p) for p in parts) >= TOTAL // 3 - 2 * BLOCK


def test_close_ends_the_threads(prepared: PreparedSet) -> None:
    before = set(threading.enumerate())
    for on_device in (False, True):
        for taken in (0, 1, 5):
            with _start(prepared, on_device) as batches:
                for _ in range(taken):
                    next(batches)
            batches.close()
            with pytest.raises(ValueError, match="closed"):
                next(batches)
    running = [t for t in threading.enumerate() if t not in before]
    for thread in running:
        thread.join(timeout=10)  # a worker may be inside its last window
    assert not [t for t in running if t.is_alive()]


def test_a_damaged_block_ends_the_run_with_its_name(prepared: PreparedSet, tmp_path: Path) -> None:
    for file in prepared.root.rglob("*"):
        if file.is_file():
            copy = tmp_path / file.relative_to(prepared.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    damaged = PreparedSet.open(tmp_path)
    path = tmp_path / damaged.files("train", ("shopping",))[0].path
    content = bytearray(path.read_bytes())
    content[4:1500] = bytes(1496)
    path.write_bytes(content)
    for on_device in (False, True):
        with _start(damaged, on_device) as batches, pytest.raises(PreparedError) as error:
            list(batches)
        assert f"{path}: expected SHA-256" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("batch_size", [1, 50, 405, 1000])
def test_eval_reads_every_row_once_in_order_and_pads(prepared: PreparedSet, batch_size: int) -> None:
    seen = []
    for batch, rows in eval_batches(prepared, "train", (), batch_size):
        assert all(len(matrix) == batch_size for matrix in batch.values())
        seen.append(_numbers({name: matrix[:rows] for name, matrix in batch.items()}))
        padding = {name: matrix[rows:] for name, matrix in batch.items()}
        assert np.isnan(padding["labels"]).all()
        for name, value in (("weights", 0), ("keys", -1), ("query_ids", 0), ("ad_ids", 0), ("scenario", 0)):
            assert (padding[name] == value).all()
    assert [len(s) for s in seen[:-1]] == [batch_size] * (len(seen) - 1)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), ALL)
    only = np.concatenate([b["keys"][:rows, 0] for b, rows in eval_batches(prepared, "train", ("standard",), 64)])
    np.testing.assert_array_equal(only, np.arange(330))


def test_bad_arguments_are_refused(prepared: PreparedSet) -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size 0"),
        ({"window": 0}, "window 0"),
        ({"threads": 0}, "threads 0"),
        ({"process": (2, 2)}, "process 2 of 2"),
        ({"batch_size": 406, "epochs": 1}, "405 rows"),
        ({"scenarios": ("shop",)}, "unknown scenario 'shop'; did you mean 'shopping'"),
        ({"splits": ("eval",)}, "unknown split 'eval'"),
    ):
        with pytest.raises(ValueError, match=message):
            _start(prepared, on_device=False, **options)
