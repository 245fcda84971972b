"""CSV and TSV with a line of names, plain or compressed, in UTF-8.

Every cell is read as text and cast here, so that a cell that does not fit is known by row, column and value.
"""

from __future__ import annotations

import csv as python_csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv

from input_pipeline.readers.quotes import CheckedQuotes, require_well_formed
from input_pipeline.sources.source import ReadError, Source
from input_pipeline.sources.text_format import DELIMITERS, TextFormat
from input_pipeline.values.cast import cast_table
from input_pipeline.values.chunks import Errors, Types
from input_pipeline.values.column_names import plain_name, require_different
from input_pipeline.values.infer_types import types_of_texts

CHUNK_BYTES = 8 << 20


def tables(source: Source, types: Types, errors: Errors, text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows. Columns that `types` does not name have the type of all cells of the file (`text_types`).

    A file of no bytes has no rows. Raises `ReadError` for another encoding, and for a delimiter that is another one.
    """
    kind = source.format.upper()
    with source.named_errors(kind, 0):
        names = _names(source, text)
    if names is None:
        return
    require_different(source.name, names)
    types = {name: types.get(name, types.get(plain_name(name))) for name in names} | {"": pa.string()}
    if untyped := [name for name, type_ in types.items() if type_ is None]:
        with source.named_errors(kind, 0), _opened(source, text, _skip, names, untyped) as batches:
            types |= dict.fromkeys(untyped, pa.null()) | types_of_texts(batches, text.missing)
    for first_row, batch in _batches(source, kind, names, errors, text):
        yield from cast_table(source.name, first_row, pa.Table.from_batches([batch]), types, errors, text)


def _batches(
    source: Source, kind: str, names: list[str], errors: Errors, text: TextFormat
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows as bytes, each batch with the number of its first row, cut where a row is left out that is ragged."""
    ragged: list[int] = []
    failed: list[ValueError] = []

    def reject(row: csv.InvalidRow) -> str:
        ragged.append(-1 if row.number is None else row.number - 2)  # of 1 for the names
        reason = f"expected {row.expected_columns} columns, got {row.actual_columns}: {row.text!r}"
        try:
            errors.reject(source.name, ragged[-1], reason, row.text)
        except ValueError as e:  # pyarrow would lose it
            failed.append(e)
            return "error"
        return "skip"

    first_row = 0
    try:
        with source.named_errors(kind, 0), _opened(source, text, reject, names) as reader:
            while True:
                with source.named_errors(kind, first_row):
                    batch = next(reader, None)
                if batch is None:
                    break
                start = 0
                while start < batch.num_rows:  # up to the next ragged row
                    while first_row in ragged:
                        first_row += 1
                    until = min((r - first_row for r in ragged if r > first_row), default=batch.num_rows)
                    piece = batch.slice(start, until)
                    yield first_row, piece
                    start, first_row = start + piece.num_rows, first_row + piece.num_rows
                ragged[:] = [r for r in ragged if r >= first_row]
    except ValueError as e:
        raise failed[0] if failed else e from None
    if not first_row:
        yield 0, pa.RecordBatch.from_arrays([pa.nulls(0, pa.string())] * len(names), names)


@contextmanager
def _opened(
    source: Source, text: TextFormat, reject: Any, names: list[str], only: list[str] | None = None
) -> Iterator[csv.CSVStreamingReader]:
    """The columns, or only some, as bytes: the cast reports what is no UTF-8, by its row."""
    delimiter = _delimiter(source, text)
    parse = csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if text.quotes else False,
        newlines_in_values=text.quotes,
        invalid_row_handler=reject,
    )
    convert = csv.ConvertOptions(
        null_values=[""],
        strings_can_be_null=True,
        column_types=dict.fromkeys(names, pa.binary()),
        include_columns=only,
    )
    with source.open() as stream:
        checked = CheckedQuotes(source, stream, delimiter) if text.quotes else stream
        try:
            yield csv.open_csv(checked, csv.ReadOptions(block_size=CHUNK_BYTES, use_threads=False), parse, convert)
        except ValueError:  # of a row that a quote has made too long, say
            if text.quotes:
                require_well_formed(source, delimiter)
            raise


def _skip(_row: csv.InvalidRow) -> str:
    return "skip"


def _delimiter(source: Source, text: TextFormat) -> str:
    return text.delimiter or source.delimiter or ("\t" if source.format == "tsv" else ",")


def _names(source: Source, text: TextFormat) -> list[str] | None:
    """The names in the first line; None of a file of no bytes. Raises `ReadError`."""
    with source.open() as stream:
        start = stream.read(4)
    if not start:
        return None
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ReadError(f"{source.name}: expected text in UTF-8, got UTF-16, by its first bytes")
    with source.open() as stream, io.TextIOWrapper(io.BufferedReader(stream), "utf-8-sig", "replace", "") as lines:  # pyright: ignore[reportArgumentType]
        try:
            quoting = python_csv.QUOTE_MINIMAL if text.quotes else python_csv.QUOTE_NONE
            rows = python_csv.reader(lines, delimiter=_delimiter(source, text), quoting=quoting)
            names = next(filter(None, rows), None)
        except python_csv.Error as e:
            raise ReadError(f"{source.name}: expected a line of names: {e}") from None
    if names is None:
        return None
    if wrong := next((name for name in names if "\N{REPLACEMENT CHARACTER}" in name), None):
        raise ReadError(f"{source.name}: expected text in UTF-8, got the name {wrong!r} in the first line")
    delimiter = _delimiter(source, text)
    others = [d for d in DELIMITERS if d != delimiter and d in names[0]]
    if len(names) == 1 and others and not text.delimiter:
        declare = f"TextFormat(delimiter={others[0]!r}), or delimiter={delimiter!r} if it is one column"
        raise ReadError(
            f"{source.name}: expected the delimiter {delimiter!r}, got one column {names[0]!r}, in which "
            f"{others[0]!r} could be one; declare {declare}"
        )
    return names
