"""Counting of values without keeping them: distinct values, frequent values, a sample of rows. Bounded and mergeable.

Values are keys, uint64 `[n]`, as `values.values_of` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tt_jax.features.hashing import mix64

_PENDING = 32  # chunks that a sketch may hold unsorted


class Distinct:
    """How many different keys there are: exact below `bound` of them, then an estimate of 1 / sqrt(bound - 2).

    It keeps the `bound` smallest hashes, with how often each came: a uniform sample of the distinct keys, whose counts
    are exact, since what is among the smallest at the end was always among them. The k-th smallest of n uniform hashes
    stands at about k / n of their range (Bar-Yossef et al., RANDOM 2002; Beyer et al., SIGMOD 2007).
    """

    def __init__(self, bound: int) -> None:
        if bound < 3:
            raise ValueError(f"bound {bound} is not >= 3")
        self.bound = bound
        self._full = False
        self._hashes, self._counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: np.ndarray, counts: np.ndarray) -> None:
        """Adds keys, with how often each comes: int64 `[n]`, >= 1."""
        hashes, counts = self._near(mix64(keys), counts)
        order = np.argsort(hashes)  # faster than to have `summed` do it
        self._hold(hashes[order], counts[order])

    def merge(self, other: Distinct) -> None:
        """Adds what another sketch of the same bound saw."""
        other._compact()
        self._hold(*self._near(other._hashes, other._counts))
        if other._full and not self._full:
            self._compact()
            self._full = True  # with the other's, there are enough of them

    def _near(self, hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those that may be among the smallest."""
        if not self._full:
            return hashes, counts
        near = hashes <= self._hashes[-1]
        return hashes[near], counts[near]

    def _hold(self, hashes: np.ndarray, counts: np.ndarray) -> None:
        """Of sorted hashes."""
        if hashes.size:
            self._pending.append((hashes, counts))
        # Not at once, so that a big sketch is not sorted for every chunk.
        if len(self._pending) >= _PENDING or sum(h.size for h, _ in self._pending) >= self.bound:
            self._compact()

    def _compact(self) -> None:
        if not self._pending:
            return
        parts = [(self._hashes, self._counts), *self._pending]
        self._hashes, self._counts = summed(*map(np.concatenate, zip(*parts, strict=True)))
        self._pending = []
        if self._hashes.size > self.bound:
            self._full = True
            self._hashes, self._counts = self._hashes[: self.bound], self._counts[: self.bound]

    def __len__(self) -> int:
        """Distinct keys, rounded where they are estimated."""
        self._compact()
        if not self._full:
            return self._hashes.size
        return round((self._hashes.size - 1) * 2.0**64 / (float(self._hashes[-1]) + 1))

    @property
    def error(self) -> float:
        """Relative standard error of the number; 0 where it is exact."""
        self._compact()
        return 1 / math.sqrt(self.bound - 2) if self._full else 0.0

    @property
    def repeated(self) -> float:
        """Share of additions that were not the first of their key, exact or of the sample; 0 without any."""
        self._compact()
        return 1 - self._hashes.size / int(self._counts.sum()) if self._hashes.size else 0.0

    @property
    def once(self) -> float:
        """Share of the distinct keys that came once, exact or of the sample; 0 without any."""
        self._compact()
        return float((self._counts == 1).mean()) if self._hashes.size else 0.0


class Frequent:
    """The most frequent keys: each count is too small by `error` at most, and `error` <= additions / (places + 1).

    Misra and Gries' summary in the form that merges (Agarwal et al., Mergeable Summaries, PODS 2012): where more keys
    than places are held, the count of the first that has no place is taken off all.
    """

    def __init__(self, places: int) -> None:
        self.places, self.error = places, 0
        self.keys, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)

    def add(self, keys: np.ndarray, counts: np.ndarray) -> None:
        """Adds different keys, with how often each comes: int64 `[n]`, >= 1."""
        new_keys, new_counts = self._most(keys, counts)  # before the sum, which sorts
        keys, counts = summed(np.concatenate([self.keys, new_keys]), np.concatenate([self.counts, new_counts]))
        self.keys, self.counts = self._most(keys, counts)

    def _most(self, keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those for which there are places."""
        if keys.size <= self.places:
            return keys, counts
        excess = int(np.sort(counts)[-self.places - 1])  # of equal numbers `partition` takes 30 times as long
        self.error += excess
        kept = counts > excess
        return keys[kept], counts[kept] - excess

    def merge(self, other: Frequent) -> None:
        """Adds what another summary saw; the errors add up."""
        self.error += other.error
        self.add(other.keys, other.counts)

    def top(self, n: int) -> list[tuple[int, int]]:
        """Up to n (key, count), the most frequent first."""
        order = np.lexsort((self.keys, -self.counts))[:n]
        return [(int(self.keys[i]), int(self.counts[i])) for i in order]


class RowSample:
    """A uniform sample of `size` rows: those with the smallest of random numbers, so that samples merge.

    Attributes:
      columns: name -> (keys uint64 `[n]`, valid bool `[n]`), the same rows in all of them.
    """

    def __init__(self, size: int, seed: int | Sequence[int]) -> None:
        self._size, self._random = size, np.random.default_rng(seed)
        self._draws = np.empty(0)
        self.columns: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Rows of the sample."""
        return self._draws.size

    def add(self, rows: int, columns: Mapping[Any, tuple[np.ndarray, np.ndarray]]) -> None:
        """Adds rows; a column that is not there has no value in them."""
        self._add(self._random.random(rows), columns)

    def merge(self, other: RowSample) -> None:
        """Adds another sample of the same size."""
        self._add(other._draws, other.columns)

    def _add(self, draws: np.ndarray, columns: Mapping[Any, tuple[np.ndarray, np.ndarray]]) -> None:
        near = np.arange(draws.size) if len(self) < self._size else np.flatnonzero(draws < self._draws.max())
        if not near.size:
            return
        every = np.concatenate([self._draws, draws[near]])
        kept = np.argpartition(every, self._size)[: self._size] if every.size > self._size else np.arange(every.size)
        merged = {}
        for name in self.columns | dict(columns):
            old, new = self.columns.get(name), columns.get(name)
            before = _no_values(len(self)) if old is None else old
            after = _no_values(near.size) if new is None else (new[0][near], new[1][near])
            merged[name] = tuple(np.concatenate(part)[kept] for part in zip(before, after, strict=True))
        self._draws, self.columns = every[kept], merged


def _no_values(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(rows, np.uint64), np.zeros(rows, bool)


def counted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys, ascending, and how often each comes, int64. A third of the time of Arrow's hash table."""
    keys = np.sort(keys)
    first = _firsts(keys)
    return keys[first], np.diff(first, append=keys.size)


def summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys, ascending, and the sums of their counts, int64."""
    order = np.argsort(keys, kind="stable")  # which takes runs that are sorted as they are
    keys, counts = keys[order], counts[order]
    first = _firsts(keys)
    return keys[first], np.add.reduceat(counts, first) if keys.size else counts.astype(np.int64)


def _firsts(keys: np.ndarray) -> np.ndarray:
    """Where another key begins among sorted ones."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.empty(0, np.int64)
