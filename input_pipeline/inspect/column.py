"""What is known of one column of one split, and how a new chunk of it is added."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from input_pipeline.inspect.sketches import Distinct, Frequent, counted
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
