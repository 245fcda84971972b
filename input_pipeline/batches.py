"""Prepared blocks to batches: a Grain chain with a saved position. The only importer of Grain.

    blocks -> shuffle (global, of blocks) -> windows of `window` blocks -> shuffle (of the rows of a window)
           -> repeat (epochs, each in another order) -> batches of `batch_size` rows -> device

A batch may span two windows, and two epochs: only the rows left over at the end of the last epoch are dropped. Batches
with a replay share are two such chains, side by side.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
import pyarrow as pa

from input_pipeline.blocks.block import Block, Blocks
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.schema import MISSING_ID

WINDOW = 8
THREADS = 2
_AHEAD = 2  # batches held ready on the device, and as many on the host
_STATE_VERSION = 3


class ResumeError(ValueError):
    """A saved position that cannot be resumed exactly. The message names what differs."""


class Batches(Iterator[Any]):
    """Batches with a saved position, each a dict of `[batch_size, columns]` matrices (`tt_jax.schema.array_specs`).

    Close it, or use it in a `with`: it owns threads.
    """

    def __init__(self, dataset: grain.IterDataset, signature: Mapping[str, Any]) -> None:
        self.signature = dict(signature)
        self.dataset = dataset
        self._iterator = iter(dataset)
        self._position = self._iterator.get_state()
        self._closed = False

    def __next__(self) -> Any:
        if self._closed:  # Grain still hands out what is left of the window that it holds
            raise ValueError("the batches are closed")
        batch = next(self._iterator)
        # Kept here because at its end, after rows have been dropped, Grain's own position is that of no batch.
        self._position = self._iterator.get_state()
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch that was returned, as JSON data; what was read ahead does not count."""
        return {"version": _STATE_VERSION, "signature": dict(self.signature), "position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues at a saved position: the same bytes follow. Raises `ResumeError` if they could not."""
        if state.get("version") != _STATE_VERSION or "position" not in state:
            raise ResumeError(f"expected a position of version {_STATE_VERSION}, got {dict(state)!r}")
        saved = state["signature"]
        differs = [
            f"{name} was {saved.get(name)!r} and is {self.signature.get(name)!r}"
            for name in sorted({*saved, *self.signature})
            if saved.get(name) != self.signature.get(name)
        ]
        if differs:
            raise ResumeError("the input position cannot be resumed exactly: " + ", ".join(differs))
        self._iterator.set_state(state["position"])
        self._position = state["position"]

    def close(self) -> None:
        """Ends the threads. No batch can be had afterwards."""
        self._closed = True
        self._iterator.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_device(batches: Batches, sharding: Any) -> Batches:
    """The batches as device arrays, read and transferred ahead, from their present position on.

    Without `jax_enable_x64` the int64 keys lose their upper half: read without them, or keep them on the host.

    Args:
      batches: replaced by what is returned, and closed.
      sharding: a `jax.sharding.Sharding` or device, or a dict of them by array, for `jax.device_put`. Where it spans
        processes, the batches are this process's rows of global ones.
    """
    if all(s.is_fully_addressable for s in jax.tree.leaves(sharding) if isinstance(s, jax.sharding.Sharding)):
        dataset = grain.experimental.device_put(
            batches.dataset, sharding, cpu_buffer_size=_AHEAD, device_buffer_size=_AHEAD
        )
    else:  # as above, but `jax.device_put` would take the rows of each process for the whole batch
        on_host = grain.experimental.ThreadPrefetchIterDataset(batches.dataset, prefetch_buffer_size=_AHEAD)
        placed = on_host.map(lambda batch: jax.make_array_from_process_local_data(sharding, batch))
        dataset = grain.experimental.ThreadPrefetchIterDataset(placed, prefetch_buffer_size=_AHEAD)
    ahead = Batches(dataset, batches.signature)
    ahead.set_state(batches.get_state())
    batches.close()
    return ahead


def train_batches(
    prepared: PreparedSet,
    splits: Sequence[str],
    scenarios: Sequence[str],
    batch_size: int,
    seed: int,
    window: int = WINDOW,
    epochs: int | None = None,
    process: tuple[int, int] = (0, 1),
    threads: int = THREADS,
    arrays: Sequence[str] = (),
) -> Batches:
    """Shuffled batches of exactly `batch_size` rows.

    Args:
      prepared: the data.
      splits: its parts to read, pooled.
      scenarios: those to read, pooled; empty for all.
      batch_size: rows of a batch, of this process.
      seed: of both shuffles, 0..2^32-1.
      window: blocks whose rows are shuffled together; `threads + 1` windows are held in memory.
      epochs: passes over the data; None without end.
      process: `(index, count)`: of every `count` shuffled blocks, this process reads one.
      threads: that read and shuffle windows.
      arrays: names of the matrices to read; empty for all.

    Raises:
      PreparedError: there is nothing to read; see `PreparedSet.files`.
      ValueError: an argument is out of range, or the data are fewer rows than a batch.
    """
    blocks = prepared.blocks(splits, scenarios, arrays)
    index, count = process
    for name, value in (("batch_size", batch_size), ("window", window), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} {value} is not >= 1")
    if not 0 <= index < count <= len(blocks):
        raise ValueError(f"process {index} of {count}: expected an index below the count, and a block for each process")
    if blocks.rows * (epochs or 1) < batch_size * count:
        raise ValueError(f"{blocks.rows} rows, {epochs or 1} times, do not make a batch of {batch_size} per process")
    read = sorted({f.scenario for split in splits for f in prepared.files(split, scenarios)})
    signature = {
        "prepared": prepared.fingerprint, "splits": list(splits), "scenarios": read, "batch_size": batch_size,
        "seed": seed, "window": window, "process": list(process),
    }  # fmt: skip
    return Batches(_shuffled(blocks, batch_size, seed, window, epochs, process, threads), signature)


def mixed_batches(
    new: Part,
    past: Sequence[Part],
    replay_rows: int,
    scenarios: Sequence[str],
    batch_size: int,
    seed: int,
    window: int = WINDOW,
    process: tuple[int, int] = (0, 1),
    arrays: Sequence[str] = (),
) -> Batches:
    """As `train_batches` of `new` without end, but that the last `replay_rows` of every batch are drawn from the past.

    Each part of a batch is shuffled by itself; the past is all parts of `past`, pooled, each of its rows as likely as
    any other, and none again before all have been drawn. Raises as `train_batches` does.
    """
    batches = train_batches(
        new.prepared, new.splits, scenarios, batch_size - replay_rows, seed, window, process=process, arrays=arrays
    )
    if not replay_rows:
        return batches
    first, *others = (part.prepared.blocks(part.splits, scenarios, arrays) for part in past)
    blocks = first.joined(others)
    if process[1] > len(blocks):
        raise ValueError(
            f"{process[1]} processes and {len(blocks)} blocks to replay: expected a block for each process"
        )
    replayed = _shuffled(blocks, replay_rows, seed, window, None, process, threads=1)
    both = grain.experimental.ZipIterDataset([batches.dataset, replayed]).map(_below_one_another)
    read = [[part.prepared.fingerprint, list(part.splits)] for part in past]
    mixed = Batches(both, {**batches.signature, "replay": {"rows": replay_rows, "of": read}})
    batches.close()
    return mixed


def _shuffled(
    blocks: Blocks, batch_size: int, seed: int, window: int, epochs: int | None, process: tuple[int, int], threads: int
) -> grain.IterDataset:
    """The chain of this file, up to the batches. Arguments are those of `train_batches`."""
    index, count = process
    dataset = grain.MapDataset.source(blocks).seed(seed).shuffle().slice(slice(index, None, count))
    windows = math.ceil(len(dataset) / window)
    even = math.ceil(len(dataset) / windows)  # of 9 blocks and windows of 4: 3, 3, 3 and not 4, 4, 1
    dataset = dataset.batch(even, batch_fn=list).random_map(_Shuffle()).repeat(epochs)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return grain.experimental.RebatchIterDataset(dataset.to_iter_dataset(ahead), batch_size, drop_remainder=True)


def _below_one_another(parts: tuple[Block, Block]) -> Block:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Shuffle:
    """Windows of blocks -> their rows in one random order, the same for every matrix. Safe in threads."""

    def __init__(self) -> None:
        self._own = threading.local()

    def __call__(self, blocks: list[Block], rng: np.random.Generator) -> Block:
        rows = sum(len(next(iter(b.values()))) for b in blocks)
        source = rng.permutation(rows)
        return {name: self._permuted([b[name] for b in blocks], source) for name in blocks[0]}

    def _permuted(self, parts: list[np.ndarray], source: np.ndarray) -> np.ndarray:
        """`out[i]` = row `source[i]` of the parts one after another."""
        shape, dtype = (len(source), parts[0].shape[1]), parts[0].dtype
        size = math.prod(shape) * dtype.itemsize
        # Arrow keeps freed memory, where NumPy would fault every page in again (15 % of a window's time), and aligns it
        # to 64 bytes, so that a row of 16 ids is one cache line and JAX on a CPU takes a batch without a copy.
        out = np.frombuffer(pa.allocate_buffer(size), dtype).reshape(shape)
        joined = self._scratch(size).view(dtype).reshape(shape)
        np.concatenate(parts, out=joined)
        return np.take(joined, source, axis=0, out=out, mode="clip")  # "raise" would copy once more

    def _scratch(self, size: int) -> np.ndarray:
        """Bytes of this thread, which all matrices share: they stay in the cache."""
        if not hasattr(self._own, "bytes") or len(self._own.bytes) < size:
            self._own.bytes = np.empty(size, np.uint8)
        return self._own.bytes[:size]


def eval_batches(
    prepared: PreparedSet, split: str, scenarios: Sequence[str], batch_size: int
) -> Iterator[tuple[Block, int]]:
    """Every row once, in stored order: `(batch of exactly batch_size rows, rows that are real)`.

    The rest of the last batch is padding: no label, weight 0, the missing id, key -1. Raises as `train_batches` does.
    """
    return _eval_batches(prepared.blocks((split,), scenarios), batch_size)


def _eval_batches(blocks: Blocks, batch_size: int) -> Iterator[tuple[Block, int]]:
    read = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    dataset = grain.MapDataset.source(blocks).to_iter_dataset(read)
    iterator = iter(grain.experimental.RebatchIterDataset(dataset, batch_size, drop_remainder=False))
    try:
        for batch in iterator:
            rows = len(batch["labels"])
            yield (batch if rows == batch_size else _padded(batch, batch_size)), rows
    finally:
        iterator.close()


def _padded(batch: Block, batch_size: int) -> Block:
    fill = {"labels": np.nan, "keys": -1, "query_ids": MISSING_ID, "ad_ids": MISSING_ID}
    out = {}
    for name, matrix in batch.items():
        out[name] = np.full((batch_size, matrix.shape[1]), fill.get(name, 0), matrix.dtype)
        out[name][: len(matrix)] = matrix
    return out
