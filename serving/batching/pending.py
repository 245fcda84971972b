"""The answers that an event loop waits for. They end there: with a result, when a deadline passes, or when the thread
that ranks has ended or is stuck, so that no caller waits for a thread that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import Counter

from serving.batching.batch import DeadlineError, DispatcherError, Outcome, Queued
from serving.log_events import log_event

_TICK = 1.0  # s between two looks at the thread


class Pulse:
    """Signs of life of a thread, which says when it begins something else, and whether that is to wait for work."""

    def __init__(self, stuck: float) -> None:
        """`stuck`: seconds without one."""
        self._stuck, self._tick = stuck, min(_TICK, stuck / 4)
        self._turns = self._seen = 0
        self.is_at_work = False
        self._still = 0
        self._next = 0.0

    def beat(self, at_work: bool = True) -> None:
        """For the thread."""
        self._turns += 1
        self.is_at_work = at_work

    def is_stuck(self) -> bool:
        """Whether there was no sign for too long, for who has something for the thread to do and asks at `next_look`.

        Looks are counted, not seconds: a process that was suspended, or whose event loop was held up, is not stuck.
        """
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + self._tick
            self._still = self._still + 1 if self._turns == self._seen else 0
            self._seen = self._turns
        return self._still * self._tick >= self._stuck

    def next_look(self) -> float:
        """When to ask, of `time.perf_counter`."""
        return max(self._next, time.perf_counter() + self._tick / 2)


class Pending:
    """The answers of one event loop. Methods are for that loop, unless they say otherwise."""

    def __init__(self, pulse: Pulse, on_stuck: Callable[[], None], shed: Mapping[str, Counter]) -> None:
        """`on_stuck`: called once the thread is. `shed`: counters by reason."""
        self.loop = asyncio.get_running_loop()
        self._pulse, self._on_stuck, self._shed = pulse, on_stuck, shed
        self._answers: dict[asyncio.Future[Any], Queued | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = math.inf  # when the timer ends, of `time.perf_counter`

    def add(self, answer: asyncio.Future[Any], request: Queued | None = None) -> None:
        """Is told of what is awaited, and of its request if it is one."""
        self._answers[answer] = request
        answer.add_done_callback(self._answers.pop)
        self._wake_at(min(self._pulse.next_look(), request.deadline if request else math.inf))

    def deliver(self, outcomes: list[Outcome], sent: Callable[[float], None] | None = None) -> None:
        """Hands over results and errors. For any thread.

        `sent` is told in the loop, once all who wait have had their turn, how many seconds that took.
        """
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self.loop.call_soon_threadsafe(self._settle, outcomes, sent, time.perf_counter())

    def fail(self, error: DispatcherError) -> None:
        """Ends all with this error. For any thread."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: DispatcherError) -> None:
        self._settle([(answer, DispatcherError(*error.args)) for answer in self._answers])

    def _settle(self, outcomes: list[Outcome], sent: Callable[[float], None] | None = None, start: float = 0.0) -> None:
        for answer, result in outcomes:
            if answer.done():  # cancelled, or too late
                continue
            if isinstance(result, Exception):
                if isinstance(result, DeadlineError):
                    self._shed[result.reason].inc()
                answer.set_exception(result)
            else:
                answer.set_result(result)
        if sent is not None:  # each result has put one who waits in the queue of the loop: this comes after them
            self.loop.call_soon(lambda: sent(time.perf_counter() - start))

    def _wake_at(self, when: float) -> None:
        if when < self._wakes:
            if self._timer is not None:
                self._timer.cancel()
            self._wakes = when
            self._timer = self.loop.call_later(max(0.0, when - time.perf_counter()), self._wake)

    def _wake(self) -> None:
        """One timer for all: most requests are answered before anything is due."""
        self._timer, self._wakes, now = None, math.inf, time.perf_counter()
        requests = [request for request in self._answers.values() if request is not None]
        self._settle([(r.answer, DeadlineError(ranked=r.taken > 0)) for r in requests if r.deadline <= now])
        if self._answers or self._pulse.is_at_work:
            if self._pulse.is_stuck():
                self._on_stuck()
            else:
                earliest = min((r.deadline for r in requests if r.deadline > now), default=math.inf)
                self._wake_at(min(self._pulse.next_look(), earliest))


class Answers:
    """The answers of all event loops, and why there are none any more.

    Attributes:
      pulse: for the thread to tell.
      failure: what all that is awaited, and all that is asked later, ends with; None as long as the thread gets on.
    """

    def __init__(self, stuck: float, shed: Mapping[str, Counter]) -> None:
        """`stuck`: seconds without a sign of life, while there is something to do."""
        self.pulse = Pulse(stuck)
        self.failure: DispatcherError | None = None
        self._stuck, self._shed = stuck, shed
        self._loops: dict[asyncio.AbstractEventLoop, Pending] = {}
        self._failing = threading.Lock()  # guards the loops and the failure

    def here(self) -> Pending:
        """Those of the running event loop. Raises `DispatcherError` if nothing is ranked any more."""
        loop = asyncio.get_running_loop()
        pending = self._loops.get(loop)
        if pending is None or self.failure is not None:
            with self._failing:
                if self.failure is not None:
                    raise DispatcherError(*self.failure.args)
                self._loops = {other: them for other, them in self._loops.items() if not other.is_closed()}
                pending = self._loops[loop] = Pending(self.pulse, self._fail_stuck, self._shed)
        return pending

    def deliver(self, outcomes: list[Outcome], sent: Callable[[float], None] | None = None) -> None:
        """`Pending.deliver` of the loops that wait for them. For any thread."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome[0].get_loop(), []).append(outcome)
        for loop, some in by_loop.items():
            if pending := self._loops.get(loop):
                pending.deliver(some, sent)

    def fail(self, reason: str, error: BaseException | None = None) -> None:
        """Ends all that is awaited, once. For any thread."""
        with self._failing:
            if self.failure is not None:
                return
            self.failure = failure = DispatcherError(reason)
            loops = list(self._loops.values())
        log_event("dispatcher", logging.CRITICAL, error=error, outcome="failed", reason=reason)
        for pending in loops:
            pending.fail(failure)

    def _fail_stuck(self) -> None:
        self.fail(f"the thread that ranks has not got on for {self._stuck:g} s")
