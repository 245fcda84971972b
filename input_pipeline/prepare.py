"""Raw logs to a prepared set: encoded, partitioned by split and scenario, stored as blocks, counted in a manifest.

It streams: at any time one chunk of the logs and one unfinished block per split and scenario are in memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from input_pipeline.blocks import BlockWriter, stored_specs
from input_pipeline.key_types import KeyTypes
from input_pipeline.manifest import (
    ADS,
    MANIFEST,
    SCHEMA,
    VERSION,
    Counts,
    DataFile,
    Manifest,
    sha256_of,
    total_fingerprint,
)
from input_pipeline.quarantine import Quarantine, encode_good
from input_pipeline.readers import Chunk
from input_pipeline.samples import Samples
from tt_jax.features import Encoded, EncodeError, Encoder
from tt_jax.publish import published_directory, write_json
from tt_jax.schema import Schema, SchemaError

BLOCK_ROWS = 16_384
_PART_BLOCKS = 256  # blocks of a file: a footer stays small, a file below a few GB
_PLAIN_PROGRESS_S = 10.0


def prepare(
    schema: Schema,
    chunks: Iterable[Chunk],
    out: str | Path,
    block_rows: int = BLOCK_ROWS,
    ads: pa.Table | None = None,
    documents: Mapping[str, Any] | None = None,
    quarantine: Quarantine | None = None,
) -> Manifest:
    """Encodes the chunks and writes a prepared set to `out`, which appears whole or not at all.

    Args:
      schema: of the logs.
      chunks: their rows; the order within a split and scenario is kept.
      out: directory to create.
      block_rows: rows of a block, the unit of reading and of the global shuffle; 8 to 64 thousand.
      ads: the ad corpus, stored beside the blocks as `ads.parquet` for `tt-jax index`.
      documents: by file name what else is stored beside them, as JSON.
      quarantine: what keeps the bad rows; without, the first one ends the run.

    Raises:
      SchemaError: a row does not fit the schema; the message names file, column and row.
      PublishError: `out` exists, or another run is writing it.
    """
    with published_directory(out) as folder:
        if quarantine is not None:
            quarantine.write_to(folder)
        writer = PreparedWriter(folder, schema, block_rows)
        encoder, samples, progress, keys = Encoder(schema), Samples(schema), _Progress(), KeyTypes(schema)
        try:
            for chunk in chunks:
                keys.check(chunk)
                _add_chunk(writer, encoder, samples, chunk, quarantine)
                progress.update(chunk.split, chunk.table.num_rows)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        finally:
            progress.close()
        progress.report()
        samples.write(folder)
        if ads is not None:
            pq.write_table(ads, folder / ADS, compression="lz4")
        for name, content in (documents or {}).items():
            write_json(folder / name, content)
        return writer.finish(0 if quarantine is None else quarantine.rejected)


def _add_chunk(
    writer: PreparedWriter, encoder: Encoder, samples: Samples, chunk: Chunk, quarantine: Quarantine | None
) -> None:
    """Encodes scenario by scenario, since what is missing is counted for each."""
    writer.declare(chunk.split)
    for rows in _rows_by_scenario(chunk.table, encoder.schema.scenario):
        rows = np.arange(chunk.table.num_rows) if rows is None else rows
        table = chunk.table if len(rows) == chunk.table.num_rows else chunk.table.take(pa.array(rows))
        if quarantine is None:
            encoded = _encode(encoder, table, rows, chunk)
        else:
            numbers = np.array([chunk.row_number(int(i)) for i in rows])
            table, encoded = encode_good(encoder, table, numbers, chunk.file, quarantine)
        if table.num_rows:
            scenario = encoder.schema.scenarios[int(encoded.arrays["scenario"][0, 0])]
            writer.add(chunk.split, scenario, encoded.arrays, encoded.missing)
            samples.add(scenario, table)


def _encode(encoder: Encoder, table: pa.Table, rows: np.ndarray, chunk: Chunk) -> Encoded:
    try:
        return encoder.encode({name: table.column(name) for name in table.column_names})
    except EncodeError as e:
        row = None if e.row is None else chunk.row_number(int(rows[e.row]))
        raise SchemaError(f"{chunk.file}: {EncodeError(e.column, row, _reason(e, chunk))}") from e


def _reason(e: EncodeError, chunk: Chunk) -> str:
    """Where a whole column is wrong, the first value tells more than its type."""
    if e.row is not None or e.column not in chunk.table.column_names or not chunk.table.num_rows:
        return e.reason
    return f"{e.reason}, as {chunk.table.column(e.column)[0].as_py()!r} in row {chunk.row_number(0)}"


def _rows_by_scenario(table: pa.Table, column: str) -> list[np.ndarray | None]:
    """Row numbers of each scenario, None standing for all rows."""
    if column not in table.column_names:
        return [None]  # the encoder names the missing column
    values = table.column(column).combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy()
    found = np.unique(codes)
    return [None] if len(found) < 2 else [np.flatnonzero(codes == code) for code in found]


class PreparedWriter:
    """Collects encoded rows into blocks and writes a prepared set: `add` as often as needed, `close`, then `finish`."""

    def __init__(self, folder: Path, schema: Schema, block_rows: int) -> None:
        if block_rows < 1:
            raise ValueError(f"block_rows {block_rows} is not >= 1")
        self._folder, self._schema, self._block_rows = folder, schema, block_rows
        self._parts: dict[tuple[str, str], _Part] = {}
        self._splits: list[str] = []

    def declare(self, split: str) -> None:
        """Makes the split one of the set, though it may get no rows."""
        if split not in self._splits:
            self._splits.append(split)

    def add(self, split: str, scenario: str, arrays: Mapping[str, np.ndarray], missing: Mapping[str, int]) -> None:
        """Adds rows: the matrices of `array_specs`, and the number of rows in which each feature is missing."""
        self.declare(split)
        key = (split, scenario)
        if key not in self._parts:
            name = f"split={quote(split, safe='')}/scenario={quote(scenario, safe='')}"
            self._parts[key] = _Part(self._folder / name, self._schema, self._block_rows)
        self._parts[key].add(arrays, missing)

    def close(self) -> None:
        """Writes the unfinished blocks and the footers."""
        for part in self._parts.values():
            part.close()

    def abandon(self) -> None:
        """Closes the files after an error, which another one is not to hide."""
        for part in self._parts.values():
            part.abandon()

    def finish(self, rejected: int = 0) -> Manifest:
        """Writes schema and manifest; `rejected` counts the rows that were left out."""
        (self._folder / SCHEMA).write_text(self._schema.to_json())
        files = tuple(
            _data_file(self._folder, path, split, scenario, rows, blocks)
            for (split, scenario), part in sorted(self._parts.items())
            for path, rows, blocks in part.written
        )
        splits: dict[str, dict[str, Counts]] = {}
        for split in self._splits:
            parts = ((name, self._parts.get((split, name))) for name in self._schema.scenarios)
            splits[split] = {name: _counts(self._schema, part) for name, part in parts}
        ads = self._folder / ADS
        ads_sha256 = sha256_of(ads) if ads.exists() else ""
        fingerprint = total_fingerprint(self._schema.fingerprint, files, ads_sha256)
        manifest = Manifest(
            VERSION, self._schema.fingerprint, self._block_rows, splits, files, ads_sha256, fingerprint, rejected
        )
        (self._folder / MANIFEST).write_text(manifest.to_json())
        return manifest


class _Part:
    """The rows of one split and scenario: an unfinished block, the open file, and what has been counted."""

    def __init__(self, folder: Path, schema: Schema, block_rows: int) -> None:
        self.rows = 0
        self.labelled = np.zeros(len(schema.tasks), np.int64)
        self.label_sum = np.zeros(len(schema.tasks), np.float64)
        self.missing = dict.fromkeys((f.name for f in schema.features), 0)
        self.written: list[tuple[Path, int, int]] = []  # path, rows, blocks
        self._folder, self._schema = folder, schema
        self._block = {n: np.empty((block_rows, w), d) for n, (d, w) in stored_specs(schema).items()}
        self._capacity, self._filled = block_rows, 0
        self._writer: BlockWriter | None = None
        folder.mkdir(parents=True)

    def add(self, arrays: Mapping[str, np.ndarray], missing: Mapping[str, int]) -> None:
        labels = arrays["labels"]
        self.rows += len(labels)
        self.labelled += (~np.isnan(labels)).sum(0)
        self.label_sum += np.nansum(labels, 0, dtype=np.float64)
        for name, count in missing.items():
            self.missing[name] += count
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
        if self._writer is None:
            path = self._folder / f"part-{len(self.written):05d}.parquet"
            self._writer = BlockWriter(path, self._schema)
            self.written.append((path, 0, 0))
        try:
            self._writer.write({name: matrix[: self._filled] for name, matrix in self._block.items()})
        except OSError as e:  # pyarrow does not name the file
            raise OSError(f"{self.written[-1][0]}: cannot be written: {e}") from e
        self._filled = 0
        self.written[-1] = (self.written[-1][0], self._writer.rows, self._writer.blocks)
        if self._writer.blocks == _PART_BLOCKS:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        if self._filled:
            self._write()
        self._end_file()

    def abandon(self) -> None:
        with suppress(OSError, ValueError):
            self._end_file()


def _data_file(folder: Path, path: Path, split: str, scenario: str, rows: int, blocks: int) -> DataFile:
    name = path.relative_to(folder).as_posix()
    return DataFile(name, split, scenario, rows, blocks, path.stat().st_size, sha256_of(path))


def _counts(schema: Schema, part: _Part | None) -> Counts:
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


class _Progress:
    """Rows done, on stderr: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._bar = tqdm(unit=" rows", unit_scale=True, file=sys.stderr) if sys.stderr.isatty() else None
        self._rows, self._told = 0, time.monotonic()

    def update(self, split: str, rows: int) -> None:
        self._rows += rows
        if self._bar is not None:
            self._bar.set_description(f"prepare {split}", refresh=False)
            self._bar.update(rows)
        elif time.monotonic() - self._told > _PLAIN_PROGRESS_S:
            self._told = time.monotonic()
            print(f"prepare {split}: {self._rows:,} rows so far", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self) -> None:
        if self._bar is None:
            print(f"prepare: {self._rows:,} rows", file=sys.stderr)
