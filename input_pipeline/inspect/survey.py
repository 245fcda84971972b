"""One pass over a log: `Survey.add` for every chunk, then `report.report_of`. Memory is bounded, by `Bounds`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from input_pipeline.inspect.column import Bounds, ColumnStats
from input_pipeline.inspect.sketches import Distinct, RowSample
from input_pipeline.inspect.values import Kind, Values, numbers_of, row_keys, values_of
from input_pipeline.readers import Chunk, ReadError
from tt_jax.schema import Schema
from tt_jax.strict_json import nearest

UNDATED, REST = None, "(others)"
_DAY_US = 86_400_000_000
# Times as integers, by size: dates as 20240131, else seconds, milliseconds, microseconds or nanoseconds since 1970.
_DATES = (19_700_101, 21_001_231)
_UNITS = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (np.inf, 1e-3))


@dataclass(frozen=True)
class Roles:
    """What some columns are. Columns of `Schema` have the names of its features.

    Attributes:
      labels: task -> its label column; labels are numbers, booleans included.
      masks: task -> the column that is 1 where its label counts.
      scenario, time: columns, "" = none.
      schema: of a recipe, which says which columns are features, and which of them ids.
    """

    labels: dict[str, str]
    masks: dict[str, str]
    scenario: str = ""
    time: str = ""
    schema: Schema | None = None

    @staticmethod
    def of(schema: Schema) -> Roles:
        """The roles that a schema gives."""
        labels = {t.name: t.label for t in schema.tasks}
        masks = {t.name: t.mask for t in schema.tasks if t.mask}
        return Roles(labels, masks, schema.scenario, schema.time, schema)

    @property
    def named(self) -> list[str]:
        """The columns that must be there."""
        return [c for c in (*self.labels.values(), *self.masks.values(), self.scenario, self.time) if c]

    def is_ids(self, column: str) -> bool:
        """Whether numbers of the column are ids, of which a range means nothing."""
        found = [f for f in self.schema.features if f.name == column] if self.schema else []
        return bool(found) and found[0].is_ids


class SplitStats:
    """What is known of one split: rows, columns, a sample of its rows, and how many of them are the same."""

    def __init__(self, bounds: Bounds, seed: int) -> None:
        self.rows = 0
        self.columns: dict[str, ColumnStats] = {}
        self.sample = RowSample(bounds.sample, seed)
        self.distinct_rows = Distinct(bounds.rows)


class Survey:
    """Counts over chunks of a log, by split.

    Attributes:
      splits: name -> `SplitStats`, in the order in which they came.
      labels: (split, day, scenario) -> float64 `[1 + 2 T]`: rows, then labels and their sum, by task. A day is of UTC,
        counted from 1970, or `UNDATED`.
      kinds: column -> kind, and whether it has lists.
      troubles: what is wrong with a column, by column: a line.
    """

    def __init__(self, roles: Roles, bounds: Bounds | None = None) -> None:
        self.roles, self.bounds = roles, bounds or Bounds()
        self.splits: dict[str, SplitStats] = {}
        self.labels: dict[tuple[str, int | None, str], np.ndarray] = {}
        self.kinds: dict[str, tuple[Kind, bool]] = {}
        self.troubles: dict[str, str] = {}
        self._days: set[int] = set()
        self._scenarios: set[str] = set()

    def add(self, chunk: Chunk) -> None:
        """Adds the rows of a chunk. Raises `ReadError` where a column with a role is not there or not of its kind."""
        table, rows = _flattened(chunk.table), chunk.table.num_rows
        for name in self.roles.named:
            if name not in table.column_names:
                raise ReadError(f"{chunk.file}: no column {name!r}{nearest(name, table.column_names)}")
        split = self.splits.setdefault(chunk.split, SplitStats(self.bounds, len(self.splits)))
        columns = {}
        for name in table.column_names:
            values = values_of(table.column(name))
            if self._fits(name, values, chunk):
                columns[name] = values
        self._add_columns(split, columns, rows, chunk)
        split.rows += rows
        split.sample.add(rows, {name: (v.keys, v.valid) for name, v in columns.items()})
        hashes = row_keys(columns.items(), rows)
        split.distinct_rows.add(hashes, np.ones(rows, np.int64))
        self._add_labels(chunk, columns, rows)

    def _fits(self, name: str, values: Values, chunk: Chunk) -> bool:
        if values.kind == "none":
            return True
        kind, lists = self.kinds.setdefault(name, (values.kind, values.lengths is not None))
        if (kind, lists) == (values.kind, values.lengths is not None):
            return True
        found = f"{'lists of ' if lists else ''}{kind}"
        self.troubles.setdefault(
            name,
            f"{chunk.file}, row {chunk.row_number(0)}: column {name!r} is {chunk.table.schema.field(name).type}"
            f" and was {found} before; its values are counted as missing",
        )
        return False

    def _add_columns(self, split: SplitStats, columns: dict[str, Values], rows: int, chunk: Chunk) -> None:
        for name in columns:
            if name not in split.columns:
                split.columns[name] = ColumnStats(self.bounds)
                split.columns[name].skip(split.rows)
                if split.rows:
                    self.troubles.setdefault(
                        name, f"{chunk.file}: column {name!r} is new here: missing in files before"
                    )
        for name, stats in split.columns.items():
            if name in columns:
                stats.add(columns[name])
            else:
                stats.skip(rows)
                self.troubles.setdefault(name, f"{chunk.file}: no column {name!r}, which files before have")

    def _add_labels(self, chunk: Chunk, columns: dict[str, Values], rows: int) -> None:
        roles = self.roles
        for name in {*roles.labels.values(), *roles.masks.values()}:
            values = columns.get(name)
            if values is None or values.lengths is not None or values.kind not in ("int", "bool", "float", "none"):
                raise ReadError(f"{chunk.file}: column {name!r}: expected numbers, as of a label")
        parts = np.zeros((rows, 1 + 2 * len(roles.labels)))
        parts[:, 0] = 1
        for i, (task, label) in enumerate(roles.labels.items()):
            y, counts = label_of(columns[label], columns.get(roles.masks.get(task, "")))
            parts[:, 1 + 2 * i], parts[:, 2 + 2 * i] = counts, np.where(counts, y, 0)
        days, dated = self._days_of(chunk, columns, rows)
        scenario, names = self._scenarios_of(chunk, rows)
        group, inverse = np.unique(np.stack([np.where(dated, days, -(2**40)), scenario]), axis=1, return_inverse=True)
        sums = np.zeros((group.shape[1], parts.shape[1]))
        np.add.at(sums, inverse.ravel(), parts)
        for (day, code), found in zip(group.T.tolist(), sums, strict=True):
            at = (chunk.split, self._bounded(day), names[code])
            self.labels[at] = self.labels.get(at, 0) + found

    def _days_of(self, chunk: Chunk, columns: dict[str, Values], rows: int) -> tuple[np.ndarray, np.ndarray]:
        if not self.roles.time:
            return np.zeros(rows, np.int64), np.zeros(rows, bool)
        values = columns.get(self.roles.time)
        if values is None or values.lengths is not None or values.kind not in ("int", "float", "time", "none"):
            raise ReadError(f"{chunk.file}: column {self.roles.time!r}: expected times: a timestamp, date or Unix time")
        return days_of(values)

    def _bounded(self, day: int) -> int | None:
        if day == -(2**40) or (day not in self._days and len(self._days) >= self.bounds.days):
            return UNDATED
        self._days.add(day)
        return day

    def _scenarios_of(self, chunk: Chunk, rows: int) -> tuple[np.ndarray, list[str]]:
        if not self.roles.scenario:
            return np.zeros(rows, np.int64), [""]
        column = _flattened(chunk.table).column(self.roles.scenario).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        encoded = column.dictionary_encode(null_encoding="encode")
        names = ["(missing)" if name is None else str(name) for name in encoded.dictionary.to_pylist()]
        for i, name in enumerate(names):
            if name not in self._scenarios and len(self._scenarios) >= self.bounds.scenarios:
                names[i] = REST
            self._scenarios.add(names[i])
        return encoded.indices.to_numpy().astype(np.int64), names

    def whole(self) -> SplitStats:
        """All splits together."""
        total = SplitStats(self.bounds, 0)
        for split in self.splits.values():
            for name, stats in split.columns.items():
                if name not in total.columns:
                    total.columns[name] = ColumnStats(self.bounds)
                    total.columns[name].skip(total.rows)
                total.columns[name].merge(stats)
            for name in total.columns.keys() - split.columns.keys():
                total.columns[name].skip(split.rows)
            total.rows += split.rows
            total.sample.merge(split.sample)
            total.distinct_rows.merge(split.distinct_rows)
        return total


def survey(chunks: Iterable[Chunk], roles: Roles, bounds: Bounds | None = None) -> Survey:
    """All chunks, counted. Raises `ReadError` as `Survey.add` does."""
    found = Survey(roles, bounds)
    for chunk in chunks:
        found.add(chunk)
    return found


def raw_chunks(tables: Iterable[tuple[str, int, pa.Table]], known: Sequence[str]) -> Iterable[Chunk]:
    """Tables of a log by split: the folder `split=NAME` of a file's path, else the beginning of its name where that is
    one of `known`, else `all`."""
    for file, first_row, table in tables:
        folders = [part.removeprefix("split=") for part in file.split("/") if part.startswith("split=")]
        stem = file.rsplit("/", 1)[-1].lower()
        names = [name for name in known if stem.startswith(name)]
        yield Chunk((*folders, *names, "all")[0], file, first_row, table)


def label_of(label: Values, mask: Values | None) -> tuple[np.ndarray, np.ndarray]:
    """A label as float64 `[n]`, and where it counts."""
    counts = label.valid.copy()
    if mask is not None:
        counts &= mask.valid & (numbers_of(mask.kind, mask.keys) == 1)
    return numbers_of(label.kind, label.keys), counts


def days_of(values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970 in UTC, int64 `[n]`, and where there is one."""
    numbers = np.where(values.valid, numbers_of(values.kind, values.keys), 0.0)
    valid = values.valid & (np.abs(numbers) < 2**62)
    us = np.where(valid, numbers, 0.0)
    if values.kind != "time":
        size = np.abs(us)
        us = us * np.select([size < limit for limit, _ in _UNITS], [scale for _, scale in _UNITS])
    days = np.floor(us / _DAY_US).astype(np.int64)
    written = valid & (values.kind == "int") & (numbers >= _DATES[0]) & (numbers <= _DATES[1])
    if written.any():
        dates = numbers[written].astype(np.int64)
        months = (dates // 10_000 - 1970) * 12 + dates // 100 % 100 - 1
        days[written] = months.astype("M8[M]").astype("M8[D]").astype(np.int64) + dates % 100 - 1
    return days, valid


def _flattened(table: pa.Table) -> pa.Table:
    """Structs as columns `a.b`."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table
