"""One's own logs as a recipe: files joined with side tables, columns typed as the schema has them, rows split.

What `tt-jax init` writes calls this. Beside what is in the files, a schema may name
- a label `COLUMN=VALUE`: 1 where the column has that value, 0 where it has another, none where it has none;
- the scenario `EVERY_ROW`: the same for all rows;
- the ad id `ROW_NUMBER`: the row's number in its file, for data without ads.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.readers import STRICT, Chunk, Errors, ReadError, list_files, read
from tt_jax.schema import DType, Feature, Schema
from tt_jax.strict_json import nearest

OTHER = "other"  # the scenario, if the schema has it, of every value that it does not name
EVERY_ROW = "every_row"
ROW_NUMBER = "row_number"
SEPARATORS = r"[,;|]"  # of a list written as text, as CSV has it: `1,2`, `a|b` or `['a', 'b']`
_DECORATION = r"[\[\]'\"\s]"

# The split of each row: of (file, number of the first row, rows), the columns as the files have them, to text [n].
Split = Callable[[str, int, pa.Table], np.ndarray]
Joins = Mapping[str, str]  # file, or pattern, below the source -> the column by which its rows are looked up


class _ToldElsewhere(Errors):
    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        pass


_TOLD_ELSEWHERE = _ToldElsewhere()


def by_name(*names: str) -> Split:
    """Each row in the split whose name is a word of its file's path, the last one if several are."""

    def split(file: str, _first_row: int, table: pa.Table) -> np.ndarray:
        words = [w for w in re.split(r"[^a-z0-9]+", file.lower()) if w in names]
        if not words:
            raise ReadError(f"{file}: expected a name with one of the splits {', '.join(names)} in it")
        return np.full(table.num_rows, words[-1])

    return split


def by_time(column: str, eval_from: int) -> Split:
    """`eval` from a time on, `train` before; see `times` for its unit. A row without a time is of `train`."""

    def split(file: str, _first_row: int, table: pa.Table) -> np.ndarray:
        when = times(_column(table, column, file), column, file)
        return np.where(pc.fill_null(pc.greater_equal(when, eval_from), False), "eval", "train")

    return split


def every(n: int) -> Split:
    """Every n-th row of a file in `eval`, the others in `train`: for data without a time."""
    return lambda _file, first, table: np.where(np.arange(first, first + table.num_rows) % n == n - 1, "eval", "train")


def parts_of_logs(source: str | Path, joins: Joins | None = None) -> list[str]:
    """The files that `read_logs` reads, in its order, without those to join."""
    return [file for file in list_files(source) if not _is_side(file, joins or {})]


def read_logs(
    source: str | Path,
    schema: Schema,
    split: Split,
    joins: Joins | None = None,
    errors: Errors = STRICT,
    parts: Collection[str] | None = None,
) -> Iterator[Chunk]:
    """The rows, with what the schema names. Raises `ReadError` naming file and column that do not fit it.

    `errors`: what becomes of a row that cannot be read at all. `parts`: only these of `parts_of_logs`.
    """
    for file, first_row, raw, table in _tables(source, schema, joins or {}, errors, parts):
        of_row = split(file, first_row, raw)
        for name in np.unique(of_row):
            rows = np.flatnonzero(of_row == name)
            yield Chunk(str(name), file, first_row, table.take(pa.array(rows)), rows)


def ads_of_logs(source: str | Path, schema: Schema, joins: Joins | None = None) -> pa.Table | None:
    """The corpus of `tt-jax index`: every ad as its last row in the logs has it; None if the data has no ads.

    All are `eligible`. The `bid` is that of a column of this name, or 1. All ads are in memory at once. Rows that
    cannot be read are left out without a word: `read_logs`, of the same files, tells of them.
    """
    if schema.ad_id == ROW_NUMBER:
        return None
    names = dict.fromkeys([schema.ad_id, *(f.name for f in schema.tower_features("ad"))])
    corpus: pa.Table | None = None
    for file, _, raw, table in _tables(source, schema, joins or {}, _TOLD_ELSEWHERE):
        bids = raw.column("bid") if "bid" in raw.column_names else pa.repeat(1.0, len(raw))
        rows = table.select(list(names)).append_column("bid", _cast(bids, pa.float32(), "bid", file))
        corpus = _last_of_each(rows if corpus is None else pa.concat_tables([corpus, rows]), schema.ad_id)
    return None if corpus is None else corpus.append_column("eligible", pa.repeat(True, len(corpus)))


def _last_of_each(table: pa.Table, name: str) -> pa.Table:
    table = table.filter(pc.is_valid(table.column(name)))
    codes = table.column(name).combine_chunks().dictionary_encode()
    last = np.zeros(len(codes.dictionary), np.int64)
    last[codes.indices.to_numpy()] = np.arange(len(table))  # of equal indices the last one stays
    return table.take(pa.array(np.sort(last))).combine_chunks()


def _tables(
    source: str | Path, schema: Schema, joins: Joins, errors: Errors, parts: Collection[str] | None = None
) -> Iterator[tuple[str, int, pa.Table, pa.Table]]:
    """`(file, first row, rows as joined, rows as the schema has them)`."""
    sides = {key_of: side_table(source, key_of, key) for key_of, key in joins.items()}
    for file, first_row, table in read(source, errors=errors, parts=parts):
        if not _is_side(file, joins):
            of_column = dict.fromkeys(table.column_names, file)
            for pattern, key in joins.items():
                table = join(table, sides[pattern], key, file)
                of_column = dict.fromkeys(table.column_names, _below(source, pattern)) | of_column
            yield file, first_row, table, _fit(table, schema, file, first_row, of_column)


def _is_side(file: str, joins: Joins) -> bool:
    return any(Path(file).match(pattern) for pattern in joins)


def side_table(source: str | Path, pattern: str, key: str) -> pa.Table:
    """A whole table to join, in memory. Raises `ReadError` if its key is not unique."""
    path = _below(source, pattern)
    table = pa.concat_tables([t for _, _, t in read(path)], promote_options="permissive").combine_chunks()
    keys = _column(table, key, path).drop_null()
    if len(keys.unique()) != len(keys):
        raise ReadError(f"{path}: column {key!r} has duplicates, so that rows cannot be joined by it")
    return table


def _below(source: str | Path, pattern: str) -> str:
    return f"{str(source).rstrip('/')}/{pattern}"


def join(table: pa.Table, side: pa.Table, key: str, file: str) -> pa.Table:
    """The table with the columns of a side table that it does not have; nulls where the side has no such key."""
    keys = side.column(key).combine_chunks()
    own = _cast(_column(table, key, file), keys.type, key, file)
    at = pc.index_in(own, keys, skip_nulls=True)
    for name in side.column_names:
        if name not in table.column_names:
            table = table.append_column(name, side.column(name).take(at))
    return table


# ---- Columns as the schema has them ----------------------------------------------------------------------------------


def _fit(table: pa.Table, schema: Schema, file: str, first_row: int, of_column: Mapping[str, str]) -> pa.Table:
    """`of_column`: the file that each column comes from, for messages."""
    named = {f.name for f in schema.features}
    columns = {f.name: _feature(f, _column(table, f.name, file), of_column[f.name])
               for f in schema.features if f.name != schema.scenario}  # fmt: skip
    for task in schema.tasks:
        source = task.label.partition("=")[0]
        if task.label not in table.column_names and source in named:
            raise ReadError(f"task {task.name!r}: the column {source!r} of its label is also a feature")
        columns[task.label] = _label(table, task.label, file)
        for name in filter(None, (task.mask, task.weight_column)):
            columns[name] = _label(table, name, file)
    for name in schema.key_columns:
        if name == ROW_NUMBER:
            columns[name] = pa.array(np.arange(first_row, first_row + len(table)))
        elif name == schema.time:
            columns.setdefault(name, times(_column(table, name, file), name, file))
        elif name not in columns:
            columns[name] = _key(_column(table, name, file), name, file)
    columns[schema.scenario] = _scenario(table, schema, file)
    return pa.table(columns)


def _feature(f: Feature, column: pa.Array, file: str) -> pa.Array:
    if f.kind == "numeric":
        return _cast(column, pa.float64(), f.name, file)
    if f.kind == "dense":
        return column
    if f.kind == "categorical":
        return _ids(column, f.dtype, f.name, file)
    if _is_text(column):
        column = split_lists(column)
    return _cast(column, pa.list_(pa.int64() if f.dtype == "int" else pa.string()), f.name, file)


def split_lists(column: pa.Array) -> pa.Array:
    """Lists written as text, as lists of text."""
    plain = pc.replace_substring_regex(column.cast(pa.string()), _DECORATION, "")
    return pc.split_pattern_regex(pc.if_else(pc.equal(plain, ""), None, plain), SEPARATORS)


def _ids(column: pa.Array, dtype: DType, name: str, file: str) -> pa.Array:
    if dtype == "string":
        return column if _is_text(column) else _cast(column, pa.string(), name, file)
    if pa.types.is_floating(column.type):  # whole numbers some of which are missing, as pandas writes them
        column = pc.if_else(pc.is_nan(column), None, column)
    return _cast(column, pa.int64(), name, file)


def _key(column: pa.Array, name: str, file: str) -> pa.Array:
    return column if _is_text(column) else _ids(column, "int", name, file)


def _label(table: pa.Table, label: str, file: str) -> pa.Array:
    name, equals, value = label.partition("=")
    if label in table.column_names or not equals:
        return _cast(_column(table, label, file), pa.float64(), label, file)
    return pc.equal(_cast(_column(table, name, file), pa.string(), name, file), value).cast(pa.int8())


def _scenario(table: pa.Table, schema: Schema, file: str) -> pa.Array:
    if schema.scenario == EVERY_ROW:
        return pa.repeat(schema.scenarios[0], len(table))
    text = _cast(_column(table, schema.scenario, file), pa.string(), schema.scenario, file)
    if OTHER not in schema.scenarios:
        return text  # the encoder names the row of a value that is none of them
    return pc.if_else(pc.is_in(text, pa.array(schema.scenarios)), text, OTHER)


def times(column: pa.Array, name: str, file: str) -> pa.Array:
    """A time as int64: Unix milliseconds of dates and of ISO text, numbers as they are."""
    if _is_text(column):
        column = _cast(column, pa.timestamp("ms"), name, file)
    if pa.types.is_temporal(column.type):
        column = pc.cast(column, pa.timestamp("ms"), safe=False)
    if pa.types.is_floating(column.type):
        column = pc.floor(pc.if_else(pc.is_nan(column), None, column))
    return _cast(column, pa.int64(), name, file)


def _is_text(column: pa.Array) -> bool:
    t = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return pa.types.is_string(t) or pa.types.is_large_string(t)


def _cast(column: pa.Array | pa.ChunkedArray, to: pa.DataType, name: str, file: str) -> pa.Array:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return column if column.type == to else column.cast(to)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        reason = str(e).splitlines()[0]
        raise ReadError(f"{file}: column {name!r}: expected {to}, got {column.type}: {reason}") from None


def _column(table: pa.Table, name: str, file: str) -> pa.Array:
    if name not in table.column_names:
        raise ReadError(f"{file}: no column {name!r}{nearest(name, table.column_names)}")
    column = table.column(name).combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
