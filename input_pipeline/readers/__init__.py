"""Raw logs as a stream of Arrow tables, in bounded memory, whatever format they are in: see docs/reference/formats.md.

`read` and `list_files` are here; each other module reads one format, by its function `tables`. sources/listing.py finds
the files, the table `FORMATS` of sources/detect_format.py says which module reads them. example.py decodes
tf.train.Example, quotes.py checks the quotes of CSV.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa

from input_pipeline.readers import parquet, tfds
from input_pipeline.sources.detect_format import FORMATS
from input_pipeline.sources.listing import first_below, list_sources, partitions
from input_pipeline.sources.notices import report
from input_pipeline.sources.source import ReadError, Source
from input_pipeline.sources.text_format import PLAIN, TextFormat
from input_pipeline.values.cast import cast_table
from input_pipeline.values.chunks import STRICT, Chunk, Errors, SkipUnknown, Types, arrow_types
from input_pipeline.values.column_names import with_names

__all__ = [
    "NO_TYPES", "PLAIN", "STRICT", "Chunk", "Errors", "ReadError", "SkipUnknown", "TextFormat", "Types",
    "arrow_types", "first_below", "list_files", "read",
]  # fmt: skip

NO_TYPES: Types = {}
_NAMES_SHOWN = 5


def read(
    source: str | Path,
    types: Types = NO_TYPES,
    errors: Errors = STRICT,
    parts: Collection[str] | None = None,
    dictionaries: bool = False,
    text: TextFormat = PLAIN,
) -> Iterator[tuple[str, int, pa.Table]]:
    """Streams a file, a glob, a directory, any of them as a URL, or `tfds:name/config:split`.

    A directory is read with everything below it, in the order of its paths, the formats mixed as they are. `key=value`
    folders of a path become columns, of integers where every value of the key is one. A name's suffix tells the format,
    or the first bytes where it does not. Columns without a name, and the index of pandas, are left out.

    Args:
      source: what to read; `s3://`, `gs://`, ... need the fsspec package of that name.
      types: of the columns, for formats that do not tell: `arrow_types(schema)`. Else they are guessed.
      errors: what becomes of a row that cannot be read, and of such a file of a directory.
      parts: only these of its files, named as `list_files` does.
      dictionaries: the texts of Parquet as Arrow dictionaries, as the files mostly have them: half the time to read.
      text: how values are written as text.

    Yields:
      `(file, number of the first row in it, rows)`.

    Raises:
      ReadError: nothing matches, a file is not what its suffix says, two columns of it have one name, or `errors` is
        strict and a row, or a file of a directory, cannot be read.
    """
    name = str(source)
    if name.startswith("tfds:"):
        for first_row, table in tfds.tables(name, types, errors, text):
            yield from ((name, row, rows) for row, rows in cast_table(name, first_row, table, types, errors, text))
        return
    sources = _sources(name, errors)
    values_of = partitions([s.name for s in sources])
    empty, empty_files = parts is None, list[str]()
    for one in (s for s in sources if parts is None or s.name in parts):
        if len(sources) > 1 and one.is_empty():
            empty_files.append(one.name)
            continue
        reader = parquet.dictionaries if dictionaries and one.format == "parquet" else _reader(one.format)
        for first_row, table in reader(one, types, errors, text):
            table = with_names(name, one.name, table, types)
            for key, value in values_of[one.name].items():
                if key not in table.column_names:
                    table = table.append_column(key, pa.repeat(pa.scalar(value), table.num_rows))
            for row, rows in cast_table(one.name, first_row, table, types, errors, text):
                yield one.name, row, rows
                empty = False
    _report(name, "empty files, without rows", empty_files)
    if empty and all(one.is_empty() for one in sources):
        raise ReadError(f"{name}: there are no rows to read, nor columns")


def list_files(source: str | Path, errors: Errors = STRICT) -> list[str]:
    """The data files of a source, sorted; `tfds:...` is one. Raises `ReadError` as `read` does."""
    if str(source).startswith("tfds:"):
        return [str(source)]
    return [s.name for s in _sources(str(source), errors)]


def _reader(format_: str) -> Callable[[Source, Types, Errors, TextFormat], Iterator[tuple[int, pa.Table]]]:
    return importlib.import_module(f"{__name__}.{FORMATS[format_].reader}").tables


def _sources(text: str, errors: Errors) -> list[Source]:
    listing = list_sources(text)
    if listing.skipped:
        errors.skip(text, listing.skipped)
    _report(text, "left out as no data, by name or as links to others", listing.no_data)
    _report(text, "read by their content, for their names do not tell", listing.by_content)
    if not listing.sources:
        raise ReadError(f"{text}: holds no file that can be read")
    return listing.sources


def _report(source: str, what: str, names: list[str]) -> None:
    if names:
        more = ", ..." if len(names) > _NAMES_SHOWN else ""
        report(f"{source}: {what}, {len(names):,}: {', '.join(names[:_NAMES_SHOWN])}{more}")
