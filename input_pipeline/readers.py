"""Raw logs as a stream of Arrow tables, in bounded memory: Parquet, CSV and TensorFlow Datasets."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

CHUNK_ROWS = 65_536  # rows of a Parquet chunk
CSV_CHUNK_BYTES = 8 << 20
TFDS_CHUNK_ROWS = 8_192
_CSV = (".csv", ".csv.gz")
_FORMATS = (".parquet", *_CSV)


class ReadError(ValueError):
    """A source that cannot be read. The message begins with the file."""


@dataclass(frozen=True)
class Chunk:
    """Rows of one split, joined with what the schema wants to know of them.

    Attributes:
      split: `train`, `eval`, `test`, ...
      file: where the rows come from, for messages.
      first_row: number of the first row within that file.
      table: the rows.
      rows: numbers of the rows, counted from `first_row`; None where they are consecutive.
    """

    split: str
    file: str
    first_row: int
    table: pa.Table
    rows: np.ndarray | None = None

    def row_number(self, index: int) -> int:
        """Number in the file of row `index` of the table."""
        return self.first_row + (index if self.rows is None else int(self.rows[index]))


def read(source: str | Path) -> Iterator[tuple[str, int, pa.Table]]:
    """Streams a file, a glob, a directory or `tfds:name/config:split` as `(file, first row, rows)`.

    A directory is read with everything below it, in the order of its paths. `key=value` folders of a path become
    columns, of integers where every value of the key is one. A suffix tells the format: `.parquet`, `.csv`, `.csv.gz`.

    Raises:
      ReadError: nothing matches, or a file is not what its suffix says.
    """
    text = str(source)
    if text.startswith("tfds:"):
        yield from _read_tfds(text)
        return
    files = list_files(text)
    partitions = _partitions(files)
    for file in files:
        for first_row, table in _read_file(file):
            for key, value in partitions[file].items():
                if key not in table.column_names:
                    table = table.append_column(key, pa.repeat(value, table.num_rows))
            yield str(file), first_row, table


def list_files(source: str) -> list[Path]:
    """The data files of a file name, glob or directory, sorted. Raises `ReadError` if there are none."""
    path = Path(source)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path))]
        files = sorted(p for p in found if p.name.endswith(_FORMATS))
        if not files:
            raise ReadError(f"{source}: the directory holds no {', '.join(_FORMATS)} file")
        return files
    matches = [path] if path.is_file() else [Path(p) for p in glob.glob(source, recursive=True)]
    files = sorted(p for p in matches if p.is_file())
    if not files:
        raise ReadError(f"{source}: no such file, and no file matches it as a pattern")
    for file in files:
        if not file.name.endswith(_FORMATS):
            raise ReadError(f"{file}: unknown format, expected a name that ends in {', '.join(_FORMATS)}")
    return files


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _partitions(files: list[Path]) -> dict[Path, dict[str, str | int]]:
    """The `key=value` folders of each file's path."""
    found: dict[Path, dict[str, str | int]] = {}
    for file in files:
        pairs = (part.partition("=") for part in file.parts[:-1])
        found[file] = {key: value for key, equals, value in pairs if equals}
    for key in {k for values in found.values() for k in values}:
        having = [values for values in found.values() if key in values]
        if all(_is_int(values[key]) for values in having):
            for values in having:
                values[key] = int(values[key])
    return found


def _is_int(value: str | int) -> bool:
    text = str(value)
    return text == str(int(text)) if text.removeprefix("-").isdecimal() else False


def _read_file(file: Path) -> Iterator[tuple[int, pa.Table]]:
    is_csv = file.name.endswith(_CSV)
    tables, first_row = _csv_tables(file) if is_csv else _parquet_tables(file), 0
    while True:
        with _named(file, "CSV" if is_csv else "Parquet", first_row):
            table = next(tables, None)
        if table is None:
            return
        yield first_row, table
        first_row += table.num_rows


def _parquet_tables(file: Path) -> Iterator[pa.Table]:
    # pre_buffer would hold a whole row group's bytes, and a row group can be the whole file.
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        if not parquet.metadata.num_rows:
            yield parquet.schema_arrow.empty_table()  # so that its columns are checked, and its split is known
        for batch in parquet.iter_batches(CHUNK_ROWS):
            yield pa.Table.from_batches([batch])


def _csv_tables(file: Path) -> Iterator[pa.Table]:
    options = csv.ReadOptions(block_size=CSV_CHUNK_BYTES)
    convert = csv.ConvertOptions(null_values=["", "NULL", "null"], strings_can_be_null=True)
    with csv.open_csv(file, read_options=options, convert_options=convert) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


@contextmanager
def _named(file: Path, kind: str, row: int = 0) -> Iterator[None]:
    """Turns pyarrow's errors, which do not name the file, into a `ReadError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        raise ReadError(f"{file}: not readable as {kind} from row {row} on: {str(e).splitlines()[0]}") from e


def _read_tfds(source: str) -> Iterator[tuple[str, int, pa.Table]]:
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix("tfds:").rpartition(":")
    if not name:
        raise ReadError(f"{source}: expected tfds:name/config:split")
    try:
        examples: Any = tfds.data_source(name, split=split)
    except Exception as e:  # each builder raises its own kinds
        raise ReadError(f"{source}: not readable as a TensorFlow data set: {str(e).splitlines()[0]}") from e
    for first_row in range(0, len(examples), TFDS_CHUNK_ROWS):
        rows = [examples[i] for i in range(first_row, min(first_row + TFDS_CHUNK_ROWS, len(examples)))]
        yield source, first_row, pa.table({key: [_plain(row[key]) for row in rows] for key in rows[0]})


def _plain(value: Any) -> Any:
    """A TFDS value as Arrow takes it: bytes are text, arrays are lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(v) for v in value] if isinstance(value, list) else value
