"""A bounded sample of the rows of all files of a log, joined with the side tables that lie beside it."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.infer_schema.sampled_columns import values_counted
from input_pipeline.logs.joins import join, read_side
from input_pipeline.logs.to_schema import is_text
from input_pipeline.readers import PLAIN, STRICT, Errors, ReadError, TextFormat, Types, read
from tt_jax.features.columns import decoded, one_array

_SAME = 0.5  # files that share more than this part of their columns are of one table


@dataclass(frozen=True)
class Sample:
    """Rows of a log, in its order.

    Attributes:
      table: the sampled rows, joined.
      files: of the log, and the rows of each.
      counts: of every column of the log, value -> rows in the whole log; None where there are many values.
      joins: side tables, by path below the source, and the columns by which they are joined.
      partial: columns that not every file of the log has; they are not in `table`.
      opaque: columns of a type of which nothing is learned, and that type; they are not in `table` either.
    """

    table: pa.Table
    files: dict[str, int]
    counts: dict[str, dict[Any, int] | None]
    joins: dict[str, str]
    partial: tuple[str, ...]
    opaque: dict[str, str]

    @property
    def rows(self) -> int:
        """Of the whole log."""
        return sum(self.files.values())


def take_sample(
    source: str | Path,
    rows: int,
    text: TextFormat = PLAIN,
    types: Types | None = None,
    errors: Errors = STRICT,
) -> Sample:
    """About `rows` rows, or all, drawn evenly from every file in one pass; with the tables that can be joined.

    The largest table is the log. Another one is joined if it has a column of the log's whose values it has once each.
    A column that is text in one file and not in another is text in all, as is one of whole numbers that no type of
    64 bits holds; that takes a second pass. `text`, `types` and `errors` are those of `read`. Raises `ReadError` if a
    file is neither of the log nor to be joined.
    """
    types = types or {}
    groups: list[_Group] = []
    opaque: dict[str, str] = {}
    for file, _, table in read(source, types, errors, text=text):
        table = _without_opaque(table, opaque)
        group = next((g for g in groups if g.takes(table)), None)
        if group is None and (table.num_rows or not groups):
            groups.append(group := _Group(rows, np.random.default_rng(0)))
        if group is not None and table.num_rows:
            group.add(file, _as_text(table, types))
    log = max(groups, key=lambda g: g.rows)
    if not log.rows:
        raise ReadError(f"{source}: there are no rows")
    if mixed := dict.fromkeys((c for g in groups for c in g.mixed() if c not in types), pa.string()):
        return take_sample(source, rows, text, {**types, **mixed}, errors)
    table, joins = log.table(), {}
    for side in (g for g in groups if g is not log and g.rows):
        path, key = _key(str(source), side, table, next(iter(log.files)), text)
        joins[path] = key
        table = _without_opaque(join(table, read_side(source, path, key, text, types), next(iter(log.files))), opaque)
    partial = tuple(sorted(log.all_columns - set(log.columns)))
    table = pa.table({name: decoded(one_array(table.column(name))) for name in table.column_names})
    return Sample(table, log.files, log.all_counts(), joins, partial, opaque)


def _key(source: str, side: _Group, log: pa.Table, log_file: str, text: TextFormat) -> tuple[str, str]:
    """`(path below the source, column)` of the file of a side table."""
    folder, file = (source if "://" in source else str(Path(source))).rstrip("/") + "/", next(iter(side.files))
    if len(side.files) > 1 or not file.startswith(folder):
        raise ReadError(
            f"{file}: other columns than {log_file}, in several files or not below a directory; give --data one log"
        )
    shared = [c for c in side.columns if c in log.column_names]
    for key in sorted(shared, key=lambda c: not c.lower().endswith("id")):
        column = pa.chunked_array([t.column(key) for _, _, t in read(file, text=text)])
        if not pa.types.is_nested(column.type) and len(column) == len(pc.unique(column)):
            return file.removeprefix(folder), key
    raise ReadError(
        f"{file}: other columns than {log_file}, and none of them by which to join it: "
        "a column of both whose values it has once each; give --data one log"
    )


@dataclass
class _Group:
    """Files of one table, sampled: each row has a random number, and those below `share` are kept."""

    limit: int
    rng: np.random.Generator
    share: float = 1.0
    files: dict[str, int] = field(default_factory=dict)  # and the rows of each
    columns: list[str] = field(default_factory=list)  # those that every file has
    all_columns: set[str] = field(default_factory=set)
    types: dict[str, set[pa.DataType]] = field(default_factory=dict)
    counts: dict[str, dict[Any, int] | None] = field(default_factory=dict)
    beyond_int64: set[str] = field(default_factory=set)
    kept: list[tuple[np.ndarray, pa.Table]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(self.files.values())

    def takes(self, table: pa.Table) -> bool:
        common = self.all_columns & set(table.column_names)
        return len(common) > _SAME * max(len(self.all_columns), table.num_columns)

    def add(self, file: str, table: pa.Table) -> None:
        self.columns = [c for c in self.columns if c in table.column_names] if self.files else table.column_names
        self.all_columns |= set(table.column_names)
        self.files[file] = self.files.get(file, 0) + len(table)
        for name in table.column_names:
            self._count(name, table.column(name))
        self._keep(self.rng.random(len(table)), table)
        while sum(len(draw) for draw, _ in self.kept) > 2 * self.limit:
            self.share /= 2
            kept, self.kept = self.kept, []
            for draw, rows in kept:
                self._keep(draw, rows)

    def mixed(self) -> list[str]:
        """The columns that are text in one file and not in another, or beyond int64 in one and not of uint64 in all."""
        known = {name: {t for t in types if not pa.types.is_null(t)} for name, types in self.types.items()}
        return [name for name, types in known.items()
                if len(types) > 1 and (any(map(is_text, types)) or name in self.beyond_int64)
                and not any(map(pa.types.is_nested, types))]  # fmt: skip

    def all_counts(self) -> dict[str, dict[Any, int] | None]:
        """Of the columns that every file has."""
        counts = {name: self.counts[name] for name in self.columns}
        for name in self.beyond_int64 & set(counts):  # which `table` has as text
            counts[name] = {str(value): n for value, n in (counts[name] or {}).items()} or None
        return counts

    def _count(self, name: str, column: pa.ChunkedArray) -> None:
        self.types.setdefault(name, set()).add(column.type)
        if (before := self.counts.get(name, {})) is not None:
            self.counts[name] = values_counted(column, before)
        if pa.types.is_uint64(column.type) and (pc.max(column).as_py() or 0) >= 2**63:
            self.beyond_int64.add(name)

    def _keep(self, draw: np.ndarray, table: pa.Table) -> None:
        rows = np.flatnonzero(draw < self.share)
        self.kept.append((draw[rows], table.take(pa.array(rows))))

    def table(self) -> pa.Table:
        draws = np.concatenate([draw for draw, _ in self.kept])
        rows = np.flatnonzero(draws <= np.sort(draws)[: self.limit][-1]) if len(draws) else np.zeros(0, np.int64)
        mixed = {n for n in self.columns if pa.bool_() in self.types[n] and any(map(_is_number, self.types[n]))}
        tables = []
        for _, rows_of in self.kept:
            truth = [c.name for c in rows_of.schema if c.name in mixed and pa.types.is_boolean(c.type)]
            tables.append(_as_type(rows_of.select(self.columns), truth, pa.int8()))
        try:
            table = pa.concat_tables(tables, promote_options="permissive").take(pa.array(rows)).combine_chunks()
        except (pa.ArrowTypeError, pa.ArrowInvalid) as e:
            first = next(iter(self.files))
            raise ReadError(f"{first}, ...: a column has several types: {str(e).splitlines()[0]}") from None
        for i, column in enumerate(table.schema):
            values = table.column(i)
            if pa.types.is_uint64(column.type):  # an id of dtype int holds an int64
                values = values.cast(pa.string() if column.name in self.beyond_int64 else pa.int64())
            elif is_text(column.type):  # an empty text is a missing value
                values = pc.if_else(pc.equal(values, ""), None, values)
            table = table.set_column(i, column.name, values)
        return table


def _as_text(table: pa.Table, types: Types) -> pa.Table:
    """With what is to be text as text: formats that have types of their own do not ask for ours."""
    return _as_type(table, [name for name, t in types.items() if pa.types.is_string(t)], pa.string())


def _as_type(table: pa.Table, names: Collection[str], to: pa.DataType) -> pa.Table:
    """With the columns of these names as another type."""
    for i, column in enumerate(table.schema):
        if column.name in names and column.type != to:
            table = table.set_column(i, column.name, table.column(i).cast(to))
    return table


def _is_number(t: pa.DataType) -> bool:
    return pa.types.is_integer(t) or pa.types.is_floating(t)


def _without_opaque(table: pa.Table, opaque: dict[str, str]) -> pa.Table:
    """The table without the columns of which nothing is learned, whose types are noted in `opaque`."""
    opaque_types = {column.name: str(column.type) for column in table.schema if _is_opaque(column.type)}
    opaque |= opaque_types
    return table.select([name for name in table.column_names if name not in opaque_types]) if opaque_types else table


def _is_opaque(t: pa.DataType) -> bool:
    if pa.types.is_list(t):
        return pa.types.is_nested(t.value_type) or _is_opaque(t.value_type)
    return pa.types.is_nested(t) or pa.types.is_interval(t) or pa.types.is_binary(t) or pa.types.is_fixed_size_binary(t)
