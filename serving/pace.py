"""How long it takes to rank what is queued, learnt from the calls that were made."""

from __future__ import annotations

from serving.batches import batch_size
from serving.lowering import QUERIES

_NEWEST = 0.2  # weight of the newest call in the mean of its size


class Pace:
    """Mean seconds of a call by its size. Zero as long as nothing was measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._queues: dict[int, float] = {}  # what `queue` found since the last call: it is asked for every request

    def measured(self, queries: int, seconds: float) -> None:
        """A call for that many queries took that long, or several calls for more than fit one."""
        size = _size(queries)
        seconds *= size / max(size, queries)
        mean = self._seconds.get(size, seconds)
        self._seconds[size] = mean + _NEWEST * (seconds - mean)
        self._queues = {}

    def call(self, queries: int) -> float:
        """Seconds of a call for that many queries.

        Never more than that of as many smaller calls, or of a larger one: else a size that was slow once could be
        avoided for ever, and its mean never corrected.
        """
        size = _size(queries)
        return min((mean * max(1.0, size / other) for other, mean in self._seconds.items()), default=0.0)

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
            size = batch_size(rest, QUERIES[-1])
            seconds, rest = seconds + self.call(size), rest - size
        return seconds


def _size(queries: int) -> int:
    return next((size for size in QUERIES if size >= queries), QUERIES[-1])
