"""The requests that wait to be ranked, and which of them go next: small ones pass large ones, which go in parts."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from serving.batching.batch import MOST_ADS, Part, Queued
from serving.batching.latency_model import LatencyModel


class BatchQueue:
    """Requests in order of arrival. Not safe in threads.

    A call is led by the smallest request, in calls; but if the last call passed over the oldest request, that one leads
    the next. So a small request waits for one call of a large one at most, beside that which is running, and a large
    one gets every other call. Those that go with the leader are of its batch key, the smallest first, and whole.

    Attributes:
      queries: that are left.
      large: those of requests that need more than one call.
      at_once: most queries of these that one call takes.
    """

    def __init__(self) -> None:
        self.requests: list[Queued] = []
        self.queries = self.large = self.at_once = 0
        self._passed_over = False  # the oldest, by the last call

    @property
    def is_begun(self) -> bool:
        """Whether there is a request of which parts were taken, so that it must be ranked by the same scorer."""
        return any(request.taken for request in self.requests)

    def add(self, request: Queued) -> None:
        """At the end."""
        self.requests.append(request)
        self.queries += request.left
        if request.calls > 1:
            self.large += request.left
            self.at_once = max(self.at_once, request.at_once)

    def keep(self, is_wanted: Callable[[Queued], bool]) -> None:
        """Drops the others. The order is that of arrival."""
        self._set([request for request in self.requests if is_wanted(request)])

    def clear(self) -> list[Queued]:
        """All, out of the queue."""
        everything = self.requests
        self._set([])
        return everything

    def take(self, latency: LatencyModel, begun_only: bool = False) -> list[Part]:
        """What the next call ranks, out of the queue. `begun_only`: nothing of a request that is not begun."""
        waiting = [request for request in self.requests if request.taken] if begun_only else self.requests
        if not waiting:
            return []
        oldest = waiting[0]
        leader = oldest if self._passed_over else min(waiting, key=attrgetter("calls"))
        mates = [r for r in waiting if r.batch_key == leader.batch_key and r is not leader]
        mates.sort(key=attrgetter("calls"))
        most = latency.batch_size(leader.left + sum(mate.left for mate in mates), leader.at_once)
        parts = [leader.part(most)]
        room, ads = most - parts[0].queries, MOST_ADS - parts[0].queries * leader.ads_each
        for mate in mates:
            if not room:
                break
            if mate.left <= room and mate.left * mate.ads_each <= ads:
                room, ads = room - mate.left, ads - mate.left * mate.ads_each
                parts.append(mate.part(mate.left))
        self._passed_over = not any(part.request is oldest for part in parts)
        self._set([request for request in self.requests if request.left])
        return parts

    def _set(self, requests: list[Queued]) -> None:
        self.requests = requests
        self.queries = sum(request.left for request in requests)
        large = [request for request in requests if request.calls > 1]
        self.large = sum(request.left for request in large)
        self.at_once = max((request.at_once for request in large), default=0)
