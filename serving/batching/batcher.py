"""Between the event loop and JAX: a bounded queue, and the one thread that holds the scorers and ranks what is queued.

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
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from serving.batching.expected_wait import ExpectedWait
from serving.batching.pending import Answers, Pending
from serving.batching.queue import BatchQueue
from serving.batching.queue_metrics import QueueMetrics
from serving.batching.request import Work, by_model, deadline_seconds
from serving.limits import ServiceLimits
from serving.scorer import RequestError, Scorer
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
      scorers: model -> the scorer that its next batch will use; one is given, or several by name.
      closing_at: of `time.perf_counter`; from then on queued requests are refused, not ranked. Set it to stop in time.
    """

    def __init__(
        self,
        scorers: Scorer | Mapping[str, Scorer],
        *,
        limits: ServiceLimits | None = None,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._limits = limits or ServiceLimits()
        self.closing_at = math.inf
        self.scorers = by_model(scorers)
        self._metrics = metrics or QueueMetrics(CollectorRegistry())
        self._metrics.queued.set_function(lambda: self._queue.queries)
        self._wake = threading.Condition()  # guards the queue, the changes and `_closed`
        self._queue = BatchQueue()
        self._changes: deque[tuple[str, Switch, asyncio.Future[Any]]] = deque()  # model, change, who awaits it
        self._closed = False
        self._expected = ExpectedWait(self.scorers)
        self._answers = Answers(self._limits.stuck, self._metrics.shed)
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()
        atexit.register(self.close, _LAST_CALL)  # the end of Python would kill the thread within XLA, which aborts

    @property
    def scorer(self) -> Scorer:
        """The first of `scorers`: the only one of a batcher that has one."""
        return next(iter(self.scorers.values()))

    @property
    def failure(self) -> DispatcherError | None:
        """Why nothing is ranked any more; None as long as the thread lives and gets on, or was closed."""
        if not self._closed and not self._thread.is_alive():
            self._answers.fail("the thread that ranks has ended")
        return self._answers.failure

    def admit(
        self, queries: int, deadline: float = math.inf, lag: float = 0.0, is_large: bool = False, model: str = ""
    ) -> None:
        """Raises `OverloadError` if that many queries find no place in the queue, or are expected to be late.

        `deadline`: of `time.perf_counter`. `lag`: seconds for which the request waited for the event loop. `is_large`:
        they need more than one call. Such ones cannot fill the queue for the others. `model`: theirs; "" = not known.
        """
        waiting = self._queue.queries - (0 if is_large else self._queue.large)
        if waiting and waiting + queries > self._limits.max_queue:
            self._metrics.shed["full"].inc()
            wait = self._expected.of(self._queue, queries, is_large, model)
            raise OverloadError(f"the queue is full: {waiting} queries wait", wait)
        if deadline == math.inf:
            return
        wait = self._expected.of(self._queue, queries, is_large, model)
        if wait and time.perf_counter() + _MARGIN * wait + _LAGS * lag > deadline:
            self._metrics.shed["slow"].inc()
            raise OverloadError(f"an answer would take about {wait * 1e3:.0f} ms, longer than the request allows", wait)

    def submit(self, work: Work, deadline: float = math.inf) -> asyncio.Future[Ranked]:
        """The ranked ads of each query, to be awaited. Cancelling it takes the request out of the queue.

        `work.model`: whose scorer ranks it; "" = the first.

        Raises at once: `OverloadError`, `RequestError`, `DispatcherError`, TypeError or ValueError for no `deadline`.
        Raises when awaited: `RequestError`, `DeadlineError`, `DispatcherError`.
        """
        if not isinstance(work, Work):
            raise TypeError(f"work: expected Work, got {type(work).__name__}")
        request, pending = self._request(work, deadline_seconds(deadline))
        self.admit(len(work.queries), request.deadline, is_large=request.calls > 1, model=request.work.model)
        return self._enqueue(request, pending, self._queue.add)

    def submit_spare(self, work: Work) -> asyncio.Future[Ranked] | None:
        """As `submit`, for a request that is ranked when nothing else waits; None if something does, it needs more than
        one call, or another such request waits. If something comes before its turn, it fails with `OverloadError`."""
        request, pending = self._request(work, math.inf)
        if self._queue.requests or self._queue.spare or request.calls > 1:
            return None
        return self._enqueue(request, pending, self._queue.add_spare)

    def _enqueue(self, request: Queued, pending: Pending, add: Callable[[Queued], None]) -> asyncio.Future[Ranked]:
        with self._wake:
            self._refuse_if_closed()
            add(request)
            self._wake.notify()
        pending.add(request.answer, request)
        return request.answer

    def _request(self, work: Work, deadline: float) -> tuple[Queued, Pending]:
        work = work.copied()
        work = replace(work, model=work.model or next(iter(self.scorers)))
        if work.model not in self.scorers:
            raise RequestError(f"model: expected one of {', '.join(self.scorers)}, got {work.model!r}")
        batch_key, pending = self.scorers[work.model].batch_key(work.k, work.candidates, work.explore), self._awaited()
        answer: asyncio.Future[Ranked] = pending.loop.create_future()
        return Queued(work, batch_key, deadline, time.perf_counter(), answer), pending

    async def between(self, change: Callable[[Scorer], tuple[Scorer, R]], model: str = "") -> R:
        """Runs `change` of the scorer of a model ("" = the first) in the thread, between two batches.

        The scorer that it returns, which may be the one it was given, serves from then on. If it raises, nothing
        changes and the error is raised here. Requests of which a part was ranked are ranked to their end before.
        """
        pending = self._awaited()
        done: asyncio.Future[R] = pending.loop.create_future()
        with self._wake:
            self._refuse_if_closed()
            self._changes.append((model or next(iter(self.scorers)), change, done))
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
                while not (running or self._queue.requests or self._queue.spare or self._changes or self._closed):
                    self._answers.pulse.beat(at_work=False)
                    self._wake.wait()
                self._answers.pulse.beat()
                if running is None and self._closed:
                    return
                # A change waits for what is running or begun, and comes before what is queued.
                is_free = running is None and not self._queue.is_begun
                change = self._changes.popleft() if self._changes and is_free else None
                if late := self._queue.take_spare(running is None and change is None):
                    self._answers.deliver([late.fails(OverloadError("others wait", 1.0))])
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
        now, dropped, later = time.perf_counter(), list[Outcome](), self._expected.next_done(self._queue)
        # The first one is ranked in any case, so that an expectation that is wrong does not outlive its reason.
        first = self._queue.requests[0] if self._queue.requests else None
        self._queue.keep(lambda r: self._is_wanted(r, now if r is first else later[r.work.model], dropped))
        self._answers.deliver(dropped)
        return self._queue.take(self._expected.latencies, begun_only=bool(self._changes))

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
            batch = start_batch(self.scorers[parts[0].request.work.model], parts, failed)  # all are of one model
            if batch is not None:
                self._metrics.batch.observe(batch.queries)
                for part in batch.parts:
                    if part.first == 0:
                        self._metrics.wait.observe(batch.started - part.request.arrived)
                self._expected.started(batch)
        except BaseException as e:  # of the batch, not of the thread
            batch, failed = None, all_fail(parts, e)
        self._answers.deliver(failed)
        return batch

    def _finish(self, batch: Batch, following: Batch | None) -> None:
        self._expected.running -= 1
        try:
            outcomes = batch.outcomes()
            self._expected.finished(batch, following)
        except BaseException as e:  # of the batch, not of the thread
            outcomes = all_fail(batch.parts, e)
        self._answers.deliver(outcomes, self._expected.latencies[batch.model].sent)

    def _change(self, model: str, change: Switch, done: asyncio.Future[Any]) -> None:
        try:
            scorer, result = change(self.scorers[model])
            if not isinstance(scorer, Scorer):
                raise TypeError(f"change: expected a Scorer first, got {type(scorer).__name__}")
            self.scorers[model] = scorer
        except BaseException as e:  # for the one who asked
            result = awaitable(e)
        self._answers.deliver([(done, result)])

    def _refuse_rest(self) -> None:
        error = OverloadError("the service is stopping", 1.0)
        with self._wake:
            rest = [request.answer for request in self._queue.clear()] + [done for *_, done in self._changes]
            self._changes.clear()
        self._answers.deliver([(answer, error) for answer in rest])
