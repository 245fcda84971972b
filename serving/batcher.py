"""Between the event loop and JAX: a bounded queue, and the one thread that holds the scorer and ranks what is queued.

Requests that are queued together are ranked by one call, which costs little more than for one of them. Nobody waits
for company: while a call runs the next ones gather by themselves. Where enough are queued a second call is started
before the first is read, so that XLA has work while Python builds answers.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from serving.batches import (
    Batch,
    DeadlineError,
    Outcome,
    OverloadError,
    Queued,
    Ranked,
    deliver,
    start_batch,
)
from serving.load import Load
from serving.messages import Work
from serving.pace import Pace
from serving.programs import QUERIES
from serving.scorer import Scorer
from serving.telemetry import QueueMetrics

__all__ = ["Batcher", "DeadlineError", "OverloadError", "Ranked"]

R = TypeVar("R")
Change = Callable[[Scorer], tuple[Scorer, Any]]
_MARGIN = 1.25  # what is expected to be later than the deadline by less may well be in time, or not: it is not worth it
_LAGS = 2  # times as long an answer may wait for an event loop that is behind, by then


class Batcher:
    """Ranks requests in batches. All methods but `close` are for the event loop.

    Attributes:
      closing_at: of `time.perf_counter`; from then on queued requests are refused, not ranked. Set it to stop in time.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        load: Load | None = None,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._load = load or Load()
        self.closing_at = math.inf
        self._scorer = scorer
        self._metrics = metrics or QueueMetrics(CollectorRegistry())
        self._metrics.queued.set_function(lambda: self._queued)
        self._wake = threading.Condition()  # guards the queue, the changes and `_closed`
        self._queue: deque[Queued] = deque()
        self._queued = 0  # queries
        self._changes: deque[tuple[Change, asyncio.Future[Any]]] = deque()
        self._closed = False
        self._running = 0  # batches
        self._pace = Pace()
        self._finished = self._busy_until = 0.0  # when the last batch was done; when the running ones should be
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    @property
    def scorer(self) -> Scorer:
        """The scorer that the next batch will use."""
        return self._scorer

    def admit(self, queries: int, deadline: float = math.inf, lag: float = 0.0) -> None:
        """Raises `OverloadError` if that many queries find no place in the queue, or are expected to be late.

        `deadline`: of `time.perf_counter`. `lag`: seconds for which the request waited for the event loop.
        """
        if self._queued and self._queued + queries > self._load.max_queue:
            self._metrics.shed["full"].inc()
            raise OverloadError(f"the queue is full: {self._queued} queries wait", self._expected_wait(queries))
        if deadline == math.inf:
            return
        wait = self._expected_wait(queries)
        if wait and time.perf_counter() + _MARGIN * wait + _LAGS * lag > deadline:
            self._metrics.shed["slow"].inc()
            raise OverloadError(f"an answer would take about {wait * 1e3:.0f} ms, longer than the request allows", wait)

    def submit(self, work: Work, deadline: float = math.inf) -> asyncio.Future[Ranked]:
        """The ranked ads of each query, to be awaited. Cancelling it takes the request out of the queue.

        Raises what `admit` does, and `RequestError`; `RequestError` and `DeadlineError` also when it is awaited.
        """
        lane = self._scorer.lane(work.k, work.candidates)
        self.admit(len(work.queries), deadline)
        answer: asyncio.Future[Ranked] = asyncio.get_running_loop().create_future()
        request = Queued(work, lane, deadline, time.perf_counter(), answer)
        with self._wake:
            self._refuse_if_closed()
            self._queue.append(request)
            self._queued += request.queries
            self._wake.notify()
        return answer

    async def between(self, change: Callable[[Scorer], tuple[Scorer, R]]) -> R:
        """Runs `change` of the scorer in the thread, between two batches.

        The scorer that it returns, which may be the one it was given, serves from then on. If it raises, nothing
        changes and the error is raised here.
        """
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        with self._wake:
            self._refuse_if_closed()
            self._changes.append((change, done))
            self._wake.notify()
        return await done

    def close(self) -> None:
        """Waits for the batches in progress and ends the thread. What is still queued is refused."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the batcher is closed")

    def _expected_wait(self, queries: int) -> float:
        """Seconds until as many more queries would be answered; 0 if nothing is before them."""
        if not self._running and not self._queued:
            return 0.0
        busy = max(0.0, self._busy_until - time.perf_counter())
        return busy + self._pace.queue(self._queued + queries) + self._pace.sending

    def _run(self) -> None:
        running: Batch | None = None
        while True:
            if running is not None and self._queued < QUERIES[-1]:
                running.wait()  # meanwhile the next batch grows
            with self._wake:
                while not (running or self._queue or self._changes or self._closed):
                    self._wake.wait()
                if running is None and self._closed:
                    break
                change = self._changes.popleft() if running is None and self._changes else None
                # A change waits for what is running, and comes before what is queued.
                requests = [] if change or self._changes or self._closed else self._take(running is None)
            if change is not None:
                self._change(*change)
            started = self._start(requests) if requests else None
            if running is not None:
                self._finish(running, started)
            running = started
        self._refuse_rest()

    def _take(self, may_wait: bool) -> list[Queued]:
        """The first of the queue and those that can go with it, out of the queue. Drops what nobody waits for."""
        if may_wait:
            self._wait_for_company()
        now, dropped = time.perf_counter(), list[Outcome]()
        seconds = self._pace.call(self._pace.batch_size(self._queued, QUERIES[-1])) if self._queued else 0.0
        waiting = list[Queued]()
        for request in self._queue:
            # The first one is ranked in any case, so that an expectation that is wrong does not outlive its reason.
            if self._is_wanted(request, now + seconds if waiting else now, dropped):
                waiting.append(request)
        deliver(dropped)
        taken, kept, queries, most = list[Queued](), deque[Queued](), 0, 0
        if waiting:
            lane = waiting[0].lane
            most = self._pace.batch_size(sum(r.queries for r in waiting if r.lane == lane), lane.queries)
        for request in waiting:
            if not taken or (request.lane == taken[0].lane and queries + request.queries <= most):
                taken.append(request)
                queries += request.queries
            else:
                kept.append(request)
        self._queue, self._queued = kept, sum(r.queries for r in kept)
        return taken

    def _wait_for_company(self) -> None:
        while len(self._queue) > 1 and self._queued < QUERIES[-1] and not (self._changes or self._closed):
            left = self._queue[0].arrived + self._load.max_wait - time.perf_counter()
            if left <= 0:
                return
            self._wake.wait(left)

    def _is_wanted(self, request: Queued, done: float, dropped: list[Outcome]) -> bool:
        """Whether to rank it, to be done then. If not, `dropped` gets the reason, unless the client left."""
        if request.answer.done():
            self._metrics.shed["gone"].inc()
            return False
        if done > request.deadline:
            self._metrics.shed["expired"].inc()
            dropped.append((request.answer, DeadlineError("the deadline passes while the request is queued")))
            return False
        if done > self.closing_at:
            self._metrics.shed["closing"].inc()
            dropped.append((request.answer, OverloadError("the service is stopping", 1.0)))
            return False
        return True

    def _start(self, requests: list[Queued]) -> Batch | None:
        failed = list[Outcome]()
        batch = start_batch(self._scorer, requests, failed)
        deliver(failed)
        if batch is not None:
            self._running += 1
            self._busy_until = max(batch.started, self._busy_until) + self._pace.queue(batch.queries)
            self._metrics.batch.observe(batch.queries)
            for request in batch.requests:
                self._metrics.wait.observe(batch.started - request.arrived)
        return batch

    def _finish(self, batch: Batch, following: Batch | None) -> None:
        outcomes = batch.outcomes()
        now = time.perf_counter()
        own = now - max(batch.started, self._finished)  # seconds, of two that overlap
        self._pace.measured(batch.queries, own)
        self._finished, self._running = now, self._running - 1
        # Anew, not added up: what batches took less, or more, than expected would stay in it for as long as it is busy.
        self._busy_until = now + (self._pace.queue(following.queries) if following else 0.0)
        deliver(outcomes, self._pace.sent)
        self._metrics.shed["late"].inc(sum(isinstance(result, DeadlineError) for _, result in outcomes))

    def _change(self, change: Change, done: asyncio.Future[Any]) -> None:
        try:
            self._scorer, result = change(self._scorer)
        except Exception as e:  # for the one who asked
            result = e
        deliver([(done, result)])

    def _refuse_rest(self) -> None:
        error = OverloadError("the service is stopping", 1.0)
        with self._wake:
            rest = [request.answer for request in self._queue] + [done for _, done in self._changes]
            self._queue.clear()
            self._changes.clear()
            self._queued = 0
        deliver([(answer, error) for answer in rest])
