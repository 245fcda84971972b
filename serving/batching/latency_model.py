"""How long it takes to rank what is queued and to send it, and how many to rank at once, learnt from the calls that
were made."""

from __future__ import annotations

import math

from serving.scoring.jitted import QUERIES

_NEWEST = 0.2  # least weight of the newest call in the mean of its size
_SURE = 3  # calls of a size after which its mean decides
_OLD = 200  # calls since a size was measured, of any size, after which its mean decides nothing any more


class LatencyModel:
    """Mean seconds of a call by its size. Zero as long as nothing was measured.

    Attributes:
      sending: mean seconds from the end of a call until the last of its answers is sent.
    """

    def __init__(self) -> None:
        self.sending = 0.0
        self._seconds: dict[int, float] = {}
        self._times: dict[int, int] = {}  # in the mean of a size
        self._calls = 0
        self._last: dict[int, int] = {}  # which call was the last one of a size
        self._rests: dict[int, float] = {}  # what `_rest` found since the last call: it is asked for every request

    def measured(self, queries: int, seconds: float) -> None:
        """A call for that many queries took that long, or several calls for more than fit one."""
        size = _size(queries)
        seconds *= size / max(size, queries)
        times = self._times[size] = 1 if self._is_old(size) else self._times[size] + 1
        mean = self._seconds.get(size, 0.0)
        # The first one, whose memory may be cold, is forgotten with the second: else its size might long be avoided.
        self._seconds[size] = mean + max(_NEWEST, 1 / max(1, times - 1)) * (seconds - mean)
        self._calls += 1
        self._last[size] = self._calls
        self._rests = {}

    def sent(self, seconds: float) -> None:
        """The answers of a call were sent that long after it."""
        self.sending += _NEWEST * (seconds - self.sending)

    def call(self, queries: int) -> float:
        """Expected seconds of a call for that many queries; 0.0 before the first measurement.

        Never more than that of as many smaller calls, or of a larger one: else a size that was slow once could be
        avoided for ever, and its mean never corrected.
        """
        size = _size(queries)
        return min((mean * max(1.0, size / other) for other, mean in self._seconds.items()), default=0.0)

    def batch_size(self, waiting: int, most: int) -> int:
        """How many of the waiting queries to rank by the next call, at most: a size of a call, up to `most`.

        Either the largest size that they fill or the next one, which costs the same full or not: whichever takes less
        time for an answer. One that was not measured lately, and often enough, is taken, to learn what it costs.
        """
        full = max(size for size in QUERIES if size <= min(waiting, most))
        padded = next((size for size in QUERIES if full < size <= most), full)
        if waiting == full or padded == full or not self._is_known(full):
            return full
        if not self._is_known(padded) or self._seconds[padded] / waiting < self._seconds[full] / full:
            return padded
        return full

    def queue(self, queries: int) -> float:
        """Seconds to rank that many queries that wait."""
        full, rest = divmod(queries, QUERIES[-1])
        if (seconds := self._rests.get(rest)) is None:
            seconds = self._rests[rest] = self._rest(rest)
        return full * self.call(QUERIES[-1]) + seconds

    def _rest(self, queries: int) -> float:
        seconds = 0.0
        while queries > 0:
            size = self.batch_size(queries, QUERIES[-1])
            seconds, queries = seconds + self.call(size), queries - size
        return seconds

    def _is_known(self, size: int) -> bool:
        return not self._is_old(size) and self._times[size] >= _SURE

    def _is_old(self, size: int) -> bool:
        return self._calls - self._last.get(size, -math.inf) >= _OLD


def _size(queries: int) -> int:
    return next((size for size in QUERIES if size >= queries), QUERIES[-1])
