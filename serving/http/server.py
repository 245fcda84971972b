"""The process around the listeners: its event loop, its signals, its sockets and descriptors."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass

import uvloop

from serving.http.listener import BACKLOG, Listener
from serving.limits import ServiceLimits
from serving.log_events import log_event

_MOST_CONNECTIONS = 10_000  # unless more are asked for: some 10 KB each
_EXTRA = 256  # connections of the listener of metrics, and of that of the administrator
_FILES = 640  # descriptors for all else: files, and 3 x 128 connections that are told that there is no room
_ENDING = (signal.SIGTERM, signal.SIGINT)
_TICK = 0.1  # s between two looks whether to end
_BROKEN_TICKS = 10  # for which probes and clients of a broken service are told so
_LAST_ANSWER = 0.8  # of the grace time: when answers that are not written yet are given up


class Server:
    """Serves until SIGTERM or SIGINT, then drains and returns."""

    def __init__(
        self,
        listener: Listener,
        limits: ServiceLimits,
        drain: Callable[[], None],
        is_broken: Callable[[], bool],
        contexts: Sequence[Callable[[], AbstractAsyncContextManager[None]]],
    ) -> None:
        """`drain` is called when the signal has come. Once `is_broken`, the server ends within a second or two.
        `contexts` are entered, one after the other, before the first request is taken, and left after the last one."""
        self._listener, self._limits, self._drain = listener, limits, drain
        self._is_broken, self._contexts = is_broken, contexts

    def run(self, listener: socket.socket) -> None:
        """Serves on it. Afterwards a signal does what it did before."""
        handlers = {sig: signal.getsignal(sig) for sig in _ENDING}
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve(listener))
        finally:
            for sig, handler in handlers.items():
                signal.signal(sig, handler)

    async def _serve(self, listener: socket.socket) -> None:
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        for sig in _ENDING:
            loop.add_signal_handler(sig, self._end, sig, ending)
        async with AsyncExitStack() as stack:
            for context in self._contexts:
                await stack.enter_async_context(context())
            async with self._listener.serving(listener, _LAST_ANSWER * self._limits.grace):
                broken = 0
                while not ending.is_set() and broken <= _BROKEN_TICKS:
                    await asyncio.sleep(_TICK)
                    broken += self._is_broken()
                log_event("drain", connections=len(self._listener.connections))

    def _end(self, sig: signal.Signals, ending: asyncio.Event) -> None:
        """Drains; a second SIGINT does not wait."""
        if not ending.is_set():
            self._drain()
            ending.set()
        elif sig == signal.SIGINT:
            self._listener.abort()


def calm_garbage_collector() -> None:
    """To be called once all is loaded. A full collection walks all that JAX and the libraries hold, a pause of 0.1 s in
    which nothing is answered, and answers of a few thousand objects each would bring one about every second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


@dataclass(frozen=True)
class Room:
    """How many connections each listener may have."""

    service: int
    extra: int


def make_room(asked: int) -> Room:
    """For `asked` connections, 0 = as many as is sensible. Each takes a file descriptor, of which a process may have
    few unless it asks for more; the rest is for files, and for the other listeners.

    Raises ValueError if there are fewer.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files = most if most != resource.RLIM_INFINITY else 2**20
    extra = min(_EXTRA, files // 16)
    room = files - 2 * extra - min(_FILES, files // 2)
    if asked > room:
        raise ValueError(f"max_connections: expected at most {room}, with {files} files open (ulimit -Hn), got {asked}")
    return Room(asked or min(room, _MOST_CONNECTIONS), extra)


def require_port(port: int) -> None:
    """Raises ValueError unless it is one, or 0 for a free one."""
    if not 0 <= port < 2**16:
        raise ValueError(f"port: expected 0 to {2**16 - 1}, got {port}")


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the address, but refuses connections until `listen`.

    Raises ValueError for a port that is none, and OSError naming an address that cannot be had.
    """
    require_port(port)
    with ExitStack() as on_error, _address_error(host, port):
        listener = on_error.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        on_error.pop_all()
        return listener


def listen(listener: socket.socket) -> None:
    """Takes connections. Raises OSError naming an address that cannot be had."""
    host, port, *_ = listener.getsockname()
    with _address_error(host, port):
        listener.listen(BACKLOG)


@contextmanager
def _address_error(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise OSError(f"cannot listen on {host}:{port}: {e.strerror or e}") from None
