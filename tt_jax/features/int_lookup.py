"""Where whole numbers stand in a list: a table that is built once and asked for many numbers at a time."""

from __future__ import annotations

import numpy as np

from tt_jax.features.hashing import mix64

_DENSE = 8  # places, of 4 bytes, that a number may take in an array over their range
_FEW = 512  # numbers asked for at a time, for which a binary search is faster than hashing


class IntLookup:
    """Positions of distinct whole numbers. Safe in threads.

    Numbers that lie close together are looked up in an array over their range, others by hash, or few by binary search.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        """`numbers`: int64 [n], distinct."""
        lowest, highest = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, -1)
        self._lowest = np.int64(lowest)
        self._dense = highest - lowest < _DENSE * len(numbers) or not len(numbers)
        if self._dense:
            self._end = np.uint64(highest - lowest + 1)
            self._at = np.full(highest - lowest + 2, -1, np.int32)  # the last place is of what lies outside
            self._at[numbers - self._lowest] = np.arange(len(numbers), dtype=np.int32)
            return
        self._sorted_positions = np.argsort(numbers).astype(np.int32)
        self._sorted = numbers[self._sorted_positions]
        bits = len(numbers).bit_length() + 1  # two to four buckets a number
        self._shift = np.uint64(64 - bits)
        buckets = self._buckets(numbers)
        order = np.argsort(buckets, kind="stable")
        self._numbers, self._positions = numbers[order], order.astype(np.int32)
        counts = np.bincount(buckets, minlength=1 << bits)
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """int32 [n]: the position of each of some int64 numbers, -1 where it is not there."""
        if self._dense:
            offsets = (numbers - self._lowest).view(np.uint64)  # one that is too small becomes very large
            return self._at.take(np.minimum(offsets, self._end).view(np.int64))
        return self._search(numbers) if len(numbers) < _FEW else self._find_hashed(numbers)

    def _search(self, numbers: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self._sorted, numbers), len(self._sorted) - 1)
        return np.where(self._sorted[at] == numbers, self._sorted_positions[at], np.int32(-1))

    def _find_hashed(self, numbers: np.ndarray) -> np.ndarray:
        buckets = self._buckets(numbers)
        at, end = self._first.take(buckets), self._first.take(buckets + 1)
        found = np.full(len(numbers), -1, np.int32)
        rows = np.flatnonzero(at < end)
        while len(rows):
            places = at[rows]
            equal = self._numbers.take(places) == numbers[rows]
            found[rows[equal]] = self._positions.take(places[equal])
            at[rows] += 1
            rows = rows[~equal & (places + 1 < end[rows])]
        return found

    def _buckets(self, numbers: np.ndarray) -> np.ndarray:
        return (mix64(numbers.view(np.uint64)) >> self._shift).view(np.int64)
