"""The stored form of a prepared set: blocks of encoded rows that read back at memory speed.

One Parquet file per split, scenario and part; one row group per block; one fixed-size-binary column per matrix of
`tt_jax.schema.array_specs`, so that a column's bytes are the matrix. LZ4, no dictionary, no statistics, no nulls.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline.blocks.manifest import ADS, MANIFEST, SCHEMA, VERSION, DataFile, Manifest, total_fingerprint
from input_pipeline.blocks.samples import read_samples
from input_pipeline.blocks.verified import has_hash
from tt_jax.io.publish import sha256_of_all, verify_files
from tt_jax.io.strict_json import nearest
from tt_jax.schema import Schema, array_specs

Block = dict[str, np.ndarray]
T = TypeVar("T")

_PAGE_BYTES = 1 << 20  # a decoded page stays in the second-level cache: 15.9 M rows/s, 14.5 M with one page a column
_OPEN_FILES = 64  # per thread
log = logging.getLogger(__name__)


class PreparedError(ValueError):
    """A prepared set that is not what its manifest says, or does not hold what is asked of it."""


def stored_specs(schema: Schema) -> dict[str, tuple[np.dtype, int]]:
    """The matrices that are stored: those with at least one column."""
    return {name: spec for name, spec in array_specs(schema).items() if spec[1]}


class BlockWriter:
    """Writes blocks to one file. `rows` and `blocks` count what has been written."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.rows = self.blocks = 0
        self._specs = stored_specs(schema)
        fields = [pa.field(n, pa.binary(d.itemsize * w), nullable=False) for n, (d, w) in self._specs.items()]
        self._arrow = pa.schema(fields)
        self._writer = pq.ParquetWriter(
            path,
            self._arrow,
            compression="lz4",
            use_dictionary=False,
            write_statistics=False,
            data_page_size=_PAGE_BYTES,
        )

    def write(self, block: Mapping[str, np.ndarray]) -> None:
        """Writes one block of matrices `[rows, columns]`."""
        rows, columns = len(block["labels"]), []
        for name, (dtype, width) in self._specs.items():
            matrix = np.ascontiguousarray(block[name], dtype)
            if matrix.shape != (rows, width):
                raise ValueError(f"block: {name!r} has the shape {matrix.shape}, expected {(rows, width)}")
            buffers = [None, pa.py_buffer(matrix)]
            columns.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(dtype.itemsize * width), rows, buffers))
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._arrow), row_group_size=rows)
        self.rows += rows
        self.blocks += 1

    def close(self) -> None:
        """Writes the footer."""
        self._writer.close()


class Blocks:
    """Random access to the blocks of some files, for Grain: `blocks[i]` is a dict of read-only matrices.

    Safe in threads: a `ParquetFile` is not, so each thread opens its own. Raises `PreparedError` naming the file where
    its content is not what its hash says, which is asked before its first block, and file and block where one cannot be
    read.
    """

    def __init__(self, root: Path, schema: Schema, files: Sequence[DataFile], arrays: Sequence[str] = ()) -> None:
        """`arrays`: names of the matrices to read; empty for all."""
        for name in arrays:
            if name not in array_specs(schema):
                raise ValueError(f"unknown array {name!r}{nearest(name, array_specs(schema))}")
        self._specs = {n: spec for n, spec in array_specs(schema).items() if not arrays or n in arrays}
        self._stored = [n for n in stored_specs(schema) if n in self._specs]
        self._index = [(root / f.path, f.sha256, i) for f in files for i in range(f.blocks)]
        self._local = threading.local()
        self.rows = sum(f.rows for f in files)

    def __len__(self) -> int:
        return len(self._index)

    def joined(self, others: Sequence[Blocks]) -> Blocks:
        """These and then the others, of sets with the same schema, read by the same arrays."""
        found = copy.copy(self)
        found._index = [at for blocks in (self, *others) for at in blocks._index]
        found._local = threading.local()
        found.rows = sum(blocks.rows for blocks in (self, *others))
        return found

    def __getitem__(self, index: int) -> Block:
        path, sha256, group = self._index[index]
        try:
            table = self._open(path, sha256).read_row_group(group, columns=self._stored, use_threads=False)
            return {name: self._matrix(table, name) for name in self._specs}
        except PreparedError:
            raise
        except (pa.ArrowException, OSError, ValueError) as e:
            raise PreparedError(f"{path}: block {group} is not readable: {str(e).splitlines()[0]}") from e

    def _matrix(self, table: pa.Table, name: str) -> np.ndarray:
        dtype, width = self._specs[name]
        if not width:
            return np.zeros((table.num_rows, 0), dtype)
        (column,) = table.column(name).chunks
        size = dtype.itemsize * width
        if column.type != pa.binary(size):
            raise ValueError(f"column {name!r} is {column.type}, expected {pa.binary(size)}")
        values = np.frombuffer(column.buffers()[1], dtype, table.num_rows * width, column.offset * size)
        return values.reshape(-1, width)

    def _open(self, path: Path, sha256: str) -> pq.ParquetFile:
        files: dict[Path, pq.ParquetFile] = self._local.__dict__.setdefault("files", {})
        if path not in files:
            _check_hash(path, has_hash(path, sha256))
            if len(files) >= _OPEN_FILES:
                files.pop(next(iter(files))).close()
            files[path] = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        return files[path]


@dataclass(frozen=True)
class PreparedSet:
    """A prepared set that has been opened: see `open`."""

    root: Path
    schema: Schema
    manifest: Manifest

    @staticmethod
    def open(path: str | Path, verify: bool = False) -> PreparedSet:
        """Reads manifest and schema, and checks that every file is there with its size.

        The hash of a file of blocks is checked before its first block is read; those of all others are, here.

        Args:
          path: what `prepare` wrote.
          verify: hash the files of blocks too, now.

        Raises:
          PreparedError: it is not a prepared set, or not a whole one; the message names the file.
        """
        root = Path(path)
        if not (root / MANIFEST).is_file():
            wrong = "half written" if (root / SCHEMA).is_file() else "not a prepared set"
            raise PreparedError(f"{root}: {wrong}: it has no {MANIFEST}; make one with `tt-jax prepare`")
        manifest = _parse(root / MANIFEST, Manifest.from_json)
        schema = _parse(root / SCHEMA, Schema.from_json)
        if schema.fingerprint != manifest.schema:
            raise PreparedError(f"{root / SCHEMA}: not the schema that the set was prepared with")
        if total_fingerprint(manifest.schema, manifest.files, manifest.ads_sha256) != manifest.fingerprint:
            raise PreparedError(f"{root / MANIFEST}: changed since it was written: the fingerprint does not match")
        _check_files(root, manifest, verify)
        return PreparedSet(root, schema, manifest)

    @property
    def fingerprint(self) -> str:
        """Identifies schema and data."""
        return self.manifest.fingerprint

    def files(self, split: str, scenarios: Sequence[str] = ()) -> list[DataFile]:
        """The files of some scenarios of a split, all of them by default. Raises `PreparedError` if one has no rows."""
        splits = self.manifest.splits
        if split not in splits:
            raise PreparedError(f"{self.root}: unknown split {split!r}{nearest(split, splits)}")
        for name in scenarios:
            if name not in splits[split]:
                raise PreparedError(f"{self.root}: unknown scenario {name!r}{nearest(name, splits[split])}")
            if not splits[split][name].rows:
                raise PreparedError(f"{self.root}: the scenario {name!r} has no rows in the split {split!r}")
        files = [f for f in self.manifest.files if f.split == split and (not scenarios or f.scenario in scenarios)]
        if not files:
            raise PreparedError(f"{self.root}: the split {split!r} is empty")
        return files

    def rows(self, split: str, scenarios: Sequence[str] = ()) -> int:
        """Rows of some scenarios of a split."""
        return sum(f.rows for f in self.files(split, scenarios))

    def blocks(self, splits: Sequence[str], scenarios: Sequence[str] = (), arrays: Sequence[str] = ()) -> Blocks:
        """The blocks of some scenarios of some splits, one split after another; nothing else of the set is touched.

        Raises `PreparedError` as `files` does.
        """
        files = [f for split in splits for f in self.files(split, scenarios)]
        return Blocks(self.root, self.schema, files, arrays)

    def samples(self, scenarios: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A few raw rows; see `input_pipeline.blocks.samples.read_samples`."""
        return read_samples(self.root, scenarios)


@dataclass(frozen=True)
class Part:
    """Some splits of a prepared set, pooled."""

    prepared: PreparedSet
    splits: tuple[str, ...]

    def rows(self, scenarios: Sequence[str] = ()) -> int:
        """Rows of some scenarios. Raises `PreparedError` as `PreparedSet.files` does."""
        return sum(self.prepared.rows(split, scenarios) for split in self.splits)


def _parse(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text())
    except (ValueError, OSError) as e:
        raise PreparedError(f"{path}: {e}") from e


def _check_files(root: Path, manifest: Manifest, verify: bool) -> None:
    if manifest.version < VERSION:
        log.warning("%s: prepared by an earlier version: its counts and sample rows have no hash to verify", root)
    files = {f.path: f for f in manifest.files}
    for file in files.values():
        path = root / file.path
        if not path.is_file():
            raise PreparedError(f"{path}: missing, but the manifest lists it")
        if path.stat().st_size != file.bytes:
            raise PreparedError(f"{path}: {path.stat().st_size} bytes, expected {file.bytes}")
    verify_files(root, manifest.beside, PreparedError)
    if manifest.ads_sha256:
        if not (root / ADS).is_file():
            raise PreparedError(f"{root / ADS}: missing, but the manifest lists it")
        _check_hash(root / ADS, has_hash(root / ADS, manifest.ads_sha256))
    if verify:
        for file, sha256 in zip(files.values(), sha256_of_all([root / path for path in files]), strict=True):
            _check_hash(root / file.path, sha256 == file.sha256)
    found = {str(p.relative_to(root)) for p in root.rglob("*.parquet")}
    for extra in sorted(found - set(files) - ({ADS} if manifest.ads_sha256 else set())):
        raise PreparedError(f"{root / extra}: not in the manifest")


def _check_hash(path: Path, matches: bool) -> None:
    if not matches:
        raise PreparedError(f"{path}: the content does not match its hash in the manifest")
