"""The requests that wait to be ranked, and which of them go next: small ones pass large ones, which go in parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from operator import attrgetter

from serving.batching.batch import MOST_ADS, Part, Queued
from serving.batching.latency_model import LatencyModel


class BatchQueue:
    """Requests in order of arrival. Not safe in threads.

    A call is led by the smallest request, in calls; but if the last call passed over the oldest request, that one leads
    the next. So a small request waits for one call of a large one at most, beside that which is running, and a large
    one gets every other call. Those that go with the leader are of its model and its batch key, the smallest first, and
    whole. So of the models that have small requests, that one is next whose oldest waits longest.

    Attributes:
      queries: that are left.
      large: those of requests that need more than one call.
      small_of, large_of: model -> queries of other requests, and of these.
      spare: a small request to be ranked when nothing else waits; None = none.
      at_once: most queries of these that one call takes.
    """

    def __init__(self) -> None:
        self.requests: list[Queued] = []
        self.queries = self.large = self.at_once = 0
        self.small_of, self.large_of = Counter[str](), Counter[str]()
        self.spare: Queued | None = None
        self._passed_over = False  # the oldest, by the last call

    @property
    def is_begun(self) -> bool:
        """Whether there is a request of which parts were taken, so that it must be ranked by the same scorer."""
        return any(request.taken for request in self.requests)

    def add(self, request: Queued) -> None:
        """At the end."""
        self.requests.append(request)
        self._count(request)

    def add_spare(self, request: Queued) -> None:
        """In the place of `spare`, which must be free."""
        self.spare = request

    def take_spare(self, is_free: bool) -> Queued | None:
        """Queues the spare request if nothing runs (`is_free`) or waits. Returns it, dropped, if something waits."""
        if self.spare is None or not (is_free or self.requests):
            return None
        request, self.spare = self.spare, None
        if self.requests:
            return request
        self.add(request)
        return None

    def keep(self, is_wanted: Callable[[Queued], bool]) -> None:
        """Drops the others. The order is that of arrival."""
        self._set([request for request in self.requests if is_wanted(request)])

    def clear(self) -> list[Queued]:
        """All, out of the queue."""
        everything, self.spare = self.requests + ([self.spare] if self.spare else []), None
        self._set([])
        return everything

    def take(self, latencies: Mapping[str, LatencyModel], begun_only: bool = False) -> list[Part]:
        """What the next call ranks, out of the queue.

        `latencies`: by model. `begun_only`: nothing of a request that is not begun.
        """
        waiting = [request for request in self.requests if request.taken] if begun_only else self.requests
        if not waiting:
            return []
        oldest = waiting[0]
        leader = oldest if self._passed_over else min(waiting, key=attrgetter("calls"))
        group = leader.work.model, leader.batch_key
        mates = [r for r in waiting if (r.work.model, r.batch_key) == group and r is not leader]
        mates.sort(key=attrgetter("calls"))
        latency = latencies[leader.work.model]
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
        self.queries = self.large = self.at_once = 0
        self.small_of, self.large_of = Counter(), Counter()
        for request in requests:
            self._count(request)

    def _count(self, request: Queued) -> None:
        self.queries += request.left
        if request.calls > 1:
            self.large += request.left
            self.large_of[request.work.model] += request.left
            self.at_once = max(self.at_once, request.at_once)
        else:
            self.small_of[request.work.model] += request.left
