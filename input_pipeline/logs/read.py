"""One's own logs as a recipe: files joined with side tables, columns typed as the schema has them, rows split.

What `tt-jax init` writes calls this. Beside what is in the files, a schema may name
- a label (or mask) that compares a column, `clicked=1`, `event!=skip`, `rating>=4`: 1 where it holds, 0 where it does
  not, none where the column has no value; see `input_pipeline.values.label_expression.Comparison`;
- the scenario `EVERY_ROW`: the same for all rows;
- the ad id `ROW_NUMBER`: the row's number in its file, for data without ads.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.logs.joins import join, read_side
from input_pipeline.logs.to_schema import ROW_NUMBER, cast_column, column_of, is_text, schema_columns
from input_pipeline.readers import PLAIN, STRICT, Chunk, Errors, ReadError, TextFormat, arrow_types, list_files, read
from input_pipeline.values.chunks import IGNORED
from input_pipeline.values.times import times, unix_ms
from tt_jax.schema import Schema

# The split of each row: of (file, number of the first row, rows), the columns as the files have them, to text [n].
Split = Callable[[str, int, pa.Table], np.ndarray]
Joins = Mapping[str, str]  # file, or pattern, below the source -> the column by which its rows are looked up


def by_name(*names: str) -> Split:
    """Each row in the split whose name is a word of its file's path, the last one if several are."""

    def split(file: str, _first_row: int, table: pa.Table) -> np.ndarray:
        words = [w for w in re.split(r"[^a-z0-9]+", file.lower()) if w in names]
        if not words:
            raise ReadError(f"{file}: expected a name with one of the splits {', '.join(names)} in it")
        return np.full(table.num_rows, words[-1])

    return split


def by_time(column: str, eval_from: int | str) -> Split:
    """`eval` from a time on, `train` before. A row without a time is of `train`.

    The time is a number as the column has it, or in any spelling that `times` reads, as "2024-01-31 12:00".
    """

    def split(file: str, first_row: int, table: pa.Table) -> np.ndarray:
        values = column_of(table, column, file)
        if isinstance(eval_from, str):
            when = unix_ms(times(values, column, file, first_row))
            start = unix_ms(times(pa.array([eval_from]), column, "by_time"))[0]
        elif is_text(values.type) or pa.types.is_integer(values.type):  # of digits, which both are dates or none is
            both = pa.concat_arrays([values, pa.array([eval_from]).cast(values.type)])
            when = times(both, column, file, first_row)
            when, start = when[:-1], when[-1]
        else:
            when, start = times(values, column, file, first_row), eval_from
        return np.where(pc.fill_null(pc.greater_equal(when, start), False), "eval", "train")

    return split


def every(n: int) -> Split:
    """Every n-th row of a file in `eval`, the others in `train`: for data without a time."""
    return lambda _file, first, table: np.where(np.arange(first, first + table.num_rows) % n == n - 1, "eval", "train")


def parts_of_logs(source: str | Path, joins: Joins | None = None) -> list[str]:
    """The files that `read_logs` reads, in its order, without those to join."""
    return [file for file in list_files(source, IGNORED) if not _is_side(file, joins or {})]


def read_logs(
    source: str | Path,
    schema: Schema,
    split: Split,
    joins: Joins | None = None,
    errors: Errors = STRICT,
    parts: Collection[str] | None = None,
    text: TextFormat = PLAIN,
) -> Iterator[Chunk]:
    """The rows, with what the schema names. Raises `ReadError` naming file and column that do not fit it.

    `errors`: what becomes of a row that cannot be read at all. `parts`: only these of `parts_of_logs`.
    `text`: how values are written as text.
    """
    for file, first_row, raw, table in _tables(source, schema, joins or {}, errors, parts, text):
        of_row = split(file, first_row, raw)
        if len(of_row) and (of_row == of_row[0]).all():  # as in most chunks of a log in the order of time
            yield Chunk(str(of_row[0]), file, first_row, table)
            continue
        for name in np.unique(of_row):
            rows = np.flatnonzero(of_row == name)
            yield Chunk(str(name), file, first_row, table.take(pa.array(rows)), rows)


def ads_of_logs(
    source: str | Path, schema: Schema, joins: Joins | None = None, text: TextFormat = PLAIN
) -> pa.Table | None:
    """The corpus of `tt-jax index`: every ad as its last row in the logs has it; None if the data has no ads.

    All are `eligible`. The `bid` is that of a column of this name, or 1. All ads are in memory at once. Rows that
    cannot be read are left out without a word: `read_logs`, of the same files, reports them.
    """
    if schema.ad_id == ROW_NUMBER:
        return None
    names = dict.fromkeys([schema.ad_id, *(f.name for f in schema.tower_features("ad"))])
    corpus: pa.Table | None = None
    for file, _, raw, table in _tables(source, schema, joins or {}, IGNORED, None, text):
        bids = column_of(raw, "bid", file) if "bid" in raw.column_names else pa.repeat(1.0, len(raw))
        columns = {name: column_of(table, name, file) for name in names}
        rows = pa.table({**columns, "bid": cast_column(bids, pa.float32(), "bid", file)})
        corpus = _last_of_each(rows if corpus is None else pa.concat_tables([corpus, rows]), schema.ad_id)
    return None if corpus is None else corpus.append_column("eligible", pa.repeat(True, len(corpus)))


def _last_of_each(table: pa.Table, name: str) -> pa.Table:
    ids = table.column(name)
    known = pc.not_equal(ids, "") if pa.types.is_string(ids.type) else pc.is_valid(ids)
    table = table.filter(known)  # which drops nulls
    codes = table.column(name).combine_chunks().dictionary_encode()
    last = np.zeros(len(codes.dictionary), np.int64)
    last[codes.indices.to_numpy()] = np.arange(len(table))  # of equal indices the last one stays
    return table.take(pa.array(np.sort(last))).combine_chunks()


def _tables(
    source: str | Path,
    schema: Schema,
    joins: Joins,
    errors: Errors,
    parts: Collection[str] | None,
    text: TextFormat,
) -> Iterator[tuple[str, int, pa.Table, pa.Table]]:
    """`(file, first row, rows as joined, rows as the schema has them)`."""
    types = {"bid": pa.float64(), **arrow_types(schema)}
    sides = [read_side(source, pattern, key, text, types) for pattern, key in joins.items()]
    for file, first_row, table in read(source, types, errors, parts, dictionaries=True, text=text):
        if table.num_rows and not _is_side(file, joins):  # an empty part need not have all columns
            for side in sides:
                table = join(table, side, file)
            yield file, first_row, table, schema_columns(schema, table, file, first_row)


def _is_side(file: str, joins: Joins) -> bool:
    return any(Path(file).match(pattern) for pattern in joins)
