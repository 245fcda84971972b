"""What is written of a prepared set: encoded rows collected into blocks, counted as the blocks are finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from input_pipeline.blocks.block import BlockWriter, stored_specs
from input_pipeline.blocks.manifest import (
    ADS,
    MANIFEST,
    SCHEMA,
    VERSION,
    Counts,
    DataFile,
    Manifest,
    total_fingerprint,
)
from tt_jax.io.disk_full import writing
from tt_jax.io.publish import describe_files
from tt_jax.io.verify import sha256_of, sha256_of_all
from tt_jax.schema import Schema

_WAITING = 2  # blocks to be written
_PART_BLOCKS = 256  # blocks of a file: a footer stays small, a file below a few GB
Key = tuple[str, str]  # split, scenario


def folder_of(split: str, scenario: str) -> str:
    """Where the files of a split and scenario are, below the set's directory."""
    return f"split={quote(split, safe='')}/scenario={quote(scenario, safe='')}"


class NoRowsError(ValueError):
    """Nothing was read: a set of no rows is of no use."""


@dataclass(frozen=True)
class Written:
    """The rows of one split and scenario: their files, and what has been counted.

    Attributes:
      labelled, label_sum: per task, `[T]`; summed block by block, so that it does not matter how the rows came.
      missing: rows in which a feature is missing, by feature.
    """

    files: tuple[DataFile, ...]
    rows: int
    labelled: np.ndarray
    label_sum: np.ndarray
    missing: Mapping[str, int]


class _Thread:
    """Does one thing after another in a thread of its own; an error is raised by the next call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()

    def do(self, thing: Callable[[], None]) -> None:
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(thing))

    def close(self) -> None:
        """Waits until all is done."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


class PreparedWriter:
    """Collects encoded rows into blocks and writes a prepared set: `add` as often as needed, `close`, then `finish`.

    A thread writes the blocks. Its error is raised by a later call: by `close` at the latest.
    """

    def __init__(self, folder: Path, schema: Schema, block_rows: int) -> None:
        if block_rows < 1:
            raise ValueError(f"block_rows {block_rows} is not >= 1")
        self._folder, self._schema, self._block_rows = folder, schema, block_rows
        self._parts: dict[Key, _Part] = {}
        self._thread = _Thread()
        self.splits: list[str] = []

    def declare(self, split: str) -> None:
        """Makes the split one of the set, though it may get no rows."""
        if split not in self.splits:
            self.splits.append(split)

    def add(self, split: str, scenario: str, arrays: Mapping[str, np.ndarray], missing: Mapping[str, int]) -> None:
        """Adds rows: the matrices of `array_specs`, and the number of rows in which each feature is missing."""
        self.declare(split)
        key = (split, scenario)
        if key not in self._parts:
            self._parts[key] = _Part(self._folder / folder_of(*key), self._schema, self._block_rows, self._thread)
        self._parts[key].add(arrays, missing)

    def close(self) -> None:
        """Writes the unfinished blocks and the footers."""
        for part in self._parts.values():
            part.close()
        self._thread.close()

    def abandon(self) -> None:
        """Closes the files after an error, which another one is not to hide."""
        with suppress(Exception):
            self._thread.close()
        for part in self._parts.values():
            part.abandon()

    def written(self) -> dict[Key, Written]:
        """What has been written, once closed. It hashes the files."""
        paths = [path for part in self._parts.values() for path in part.paths()]
        hashes = dict(zip(paths, sha256_of_all(paths), strict=True))
        return {key: part.written_of(self._folder, *key, hashes) for key, part in self._parts.items()}

    def finish(self, rejected: int = 0) -> Manifest:
        """Writes schema and manifest; `rejected` counts the rows that were left out."""
        return write_set_manifest(self._folder, self._schema, self._block_rows, self.splits, self.written(), rejected)


def write_set_manifest(
    folder: Path,
    schema: Schema,
    block_rows: int,
    splits: Iterable[str],
    written: Mapping[Key, Written],
    rejected: int,
) -> Manifest:
    """Writes schema and manifest of a set whose other files are all there. Raises `NoRowsError`."""
    if not written and not rejected:
        raise NoRowsError("there are no rows")
    (folder / SCHEMA).write_text(schema.to_json())
    files = tuple(file for _, part in sorted(written.items(), key=lambda item: item[0]) for file in part.files)
    counts = {
        split: {name: _counts(schema, written.get((split, name))) for name in schema.scenarios} for split in splits
    }
    ads = folder / ADS
    ads_sha256 = sha256_of(ads) if ads.exists() else ""
    fingerprint = total_fingerprint(schema.fingerprint, files, ads_sha256)
    beside = describe_files(folder, {ADS, *(file.path for file in files)})
    manifest = Manifest(
        VERSION, schema.fingerprint, block_rows, counts, files, ads_sha256, fingerprint, rejected, beside
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


class _Part:
    """The rows of one split and scenario: an unfinished block, the open file, and what has been counted."""

    def __init__(self, folder: Path, schema: Schema, block_rows: int, thread: _Thread) -> None:
        self._rows, self._thread = 0, thread
        self._labelled = np.zeros(len(schema.tasks), np.int64)
        self._label_sum = np.zeros(len(schema.tasks), np.float64)
        self._missing = dict.fromkeys((f.name for f in schema.features), 0)
        self._written: list[tuple[Path, int, int]] = []  # path, rows, blocks
        self._folder, self._schema = folder, schema
        self._capacity, self._filled = block_rows, 0
        self._block = self._empty_block()
        self._writer: BlockWriter | None = None
        folder.mkdir(parents=True)

    def add(self, arrays: Mapping[str, np.ndarray], missing: Mapping[str, int]) -> None:
        labels = arrays["labels"]
        for name, count in missing.items():
            self._missing[name] += count
        first = 0
        while first < len(labels):
            last = min(len(labels), first + self._capacity - self._filled)
            for name, matrix in self._block.items():
                matrix[self._filled : self._filled + last - first] = arrays[name][first:last]
            self._filled += last - first
            first = last
            if self._filled == self._capacity:
                self._write()

    def _write(self) -> None:
        """Has the block written by the thread, which alone touches the file and the counts of blocks, until `close`."""
        block = {name: matrix[: self._filled] for name, matrix in self._block.items()}
        self._block, self._filled = self._empty_block(), 0
        self._thread.do(lambda: self._write_block(block))

    def _write_block(self, block: Mapping[str, np.ndarray]) -> None:
        if self._writer is None:
            path = self._folder / f"part-{len(self._written):05d}.parquet"
            self._writer = BlockWriter(path, self._schema)
            self._written.append((path, 0, 0))
        with writing(self._written[-1][0]):  # pyarrow does not name the file
            self._writer.write(block)
        labels = block["labels"]
        self._rows += len(labels)
        self._labelled += (~np.isnan(labels)).sum(0)
        self._label_sum += np.nansum(labels, 0, dtype=np.float64)
        self._written[-1] = (self._written[-1][0], self._writer.rows, self._writer.blocks)
        if self._writer.blocks == _PART_BLOCKS:
            self._end_file()

    def _empty_block(self) -> dict[str, np.ndarray]:
        return {n: np.empty((self._capacity, w), d) for n, (d, w) in stored_specs(self._schema).items()}

    def _end_file(self) -> None:
        if self._writer is not None:
            with writing(self._written[-1][0]):
                self._writer.close()
            self._writer = None

    def close(self) -> None:
        if self._filled:
            self._write()
        self._thread.do(self._end_file)

    def abandon(self) -> None:
        """Closes the file, once the thread has ended."""
        with suppress(OSError, ValueError):
            self._end_file()

    def paths(self) -> list[Path]:
        return [path for path, *_ in self._written]

    def written_of(self, root: Path, split: str, scenario: str, hashes: Mapping[Path, str]) -> Written:
        """The files, their paths below `root`, and the counts."""
        files = tuple(
            DataFile(
                path.relative_to(root).as_posix(), split, scenario, rows, blocks, path.stat().st_size, hashes[path]
            )
            for path, rows, blocks in self._written
        )
        return Written(files, self._rows, self._labelled, self._label_sum, self._missing)


def _counts(schema: Schema, part: Written | None) -> Counts:
    if part is None:
        none = dict.fromkeys((f.name for f in schema.features), None)
        return Counts(0, dict.fromkeys(schema.task_names, 0), dict.fromkeys(schema.task_names, None), dict(none))
    labelled = [int(n) for n in part.labelled]
    rate = [float(total) / n if n else None for total, n in zip(part.label_sum, labelled, strict=True)]
    return Counts(
        rows=part.rows,
        labelled=dict(zip(schema.task_names, labelled, strict=True)),
        rate=dict(zip(schema.task_names, rate, strict=True)),
        coverage={name: 1 - missing / part.rows for name, missing in part.missing.items()},
    )
