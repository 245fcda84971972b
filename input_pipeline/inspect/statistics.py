"""Statistics of a column and of a split, which take chunks of rows and merge with those of later rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline.inspect.sketches import Distinct, Frequent, RowSample, counted
from input_pipeline.inspect.values import NUMBERS, Kind, Values, kept_texts, numbers_of


@dataclass(frozen=True)
class Bounds:
    """How much is kept, whatever the number of rows.

    Attributes:
      distinct: values of a column of which the number is exact.
      frequent: places for frequent values of a column.
      sample: rows of the sample of a split.
      rows: different rows of which the number is exact.
      days, scenarios: of which rows and labels are counted; what comes after these many is one more.
    """

    distinct: int = 16_384
    frequent: int = 1_024
    sample: int = 20_000
    rows: int = 1 << 20
    days: int = 4_096
    scenarios: int = 256


class ColumnStats:
    """Counts of the values of one kind of a column.

    Attributes:
      kind: of its values, or of the elements of its lists; `none` where there are none.
      present, infinite: rows that have a value (NaN is none), and infinite numbers.
      lists, longest, elements: whether it has lists, the length of the longest, and values (elements) in all.
      distinct, frequent: of the values or elements.
      low, high, total: of the finite numbers.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.kind: Kind = "none"
        self.lists = False
        self.present = self.infinite = self.elements = self.longest = 0
        self.distinct, self.frequent = Distinct(bounds.distinct), Frequent(bounds.frequent)
        self.texts: dict[int, str] = {}
        self.low, self.high, self.total = math.inf, -math.inf, 0.0

    def add(self, values: Values) -> None:
        """Adds the rows of a chunk, of the kind of those before."""
        self.present += int(values.valid.sum())
        self.kind, self.lists = values.kind, values.lengths is not None
        self.elements += values.elements.size
        if values.lengths is not None:
            self.longest = max(self.longest, int(values.lengths.max(initial=0)))
        if self.kind in NUMBERS:
            self._add_numbers(numbers_of(self.kind, values.elements))
        if self.kind != "other":
            self._count(values)

    def _count(self, values: Values) -> None:
        keys, counts = counted(values.elements)
        self.distinct.add(keys, counts)
        self.frequent.add(keys, counts)
        if values.texts is not None:
            self.texts = kept_texts(self.frequent.keys.tolist(), self.texts, values.texts)

    def _add_numbers(self, numbers: np.ndarray) -> None:
        finite = numbers[np.isfinite(numbers)]
        self.infinite += numbers.size - finite.size
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
            self.total += float(finite.sum())

    def merge(self, other: ColumnStats) -> None:
        """Adds those of other rows, of the same kind."""
        self.kind, self.lists = other.kind, other.lists
        for name in ("present", "infinite", "elements", "total"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.distinct.merge(other.distinct)
        self.frequent.merge(other.frequent)
        known = self.texts | other.texts
        if self.kind == "text":
            self.texts = {key: known[key] for key in self.frequent.keys.tolist()}

    @property
    def mean(self) -> float | None:
        """Of the finite numbers; None without any."""
        count = self.elements - self.infinite
        return self.total / count if self.kind in NUMBERS and count > 0 else None


ChunkPlace = tuple[int, int, str]  # part of the log, chunk of the part, file: they compare as they are read
Column = tuple[str, Kind, bool]  # name, kind of the values, whether in lists


@dataclass(frozen=True, eq=False)
class SplitSummary:
    """A split with one kind of each column.

    Attributes:
      rows: of all columns.
      columns: of those that are there, in the order in which they came.
      sample: name -> (keys uint64 `[n]`, valid bool `[n]`) of a uniform sample of the rows.
      sampled: rows of the sample.
      distinct_rows: hashes of whole rows.
    """

    rows: int
    columns: dict[str, ColumnStats]
    sample: dict[str, tuple[np.ndarray, np.ndarray]]
    sampled: int
    distinct_rows: Distinct

    def missing(self, name: str) -> int:
        """Rows without a value of a column."""
        return self.rows - self.columns[name].present

    def missing_share(self, name: str) -> float:
        """Of the rows; 0 without any."""
        return self.missing(name) / self.rows if self.rows else 0.0


class SplitStats:
    """Counts of a split, its columns once for each kind that their values have.

    Attributes:
      began: where its first rows are.
      came: name of a column -> where it first is; `late` has those that rows before did not have.
      left: name -> the first place where it came before and is not.
    """

    def __init__(self, bounds: Bounds, began: ChunkPlace, seed: Sequence[int]) -> None:
        self.rows, self.began = 0, began
        self.came: dict[str, ChunkPlace] = {}
        self.left: dict[str, ChunkPlace] = {}
        self.late: set[str] = set()
        self._bounds = bounds
        self._columns: dict[Column, ColumnStats] = {}
        self._sample = RowSample(bounds.sample, seed)
        self._distinct_rows = Distinct(bounds.rows)

    def add(self, columns: Mapping[str, Values], hashes: np.ndarray, place: ChunkPlace) -> None:
        """Adds the rows of a chunk, with hashes of the whole rows."""
        rows = hashes.size
        for name in columns:
            self._has(name, place, self.rows > 0)
        self._lacks([name for name in self.came if name not in columns], place)
        of_kind: dict[Column, Values] = {
            (name, v.kind, v.lengths is not None): v for name, v in columns.items() if v.kind != "none"
        }
        for column, values in of_kind.items():
            self._stats(column).add(values)
        self.rows += rows
        self._sample.add(rows, {column: (v.keys, v.valid) for column, v in of_kind.items()})
        self._distinct_rows.add(hashes, np.ones(rows, np.int64))

    def merge(self, other: SplitStats) -> None:
        """Adds what is known of later rows."""
        self._lacks([name for name in self.came if other.came.get(name) != other.began], other.began)
        for name, place in other.came.items():
            self._has(name, place, self.rows > 0 or name in other.late)
        for name, place in other.left.items():
            self._lacks([name], place)
        for column, stats in other._columns.items():
            self._stats(column).merge(stats)
        self.rows += other.rows
        self._sample.merge(other._sample)
        self._distinct_rows.merge(other._distinct_rows)

    def of_kinds(self, kinds: Mapping[str, Column]) -> SplitSummary:
        """With these columns; values of another kind count as missing."""
        nothing = ColumnStats(self._bounds)
        columns = {name: self._columns.get(kinds[name], nothing) if name in kinds else nothing for name in self.came}
        no_values = np.zeros(len(self._sample), np.uint64), np.zeros(len(self._sample), bool)
        sample = {name: self._sample.columns.get(kinds.get(name), no_values) for name in self.came}
        return SplitSummary(self.rows, columns, sample, len(self._sample), self._distinct_rows)

    def _has(self, name: str, place: ChunkPlace, late: bool) -> None:
        if name not in self.came:
            self.came[name] = place
            if late:
                self.late.add(name)

    def _lacks(self, names: Sequence[str], place: ChunkPlace) -> None:
        for name in names:
            self.left.setdefault(name, place)

    def _stats(self, column: Column) -> ColumnStats:
        if column not in self._columns:
            self._columns[column] = ColumnStats(self._bounds)
        return self._columns[column]
