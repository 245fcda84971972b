"""The stored form of a prepared set: blocks of encoded rows that read back at memory speed.

One Parquet file per split, scenario and part; one row group per block; one fixed-size-binary column per matrix of
`tt_jax.schema.array_specs`, so that a column's bytes are the matrix. LZ4, no dictionary, no statistics, no nulls.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline.blocks.manifest import DataFile
from tt_jax.io.strict_json import nearest
from tt_jax.io.verify import verify_once
from tt_jax.schema import Schema, array_specs

Block = dict[str, np.ndarray]

_PAGE_BYTES = 1 << 20  # a decoded page stays in the second-level cache: 15.9 M rows/s, 14.5 M with one page a column
_OPEN_FILES = 64  # per thread


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
        result = copy.copy(self)
        result._index = [at for blocks in (self, *others) for at in blocks._index]
        result._local = threading.local()
        result.rows = sum(blocks.rows for blocks in (self, *others))
        return result

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
            verify_once(path, sha256, PreparedError)
            if len(files) >= _OPEN_FILES:
                files.pop(next(iter(files))).close()
            files[path] = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        return files[path]
