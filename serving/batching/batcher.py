"""Between the event loop and JAX: a bounded queue, and the one thread that holds the scorer and ranks what is queued.

Requests that are queued together are ranked by one call, which costs little more than for one of them. Nobody waits
for company: while a call runs the next ones gather by themselves. Where enough are queued a second call is started
before the first is read, so that XLA has work while Python builds answers.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from serving.batching.batch import (
    Batch,
    DeadlineError,
    DispatcherError,
    Outcome,
    OverloadError,
    Part,
    Queued,
    Ranked,
    all_fail,
    awaitable,
    start_batch,
)
from serving.batching.latency_model import LatencyModel
from serving.batching.pending import Answers, Pending
from serving.batching.queue import BatchQueue
from serving.batching.queue_metrics import QueueMetrics
from serving.batching.request import Work
from serving.limits import ServiceLimits
from serving.scorer import Scorer
from serving.scoring.programs import QUERIES

__all__ = ["Batcher", "DeadlineError", "DispatcherError", "OverloadError", "Ranked"]
R = TypeVar("R")
Switch = Callable[[Scorer], tuple[Scorer, Any]]  # of the scorer: the next one, and a result
_MARGIN = 1.25  # what is expected to be later than the deadline by less may well be in time, or not: it is not worth it
_LAST_CALL = 1.0  # s that the end of the process waits for the thread, if nobody closed it
_LAGS = 2  # times as long an answer may wait for an event loop that is behind, by then


class Batcher:
    """Ranks requests in batches. All methods but `close` are for an event loop.

    Nothing that is passed to it ends its thread: what cannot be ranked is refused, and an unexpected error fails the
    batch that it came up in. If the thread ends all the same, or is stuck for `ServiceLimits.stuck` seconds, all that
    is awaited and all that is asked later fails with `DispatcherError` at once.

    Attributes:
      closing_at: of `time.perf_counter`; from then on queued requests are refused, not ranked. Set it to stop in time.
    """

    def __init__(
        self, scorer: Scorer, *, limits: ServiceLimits | None = None, metrics: QueueMetrics | None = None
    ) -> None:
        self._limits = limits or ServiceLimits()
        self.closing_at = math.inf
        self._scorer = scorer
        self._metrics = metrics or QueueMetrics(CollectorRegistry())
        self._metrics.queued.set_function(lambda: self._queue.queries)
        self._wake = threading.Condition()  # guards the queue, the changes and `_closed`
        self._queue = BatchQueue()
        self._changes: deque[tuple[Switch, asyncio.Future[Any]]] = deque()
        self._closed = False
        self._running = 0  # batches
        self._latency = LatencyModel()
        self._finished = self._busy_until = 0.0  # when the last batch was done; when the running ones should be
        self._answers = Answers(self._limits.stuck, self._metrics.shed)
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()
        atexit.register(self.close, _LAST_CALL)  # the end of Python would kill the thread within XLA, which aborts

    @property
    def scorer(self) -> Scorer:
        """The scorer that the next batch will use."""
        return self._scorer

    @property
    def failure(self) -> DispatcherError | None:
        """Why nothing is ranked any more; None as long as the thread lives and gets on, or was closed."""
        if not self._closed and not self._thread.is_alive():
            self._answers.fail("the thread that ranks has ended")
        return self._answers.failure

    def admit(self, queries: int, deadline: float = math.inf, lag: float = 0.0, is_large: bool = False) -> None:
        """Raises `OverloadError` if that many queries find no place in the queue, or are expected to be late.

        `deadline`: of `time.perf_counter`. `lag`: seconds for which the request waited for the event loop. `is_large`:
        they need more than one call. Such ones cannot fill the queue for the others.
        """
        waiting = self._queue.queries - (0 if is_large else self._queue.large)
        if waiting and waiting + queries > self._limits.max_queue:
            self._metrics.shed["full"].inc()
            raise OverloadError(f"the queue is full: {waiting} queries wait", self._expected_wait(queries, is_large))
        if deadline == math.inf:
            return
        wait = self._expected_wait(queries, is_large)
        if wait and time.perf_counter() + _MARGIN * wait + _LAGS * lag > deadline:
            self._metrics.shed["slow"].inc()
            raise OverloadError(f"an answer would take about {wait * 1e3:.0f} ms, longer than the request allows", wait)

    def submit(self, work: Work, deadline: float = math.inf) -> asyncio.Future[Ranked]:
        """The ranked ads of each query, to be awaited. Cancelling it takes the request out of the queue.

        Raises at once: `OverloadError`, `RequestError`, `DispatcherError`, TypeError or ValueError for no `deadline`.
        Raises when awaited: `RequestError`, `DeadlineError`, `DispatcherError`.
        """
        if not isinstance(work, Work):
            raise TypeError(f"work: expected Work, got {type(work).__name__}")
        work, deadline = work.copied(), _seconds(deadline)
        batch_key, pending = self._scorer.batch_key(work.k, work.candidates), self._awaited()
        answer: asyncio.Future[Ranked] = pending.loop.create_future()
        request = Queued(work, batch_key, deadline, time.perf_counter(), answer)
        self.admit(len(work.queries), deadline, is_large=request.calls > 1)
        with self._wake:
            self._refuse_if_closed()
            self._queue.add(request)
            self._wake.notify()
        pending.add(answer, request)
        return answer

    async def between(self, change: Callable[[Scorer], tuple[Scorer, R]]) -> R:
        """Runs `change` of the scorer in the thread, between two batches.

        The scorer that it returns, which may be the one it was given, serves from then on. If it raises, nothing
        changes and the error is raised here. Requests of which a part was ranked are ranked to their end before.
        """
        pending = self._awaited()
        done: asyncio.Future[R] = pending.loop.create_future()
        with self._wake:
            self._refuse_if_closed()
            self._changes.append((change, done))
            self._wake.notify()
        pending.add(done)
        return await done

    def close(self, seconds: float | None = None) -> None:
        """Waits for the batches in progress, at most that long, and ends the thread. What is still queued is refused.
        Does not wait for a thread that is stuck."""
        atexit.unregister(self.close)
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(0.0 if self._answers.failure else seconds)

    def _awaited(self) -> Pending:
        if failure := self.failure:
            raise DispatcherError(*failure.args)  # a new one: its traceback is that of this call
        return self._answers.here()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the batcher is closed")

    def _expected_wait(self, queries: int, is_large: bool) -> float:
        """Seconds until as many more queries would be answered; 0 if nothing is before them."""
        queued, large = self._queue.queries, self._queue.large
        if not self._running and not queued:
            return 0.0
        seconds = max(0.0, self._busy_until - time.perf_counter()) + self._latency.sending
        if not large or is_large:
            return seconds + self._latency.queue(queued + queries)
        own = self._latency.queue(queued - large + queries)  # every other call, at most, is one for a large request
        return seconds + own + min(self._latency.queue(large), own + self._latency.call(self._queue.at_once))

    def _run(self) -> None:
        try:
            self._rank_all()
            self._refuse_rest()
        except BaseException as e:
            self._answers.fail(f"the thread that ranks has ended: {type(e).__name__}: {e}", e)

    def _rank_all(self) -> None:
        running: Batch | None = None
        while True:
            self._answers.pulse.beat()
            if running is not None and self._queue.queries < QUERIES[-1]:
                running.wait()  # meanwhile the next batch grows
            with self._wake:
                while not (running or self._queue.requests or self._changes or self._closed):
                    self._answers.pulse.beat(at_work=False)
                    self._wake.wait()
                self._answers.pulse.beat()
                if running is None and self._closed:
                    return
                # A change waits for what is running or begun, and comes before what is queued.
                is_free = running is None and not self._queue.is_begun
                change = self._changes.popleft() if self._changes and is_free else None
                parts = [] if change or self._closed else self._take(running is None)
            if change is not None:
                self._change(*change)
            started = self._start(parts) if parts else None
            if running is not None:
                self._finish(running, started)
            running = started

    def _take(self, may_wait: bool) -> list[Part]:
        """What can go with each other, out of the queue. Drops what nobody waits for."""
        if may_wait:
            self._wait_for_company()
        now, dropped, few = time.perf_counter(), list[Outcome](), self._queue.queries - self._queue.large
        later = now + self._latency.call(self._latency.batch_size(max(1, few), QUERIES[-1]))
        # The first one is ranked in any case, so that an expectation that is wrong does not outlive its reason.
        first = self._queue.requests[0] if self._queue.requests else None
        self._queue.keep(lambda request: self._is_wanted(request, now if request is first else later, dropped))
        self._answers.deliver(dropped)
        return self._queue.take(self._latency, begun_only=bool(self._changes))

    def _wait_for_company(self) -> None:
        queue = self._queue
        while len(queue.requests) > 1 and queue.queries < QUERIES[-1] and not (self._changes or self._closed):
            left = queue.requests[0].arrived + self._limits.max_wait - time.perf_counter()
            if left <= 0:
                return
            self._answers.pulse.beat()
            self._wake.wait(min(left, 1.0))

    def _is_wanted(self, request: Queued, done: float, dropped: list[Outcome]) -> bool:
        """Whether to rank it, to be done then. If not, `dropped` gets the reason, unless the client left."""
        if request.is_over or request.answer.done():
            if request.answer.cancelled():
                self._metrics.shed["gone"].inc()
            return False
        if done > request.deadline:
            dropped.append(request.fails(DeadlineError(ranked=request.taken > 0)))
            return False
        if done > self.closing_at:
            self._metrics.shed["closing"].inc()
            dropped.append(request.fails(OverloadError("the service is stopping", 1.0)))
            return False
        return True

    def _start(self, parts: list[Part]) -> Batch | None:
        failed = list[Outcome]()
        try:
            batch = start_batch(self._scorer, parts, failed)
            if batch is not None:
                self._metrics.batch.observe(batch.queries)
                for part in batch.parts:
                    if part.first == 0:
                        self._metrics.wait.observe(batch.started - part.request.arrived)
                self._busy_until = max(batch.started, self._busy_until) + self._latency.queue(batch.queries)
                self._running += 1
        except BaseException as e:  # of the batch, not of the thread
            batch, failed = None, all_fail(parts, e)
        self._answers.deliver(failed)
        return batch

    def _finish(self, batch: Batch, following: Batch | None) -> None:
        self._running -= 1
        try:
            outcomes = batch.outcomes()
            now = time.perf_counter()
            own = now - max(batch.started, self._finished)  # seconds, of two that overlap
            self._latency.measured(batch.queries, own)
            self._finished = now
            # Anew, not added up: what batches took less, or more, than expected would stay in it as long as it is busy.
            self._busy_until = now + (self._latency.queue(following.queries) if following else 0.0)
        except BaseException as e:  # of the batch, not of the thread
            outcomes = all_fail(batch.parts, e)
        self._answers.deliver(outcomes, self._latency.sent)

    def _change(self, change: Switch, done: asyncio.Future[Any]) -> None:
        try:
            scorer, result = change(self._scorer)
            if not isinstance(scorer, Scorer):
                raise TypeError(f"change: expected a Scorer first, got {type(scorer).__name__}")
            self._scorer = scorer
        except BaseException as e:  # for the one who asked
            result = awaitable(e)
        self._answers.deliver([(done, result)])

    def _refuse_rest(self) -> None:
        error = OverloadError("the service is stopping", 1.0)
        with self._wake:
            rest = [request.answer for request in self._queue.clear()] + [done for _, done in self._changes]
            self._changes.clear()
        self._answers.deliver([(answer, error) for answer in rest])


def _seconds(deadline: Any) -> float:
    if isinstance(deadline, bool) or not issubclass(type(deadline), Real):
        raise TypeError(f"deadline: expected a number of seconds, got {deadline!r}")
    try:
        seconds = float(deadline)
    except OverflowError:  # of an int
        return math.inf if deadline > 0 else 0.0
    if math.isnan(seconds):
        raise ValueError(f"deadline: expected a number of seconds, got {deadline!r}")
    return max(seconds, 0.0)  # of `time.perf_counter`, which was 0 long ago
