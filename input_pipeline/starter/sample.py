"""A bounded sample of the rows of all files of a log, joined with the side tables that lie beside it."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.joins import join, read_side
from input_pipeline.readers import STRICT, Errors, ReadError, read
from tt_jax.columns import decoded, one_array

_SAME = 0.5  # files that share more than this part of their columns are of one table


@dataclass(frozen=True)
class Sample:
    """Rows of a log, in its order.

    Attributes:
      table: the sampled rows, joined.
      rows: of the whole log.
      files: of the log.
      joins: side tables, by path below the source, and the columns by which they are joined.
      partial: columns that not every file of the log has; they are not in `table`.
    """

    table: pa.Table
    rows: int
    files: tuple[str, ...]
    joins: dict[str, str]
    partial: tuple[str, ...]


def take_sample(source: str | Path, rows: int, seed: int = 0, errors: Errors = STRICT) -> Sample:
    """About `rows` rows, or all, drawn evenly from every file in one pass; with the tables that can be joined.

    The largest table is the log. Another one is joined if it has a column of the log's whose values it has once each.
    Raises `ReadError` if a file is neither of the log nor to be joined.
    """
    groups: list[_Group] = []
    for file, _, table in read(source, errors=errors):
        group = next((g for g in groups if g.takes(table)), None)
        if group is None:
            groups.append(group := _Group(rows, np.random.default_rng(seed)))
        group.add(file, table)
    log = max(groups, key=lambda g: g.rows)
    if not log.rows:
        raise ReadError(f"{source}: there are no rows")
    table, joins = log.table(), {}
    for side in (g for g in groups if g is not log):
        path, key = _key(str(source), side, table, log.files[0])
        joins[path] = key
        table = join(table, read_side(source, path, key), log.files[0])
    partial = tuple(sorted(log.all_columns - set(log.columns)))
    table = pa.table({name: decoded(one_array(table.column(name))) for name in table.column_names})
    return Sample(table, log.rows, tuple(log.files), joins, partial)


def _key(source: str, side: _Group, log: pa.Table, log_file: str) -> tuple[str, str]:
    """`(path below the source, column)` of the file of a side table."""
    folder = (source if "://" in source else str(Path(source))).rstrip("/") + "/"
    if len(side.files) > 1 or not side.files[0].startswith(folder):
        raise ReadError(
            f"{side.files[0]}: other columns than {log_file}, in several files or not below a directory; "
            "give --data one log"
        )
    shared = [c for c in side.columns if c in log.column_names]
    for key in sorted(shared, key=lambda c: not c.lower().endswith("id")):
        column = pa.chunked_array([t.column(key) for _, _, t in read(side.files[0])])
        if not pa.types.is_nested(column.type) and len(column) == len(pc.unique(column)):
            return side.files[0].removeprefix(folder), key
    raise ReadError(
        f"{side.files[0]}: other columns than {log_file}, and none of them by which to join it: "
        "a column of both whose values it has once each; give --data one log"
    )


@dataclass
class _Group:
    """Files of one table, sampled: each row has a random number, and those below `share` are kept."""

    limit: int
    rng: np.random.Generator
    rows: int = 0
    share: float = 1.0
    files: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # those that every file has
    all_columns: set[str] = field(default_factory=set)
    kept: list[tuple[np.ndarray, pa.Table]] = field(default_factory=list)

    def takes(self, table: pa.Table) -> bool:
        common = self.all_columns & set(table.column_names)
        return len(common) > _SAME * max(len(self.all_columns), table.num_columns)

    def add(self, file: str, table: pa.Table) -> None:
        self.columns = [c for c in self.columns if c in table.column_names] if self.files else table.column_names
        self.all_columns |= set(table.column_names)
        if file not in self.files[-1:]:
            self.files.append(file)
        self.rows += len(table)
        self._keep(self.rng.random(len(table)), table)
        while sum(len(draw) for draw, _ in self.kept) > 2 * self.limit:
            self.share /= 2
            kept, self.kept = self.kept, []
            for draw, rows in kept:
                self._keep(draw, rows)

    def _keep(self, draw: np.ndarray, table: pa.Table) -> None:
        rows = np.flatnonzero(draw < self.share)
        self.kept.append((draw[rows], table.take(pa.array(rows))))

    def table(self) -> pa.Table:
        draws = np.concatenate([draw for draw, _ in self.kept])
        rows = np.flatnonzero(draws <= np.sort(draws)[: self.limit][-1]) if len(draws) else np.zeros(0, np.int64)
        tables = [t.select(self.columns) for _, t in self.kept]
        try:
            return pa.concat_tables(tables, promote_options="permissive").take(pa.array(rows)).combine_chunks()
        except (pa.ArrowTypeError, pa.ArrowInvalid) as e:
            raise ReadError(f"{self.files[0]}, ...: a column has several types: {str(e).splitlines()[0]}") from None
