"""How long it takes to rank what is queued, and how many to rank at once, learnt from the calls that were made."""

from __future__ import annotations

import math

from serving.lowering import QUERIES

_NEWEST = 0.2  # weight of the newest call in the mean of its size
_OLD = 200  # calls since a size was measured, of any size, after which its mean decides nothing any more


class Pace:
    """Mean seconds of a call by its size. Zero as long as nothing was measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._calls = 0
        self._last: dict[int, int] = {}  # which call was the last one of a size
        self._queues: dict[int, float] = {}  # what `queue` found since the last call: it is asked for every request

    def measured(self, queries: int, seconds: float) -> None:
        """A call for that many queries took that long, or several calls for more than fit one."""
        size = _size(queries)
        seconds *= size / max(size, queries)
        mean = seconds if self._is_old(size) else self._seconds[size]
        self._seconds[size] = mean + _NEWEST * (seconds - mean)
        self._calls += 1
        self._last[size] = self._calls
        self._queues = {}

    def call(self, queries: int) -> float:
        """Seconds of a call for that many queries.

        Never more than that of as many smaller calls, or of a larger one: else a size that was slow once could be
        avoided for ever, and its mean never corrected.
        """
        size = _size(queries)
        return min((mean * max(1.0, size / other) for other, mean in self._seconds.items()), default=0.0)

    def batch_size(self, waiting: int, most: int) -> int:
        """How many of the waiting queries to rank by the next call, at most: a size of a call, up to `most`.

        Either the largest size that they fill or the next one, which costs the same full or not: whichever takes less
        time for an answer. One that was not measured lately is taken, to learn what it costs.
        """
        full = max(size for size in QUERIES if size <= min(waiting, most))
        padded = next((size for size in QUERIES if full < size <= most), full)
        if waiting == full or padded == full or self._is_old(full):
            return full
        if self._is_old(padded) or self._seconds[padded] / waiting < self._seconds[full] / full:
            return padded
        return full

    def queue(self, queries: int) -> float:
        """Seconds to rank that many queries that wait."""
        known = self._queues
        if (found := known.get(queries)) is None:
            found = known[queries] = self._queue(queries)
        return found

    def _queue(self, queries: int) -> float:
        full, rest = divmod(queries, QUERIES[-1])
        seconds = full * self.call(QUERIES[-1])
        while rest > 0:
            size = self.batch_size(rest, QUERIES[-1])
            seconds, rest = seconds + self.call(size), rest - size
        return seconds

    def _is_old(self, size: int) -> bool:
        return self._calls - self._last.get(size, -math.inf) >= _OLD


def _size(queries: int) -> int:
    return next((size for size in QUERIES if size >= queries), QUERIES[-1])
