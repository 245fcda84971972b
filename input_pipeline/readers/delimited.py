"""CSV and TSV with a line of names, plain or compressed.

Every cell is read as text and cast here, so that a cell that does not fit is known by row, column and value.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from input_pipeline.readers.files import Source
from input_pipeline.readers.names import plain_name, require_different
from input_pipeline.readers.rows import Errors, Types, column_of, without
from input_pipeline.readers.text_format import TextFormat

CHUNK_BYTES = 8 << 20
_NULLS = ["", "NULL", "null"]


def tables(source: Source, types: Types, errors: Errors, text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows. A list is a JSON array in its cell, and only where `types` asks for one."""
    ragged: list[int] = []

    def reject(row: csv.InvalidRow) -> str:
        ragged.append(-1 if row.number is None else row.number - 2)  # of 1 for the names
        reason = f"expected {row.expected_columns} columns, got {row.actual_columns}: {row.text!r}"
        try:
            errors.reject(source.name, ragged[-1], reason, row.text)
        except ValueError as e:  # pyarrow would lose it
            failed.append(e)
            return "error"
        return "skip"

    failed: list[ValueError] = []
    kind = source.format.upper()
    with source.named_errors(kind, 0):
        guessed = _guess(source, text)
    types = {name: _chosen(types.get(name, types.get(plain_name(name))), guess) for name, guess in guessed.items()}
    parse, options = _parse(source, text), csv.ReadOptions(block_size=CHUNK_BYTES, use_threads=False)
    parse.invalid_row_handler = reject
    convert = csv.ConvertOptions(
        null_values=[*_NULLS, *text.missing], strings_can_be_null=True, column_types=dict.fromkeys(types, pa.string())
    )
    with source.open() as stream:
        reader, first_row = None, 0
        while True:
            try:
                with source.named_errors(kind, first_row):
                    reader = reader or csv.open_csv(stream, options, parse, convert)
                    batch = next(reader, None)
            except ValueError as e:
                raise failed[0] if failed else e from None
            if batch is None:
                if not first_row:
                    yield 0, pa.schema(list(types.items())).empty_table()
                return
            start = 0
            while start < batch.num_rows:  # up to the next ragged row
                while first_row in ragged:
                    first_row += 1
                until = min((r - first_row for r in ragged if r > first_row), default=batch.num_rows)
                piece = batch.slice(start, until)
                yield from _cast(source.name, first_row, piece, types, errors)
                start, first_row = start + piece.num_rows, first_row + piece.num_rows
            ragged[:] = [r for r in ragged if r >= first_row]


def _parse(source: Source, text: TextFormat) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter=text.delimiter or ("\t" if source.format == "tsv" else ","))


def _guess(source: Source, text: TextFormat) -> dict[str, pa.DataType]:
    """Types by the look of the first block, ragged rows left out; they will be found when they are read."""
    convert = csv.ConvertOptions(null_values=[*_NULLS, *text.missing], strings_can_be_null=True)
    options, parse = csv.ReadOptions(block_size=CHUNK_BYTES, use_threads=False), _parse(source, text)
    parse.invalid_row_handler = lambda _: "skip"
    with source.open() as stream, csv.open_csv(stream, options, parse, convert) as reader:
        require_different(source.name, reader.schema.names)
        return {field.name: field.type for field in reader.schema}


def _chosen(wanted: pa.DataType | None, guess: pa.DataType) -> pa.DataType:
    if wanted is not None:
        return guess if pa.types.is_boolean(guess) and pa.types.is_floating(wanted) else wanted
    return pa.string() if pa.types.is_null(guess) else guess


def _cast(
    file: str, first_row: int, batch: pa.RecordBatch, types: Types, errors: Errors
) -> Iterator[tuple[int, pa.Table]]:
    columns, bad = {}, {}
    for name, texts in zip(batch.schema.names, batch.columns, strict=True):
        columns[name], wrong = _cast_column(texts, types[name])
        bad |= {i: f"column {name!r}: {reason}" for i, reason in wrong.items() if i not in bad}
    for i in sorted(bad):
        errors.reject(file, first_row + i, bad[i], batch.slice(i, 1).to_pylist()[0])
    yield from without(first_row, pa.table(columns), sorted(bad))


def _cast_column(texts: pa.Array, type_: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    if pa.types.is_string(type_):
        return texts, {}
    if pa.types.is_list(type_):
        return _lists(texts, type_)
    texts = pc.utf8_trim_whitespace(texts)
    try:
        return pc.cast(texts, type_), {}
    except pa.ArrowException:
        good = np.array([_casts(text, type_) for text in texts])
    wrong = {int(i): f"expected {type_}, got {texts[int(i)].as_py()!r}" for i in np.flatnonzero(~good)}
    return pc.cast(pc.if_else(pa.array(good), texts, None), type_), wrong


def _casts(text: pa.Scalar, type_: pa.DataType) -> bool:
    try:
        text.cast(type_)
    except pa.ArrowException:
        return False
    return True


def _lists(texts: pa.Array, type_: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    decode, values, wrong = msgspec.json.Decoder(list).decode, [], {}
    for i, text in enumerate(texts.to_pylist()):
        try:
            values.append(None if text is None else decode(text))
        except msgspec.DecodeError:
            values.append(None)
            wrong[i] = f"expected a JSON array, got {text!r}"
    array, unfit = column_of(values, type_)
    return array, wrong | unfit
