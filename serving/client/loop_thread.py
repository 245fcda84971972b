"""The event loop of a client of threads, in a thread that does not keep the process from ending."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

from serving.client.retries import NoAnswerError

A = TypeVar("A")
CLOSED = "the client is closed"
_LOOKS = 1.0  # s between two looks at whether the thread that has a call is alive


class LoopThread:
    """An `AsyncClient`, and the event loop that it runs in, in a thread that does not keep the process from ending."""

    def __init__(self, client: Any) -> None:
        self.client, self.pid = client, os.getpid()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=_serve, args=(client, started), name="serving client", daemon=True)
        self._thread.start()
        try:
            self._loop, self._ended = started.result()
        except OSError as e:  # no descriptor for an event loop
            raise NoAnswerError(f"no answer: {e}") from e
        self._is_stopped = False

    def run(self, call: Coroutine[Any, Any, A]) -> A:
        """What the call returns or raises. An interrupt of the caller cancels it."""
        try:
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:  # the loop is closed
            call.close()
            raise RuntimeError(CLOSED) from None
        try:
            while not wait((future,), _LOOKS).done:
                if not self._thread.is_alive():  # it took the call, and ended before it looked at it
                    raise RuntimeError(CLOSED)
            return future.result()
        except (CancelledError, RuntimeError):
            if self._is_stopped:
                raise RuntimeError(CLOSED) from None
            raise
        finally:
            future.cancel()

    def stop(self) -> None:
        """Ends the thread, and cancels what it still does. Does nothing in a forked process, or a second time."""
        if self.pid != os.getpid() or self._loop.is_closed():
            return
        self._is_stopped = True
        self._loop.call_soon_threadsafe(self._ended.set)
        if threading.current_thread() is not self._thread:  # the garbage collector runs in any thread
            self._thread.join()


def _serve(client: Any, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    async def until_ended() -> None:
        ended = asyncio.Event()
        async with client:
            started.set_result((asyncio.get_running_loop(), ended))
            await ended.wait()

    try:
        with asyncio.Runner() as runner:
            runner.run(until_ended())
    except BaseException as e:
        if started.done():
            raise
        started.set_exception(e)
