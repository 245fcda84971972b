"""SIGTERM and SIGINT as a flag that long work polls, and a way to poll it while XLA compiles."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

from tt_jax.parallel.processes import gather

_POLL_S = 0.1
T = TypeVar("T")


class Interrupted(Exception):
    """The work was told to stop."""


class StopSignal:
    """While entered, SIGTERM and SIGINT set a flag instead of ending the process. Call it to read the flag."""

    def __init__(self) -> None:
        self.name = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, _frame: Any) -> None:
        self.name = signal.Signals(number).name

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return bool(self.name)

    def agreed(self) -> bool:
        """Whether the flag is set in any process; then it is set in all. All must call it, at the same point."""
        found = max(gather(self.name))
        if found:  # else the handler may have set it since, which is for the next time
            self.name = found
        return bool(found)


def call_interruptibly(function: Callable[[], T], should_stop: Callable[[], bool]) -> T:
    """`function()`, in a thread of its own. Raises `Interrupted` as soon as `should_stop()`, leaving the thread behind.

    For a compilation, which holds the main thread, and with it Python's signal handlers, until it is done.
    """
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function)
    try:
        while not wait_for([future], timeout=_POLL_S).done:
            if should_stop():
                raise Interrupted
        return future.result()
    finally:
        pool.shutdown(wait=False)
