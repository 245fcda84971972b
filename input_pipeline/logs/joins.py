"""Tables that lie beside a log, looked up by a key: of users, of ads.

A joined column is an Arrow dictionary: the column of the table, as it is, and the row of it for each row of the log. So
nothing is copied, and the encoder, which sees the same dictionary again with every chunk, encodes it once.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.logs.to_schema import column_of, is_text
from input_pipeline.readers import NO_TYPES, PLAIN, ReadError, TextFormat, Types, read
from input_pipeline.values.cast import cast
from tt_jax.features.columns import decoded
from tt_jax.features.int_lookup import IntLookup


@dataclass(frozen=True)
class Side:
    """A whole table to join, in memory.

    Attributes:
      path: of its file.
      key: the column, of the log too, by which it is joined.
      columns: all its columns, `[m]`.
      find: keys of the table's type `[n]` -> their rows in it, int32 `[n]`, -1 where there is none.
    """

    path: str
    key: str
    columns: dict[str, pa.Array]
    find: Callable[[pa.Array], np.ndarray]


def side_path(source: str | Path, pattern: str) -> str:
    """Of a file below the source."""
    return f"{str(source).rstrip('/')}/{pattern}"


def read_side(source: str | Path, pattern: str, key: str, text: TextFormat = PLAIN, types: Types = NO_TYPES) -> Side:
    """Reads a table to join, as `readers.read` does. Raises `ReadError` if its key is not unique."""
    path = side_path(source, pattern)
    table = pa.concat_tables([t for _, _, t in read(path, types, text=text)], promote_options="permissive")
    keys = column_of(table, key, path)
    if keys.null_count:
        table, keys = table.filter(pc.is_valid(keys)), keys.drop_null()
    if len(keys.unique()) != len(keys):
        raise ReadError(f"{path}: column {key!r} has duplicates, so that rows cannot be joined by it")
    return Side(path, key, {name: column_of(table, name, path) for name in table.column_names}, _finder(keys))


def join(table: pa.Table, side: Side, file: str) -> pa.Table:
    """The table with the columns of a side table that it does not have; nulls where the side has no such key."""
    at = side.find(_keys(table, side, file))
    rows = pa.array(at, mask=at < 0)
    for name, column in side.columns.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.DictionaryArray.from_arrays(rows, column, safe=False))
    return table


def _keys(table: pa.Table, side: Side, file: str) -> pa.Array:
    """The log's keys, of the type of the side's. Of numbers here and text there, the numbers are their digits."""
    own, keys = column_of(table, side.key, file, decode=False), side.columns[side.key]
    if is_text(own.type) and is_text(keys.type):
        return own
    if is_text(own.type) and pa.types.is_integer(keys.type):
        numbers, _ = cast(own, keys.type)
        return pc.if_else(pc.equal(numbers.cast(pa.string()), decoded(own)), numbers, None)
    result, wrong = cast(decoded(own), keys.type)
    for row, reason in wrong.items():
        raise ReadError(
            f"{file}: column {side.key!r}: {reason}, by which {side.path} is joined; in row {row} of a chunk"
        )
    return result


def _finder(keys: pa.Array) -> Callable[[pa.Array], np.ndarray]:
    """`Side.find` for a table's keys, which are distinct and not null."""
    if pa.types.is_integer(keys.type):
        numbers = IntLookup(_bits(keys))
        return lambda own: np.where(np.asarray(own.is_valid()), numbers.find(_bits(own)), np.int32(-1))
    if is_text(keys.type):
        row_of = {text: row for row, text in enumerate(keys.to_pylist())}
        return lambda own: _find_texts(row_of, own)
    # Of other types, which are rare, Arrow hashes all keys for each chunk.
    return lambda own: pc.fill_null(pc.index_in(own, keys, skip_nulls=True), -1).to_numpy()


def _bits(numbers: pa.Array) -> np.ndarray:
    """Whole numbers as int64, those of uint64 by their bits; anything where null."""
    return pc.fill_null(numbers, 0).to_numpy().astype(np.int64, copy=False)


def _find_texts(row_of: dict[str, int], own: pa.Array) -> np.ndarray:
    codes = own if pa.types.is_dictionary(own.type) else own.dictionary_encode()
    rows = np.array([row_of.get(text, -1) for text in codes.dictionary.to_pylist()] + [-1], np.int32)
    return rows[pc.fill_null(codes.indices, len(rows) - 1).to_numpy()]
