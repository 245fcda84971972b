"""What is known of one split of a log, and how that of later rows is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline.inspect.column import Bounds, ColumnStats
from input_pipeline.inspect.sketches import Distinct, RowSample
from input_pipeline.inspect.values import Kind, Values

Place = tuple[int, int, str]  # part of the log, chunk of the part, file: they compare as they are read
Column = tuple[str, Kind, bool]  # name, kind of the values, whether in lists


@dataclass(frozen=True, eq=False)
class Split:
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

    def __init__(self, bounds: Bounds, began: Place, seed: Sequence[int]) -> None:
        self.rows, self.began = 0, began
        self.came: dict[str, Place] = {}
        self.left: dict[str, Place] = {}
        self.late: set[str] = set()
        self._bounds = bounds
        self._columns: dict[Column, ColumnStats] = {}
        self._sample = RowSample(bounds.sample, seed)
        self._distinct_rows = Distinct(bounds.rows)

    def add(self, columns: Mapping[str, Values], hashes: np.ndarray, place: Place) -> None:
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

    def of_kinds(self, kinds: Mapping[str, Column]) -> Split:
        """With these columns; values of another kind count as missing."""
        nothing = ColumnStats(self._bounds)
        columns = {name: self._columns.get(kinds[name], nothing) if name in kinds else nothing for name in self.came}
        no_values = np.zeros(len(self._sample), np.uint64), np.zeros(len(self._sample), bool)
        sample = {name: self._sample.columns.get(kinds.get(name), no_values) for name in self.came}
        return Split(self.rows, columns, sample, len(self._sample), self._distinct_rows)

    def _has(self, name: str, place: Place, late: bool) -> None:
        if name not in self.came:
            self.came[name] = place
            if late:
                self.late.add(name)

    def _lacks(self, names: Sequence[str], place: Place) -> None:
        for name in names:
            self.left.setdefault(name, place)

    def _stats(self, column: Column) -> ColumnStats:
        if column not in self._columns:
            self._columns[column] = ColumnStats(self._bounds)
        return self._columns[column]
