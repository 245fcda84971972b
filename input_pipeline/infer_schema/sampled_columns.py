"""What a column of the sample is like, whatever its type: its distinct values, its numbers, what it depends on."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.infer_schema.name_words import words_of

_MIN_PAIRS = 50  # fewer pairs of rows of the same ad or user say nothing
_BINS = 64
MAX_COUNTED = 64  # values of a column whose rows are counted in the whole log


@dataclass(frozen=True, eq=False)
class Column:
    """A column of n rows. Decimals are floats, booleans integers, and a dictionary is what it stands for.

    Attributes:
      name: as it is in the logs.
      array: the values of the sampled rows.
      counts: value -> rows that have it in the whole log, nulls and NaN left out; None if there are many values.
      rows: of the whole log.
      is_joined: whether it comes from a table beside the log.
      is_truth: whether its integers are true and false in the log.
    """

    name: str
    array: pa.Array
    counts: Mapping[Any, int] | None = None
    rows: int = 0
    is_joined: bool = False
    is_truth: bool = False

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Those of the name: `isLongView_2` is `is long view 2`."""
        return words_of(self.name)

    @property
    def is_text(self) -> bool:
        """Whether its values are strings."""
        return pa.types.is_string(self.array.type) or pa.types.is_large_string(self.array.type)

    @property
    def is_list(self) -> bool:
        """Whether they are lists, of anything but lists."""
        t = self.array.type
        is_list = pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t)
        return is_list and not pa.types.is_nested(t.value_type)

    @property
    def is_time(self) -> bool:
        """Whether they are dates or times by their type."""
        return pa.types.is_temporal(self.array.type)

    @property
    def is_int(self) -> bool:
        """Whether they are integers by their type."""
        return pa.types.is_integer(self.array.type)

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """float64 [n], NaN where there is none; None if the values are no numbers."""
        if not (self.is_int or pa.types.is_floating(self.array.type)):
            return None
        values = pc.fill_null(self.array.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
        return np.where(np.isfinite(values), values, np.nan)

    @cached_property
    def is_whole(self) -> bool:
        """Whether they are whole numbers, perhaps stored as floats."""
        if self.is_int or self.numbers is None:
            return self.is_int
        if pc.any(pc.is_inf(self.array)).as_py():
            return False
        if self.counts is not None:
            return all(v == np.floor(v) and abs(v) < 2**53 for v in self.counts)
        known = self.numbers[~np.isnan(self.numbers)]
        return bool((known == np.floor(known)).all() and (np.abs(known) < 2**53).all())

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [n]: which distinct value a row has, numbers in their order, -1 where it has none."""
        if self.is_list:
            return self._list_codes()
        if self.numbers is not None:
            exact = self.array.fill_null(0).to_numpy() if self.is_int else self.numbers  # an id may exceed 2**53
            known = ~np.isnan(self.numbers)
            codes = np.full(len(known), -1)
            codes[known] = np.unique(exact[known], return_inverse=True)[1]
            return codes
        return pc.fill_null(self.array.dictionary_encode().indices.cast(pa.int64()), -1).to_numpy()

    def _list_codes(self) -> np.ndarray:
        """Lists of equal length and elements are told apart from others by a sum of random numbers."""
        row, elements = self.elements
        values = elements.dictionary_encode().indices.fill_null(0).to_numpy().astype(np.int64)
        draws = np.random.default_rng(0).random(int(values.max(initial=0)) + 1)
        place = np.arange(len(row)) - np.searchsorted(row, row)
        sums = np.bincount(row, draws[values] * (1 + place), minlength=len(self.array))
        codes = np.unique(np.round(sums, 9), return_inverse=True)[1]
        return np.where(pc.is_valid(self.array).to_numpy(zero_copy_only=False), codes, -1)

    @cached_property
    def elements(self) -> tuple[np.ndarray, pa.Array]:
        """Of a column of lists: the row of each element, and the elements."""
        return np.repeat(np.arange(len(self.array)), self.lengths), self.array.flatten()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Of the lists, 0 where there is none."""
        return pc.fill_null(pc.list_value_length(self.array), 0).to_numpy().astype(np.int64)

    @cached_property
    def distinct(self) -> int:
        """How many values there are, nulls apart: in the whole log if they were counted there, else in the sample."""
        return len(np.unique(self.codes[self.codes >= 0])) if self.counts is None else len(self.counts)

    @cached_property
    def missing(self) -> float:
        """Share of the rows without a value, of the whole log if its values were counted there."""
        if self.counts is not None and self.rows:
            return 1 - sum(self.counts.values()) / self.rows
        return float((self.codes < 0).mean())

    @cached_property
    def bins(self) -> np.ndarray:
        """int64 [n] >= 0: the distinct value of a row, or the quantile of a number; 0 where there is none."""
        if self.numbers is None or self.distinct <= _BINS:
            return self.codes + 1
        ranked = self.codes[self.codes >= 0]
        edges = np.unique(np.quantile(ranked, np.linspace(0, 1, _BINS + 1)))
        return np.where(self.codes < 0, 0, 1 + np.searchsorted(edges, self.codes))

    def values(self) -> list[int | str]:
        """The distinct values, sorted; whole numbers as integers."""
        values = self.array.unique().drop_null().to_pylist() if self.counts is None else self.counts
        return sorted(values if self.numbers is None else {int(v) for v in values if np.isfinite(v)})

    def depends_on(self, group: np.ndarray | None, exactly: bool = False) -> float | None:
        """How much of the column a group of rows has in common: 1 if all rows of a group agree, about 0 if they agree
        no more than any rows; numbers may be near unless `exactly`. None if there are too few rows of the same group.
        `group`: int [n], -1 = none."""
        if group is None:
            return None
        order = np.argsort(group, kind="stable")
        one, next_ = order[:-1], order[1:]
        pairs = (group[one] == group[next_]) & (group[one] >= 0)
        if pairs.sum() < _MIN_PAIRS:
            return None
        a, b = self.codes[one[pairs]], self.codes[next_[pairs]]
        chance = float(((np.bincount(self.codes + 1) / len(self.codes)) ** 2).sum())
        share = ((a == b).mean() - chance) / (1 - chance) if chance < 1 else 1.0
        if self.numbers is not None and not exactly and (variance := float(self.codes.var())):
            share = max(share, 1 - float(((a - b).astype(float) ** 2).mean()) / (2 * variance))
        return float(share)


def quoted(text: str) -> str:
    """A string as Python source, in double quotes where that is all there is to it."""
    plain = repr(text)
    return f'"{text}"' if plain == f"'{text}'" and '"' not in text else plain


def values_counted(array: pa.Array | pa.ChunkedArray, before: Mapping[Any, int] | None = None) -> dict[Any, int] | None:
    """Value -> rows, those of `before` added, no "", NaN or infinity; None if there are more than `MAX_COUNTED`."""
    t = array.type
    if pa.types.is_nested(t) or pa.types.is_temporal(t) or pa.types.is_decimal(t) or pa.types.is_binary(t):
        return None
    pairs = array.value_counts()
    if len(pairs) > MAX_COUNTED + 2:  # a null, a NaN
        return None
    counts = dict(before or {})
    for pair in pairs.to_pylist():
        value = int(pair["values"]) if isinstance(pair["values"], bool) else pair["values"]
        if value is not None and (value != "" if isinstance(value, str) else math.isfinite(value)):
            counts[value] = counts.get(value, 0) + pair["counts"]
    return counts if len(counts) <= MAX_COUNTED else None


def columns_of(
    table: pa.Table, counts: Mapping[str, Mapping[Any, int] | None] | None = None, rows: int = 0
) -> dict[str, Column]:
    """The columns of a sample, by name. `counts`, `rows`: see `Column`; of a column joined to the log it has none."""
    counts = counts or {}
    result = {}
    for name in table.column_names:
        array = table.column(name).combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        is_truth = pa.types.is_boolean(array.type)
        if is_truth:
            array = array.cast(pa.int8())
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        if name in counts:
            result[name] = Column(name, array, counts[name], rows, is_truth=is_truth)
        else:
            result[name] = Column(name, array, values_counted(array), len(array), is_joined=True, is_truth=is_truth)
    return result
