"""Raw logs as a stream of Arrow tables, in bounded memory, whatever format they are in: see docs/data.md.

files.py (names, globs, URLs) -> one module a format -> `read`, here
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa

from input_pipeline.readers import array_record, arrow_ipc, delimited, jsonl, parquet, tfds, tfrecord
from input_pipeline.readers.files import ReadError, Source, first_below, list_sources, partitions
from input_pipeline.readers.rows import STRICT, Chunk, Errors, Types, arrow_types
from input_pipeline.readers.text_format import PLAIN, TextFormat

__all__ = [
    "PLAIN", "STRICT", "Chunk", "Errors", "ReadError", "TextFormat", "Types", "arrow_types", "first_below",
    "list_files", "read",
]  # fmt: skip

_Tables = Iterator[tuple[int, pa.Table]]
_READERS: dict[str, Callable[[Source, Types, Errors, TextFormat], _Tables]] = {
    "parquet": parquet.tables,
    "csv": delimited.tables,
    "tsv": delimited.tables,
    "jsonl": jsonl.tables,
    "ndjson": jsonl.tables,
    "tfrecord": tfrecord.tables,
    "array_record": array_record.tables,
    "arrow": arrow_ipc.tables,
    "arrows": arrow_ipc.tables,
    "ipc": arrow_ipc.tables,
    "feather": arrow_ipc.tables,
}
_NO_TYPES: Types = {}


def read(
    source: str | Path,
    types: Types = _NO_TYPES,
    errors: Errors = STRICT,
    parts: Collection[str] | None = None,
    dictionaries: bool = False,
    text: TextFormat = PLAIN,
) -> Iterator[tuple[str, int, pa.Table]]:
    """Streams a file, a glob, a directory, any of them as a URL, or `tfds:name/config:split`.

    A directory is read with everything below it, in the order of its paths, the formats mixed as they are. `key=value`
    folders of a path become columns, of integers where every value of the key is one. A suffix tells the format.

    Args:
      source: what to read; `s3://`, `gs://`, ... need the fsspec package of that name.
      types: of the columns, for formats that do not tell: `arrow_types(schema)`. Else they are guessed.
      errors: what becomes of a row that cannot be read.
      parts: only these of its files, named as `list_files` does.
      dictionaries: the texts of Parquet as Arrow dictionaries, as the files mostly have them: half the time to read.
      text: how values are written as text.

    Yields:
      `(file, number of the first row in it, rows)`.

    Raises:
      ReadError: nothing matches, a file is not what its suffix says, or a row is bad and `errors` is strict.
    """
    name = str(source)
    if name.startswith("tfds:"):
        yield from ((name, first_row, table) for first_row, table in tfds.tables(name, types, errors))
        return
    sources = list_sources(name, tuple(_READERS))
    values_of = partitions([s.name for s in sources])
    for one in (s for s in sources if parts is None or s.name in parts):
        reader = parquet.dictionaries if dictionaries and one.format == "parquet" else _READERS[one.format]
        for first_row, table in reader(one, types, errors, text):
            for key, value in values_of[one.name].items():
                if key not in table.column_names:
                    table = table.append_column(key, pa.repeat(value, table.num_rows))
            yield one.name, first_row, table


def list_files(source: str | Path) -> list[str]:
    """The data files of a source, sorted; `tfds:...` is one. Raises `ReadError` if there are none."""
    if str(source).startswith("tfds:"):
        return [str(source)]
    return [s.name for s in list_sources(str(source), tuple(_READERS))]
