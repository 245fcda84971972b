"""The HTTP server around an application: uvicorn, with limits on clients that are slow or silent, and a clean end."""

from __future__ import annotations

import gc
import resource
import signal
import socket
import sys
import time
from asyncio import BaseTransport
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.door import Door
from serving.load import Load
from serving.log_events import log_event
from serving.rank import ANSWER, Reply
from serving.telemetry import STARTED

BACKLOG = 2048  # connections that the kernel accepts before we do
_LONGEST_HEAD = 65_536  # bytes
_LAST_DATA = 52  # where Linux' struct tcp_info has tcpi_last_data_recv, ms
_BROKEN_TICKS = 10  # tenths of a second for which probes and clients of a broken service are told so
_LAST_ANSWER = 0.8  # of the grace time: when answers that are not written yet are given up


def unread_seconds(transport: BaseTransport) -> float:
    """How long the last bytes that came lay in the kernel before they were read, to a millisecond. 0 where the
    kernel does not tell, which is everywhere but on Linux."""
    if sys.platform != "linux":
        return 0.0
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA + 4)
    return int.from_bytes(info[_LAST_DATA:], sys.byteorder) / 1e3


class Connection(HttpToolsProtocol):
    """One connection. uvicorn closes those that are idle after an answer; `close_if_stuck` is for the others.

    A request that came in one piece and that the door takes is answered without a task: that and the messages of ASGI
    cost the event loop a third of an answer.
    """

    def __init__(self, door: Door, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._refusal: Reply | None = None  # for the request that is being read, of which the application knows nothing
        self._is_taken = False  # by the door, as the request that is being read
        self._waiting: Any = None  # the application that gets that request if its body did not come with its head
        self._head_since: float | None = None  # a head is awaited since then, or the body of a refused request
        self._head_bytes = 0
        self._unread_since: float | None = None
        self._answering: RequestResponseCycle | None = None  # `cycle` is the last one read, of several in a row

    def connection_made(self, transport: BaseTransport) -> None:
        """Who connects is to send a request."""
        self._head_since = time.monotonic()
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]

    def data_received(self, data: bytes) -> None:
        """The clock of a later request starts at the first byte of its head."""
        if self._head_since is None and self._is_idle():
            self._head_since, self._head_bytes = time.monotonic(), 0
        self._head_bytes += len(data)
        super().data_received(data)
        if self._waiting is not None and self._answering is not None:
            super()._start_asgi_task(self._answering, self._waiting)
            self._waiting = None
        if self._head_since is not None and self._head_bytes > _LONGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        """From here the handler limits the time for the body, unless the request is refused."""
        self._head_bytes = 0
        arrived = time.perf_counter() - unread_seconds(self.transport)
        self.scope["state"][STARTED] = arrived  # pyright: ignore[reportTypedDictNotRequiredAccess], uvicorn sets it
        assert self.parser is not None
        self._is_taken = False
        if self._is_idle() and self.parser.should_keep_alive() and not self.expect_100_continue:
            entered = self._door.enter(self.parser.get_method(), self.url, self.headers, arrived)
            self._refusal = entered if isinstance(entered, Reply) else None
            self._is_taken = entered is True and not self.flow.write_paused
        if self._refusal is None:
            self._head_since = None
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """That of a refused request is dropped."""
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Only now a refused one is answered: its client may not read before it has written all."""
        if self._refusal is None:
            super().on_message_complete()
            if self._waiting is not None:
                self._waiting = None
                self._door.answer(self.scope, bytes(self.cycle.body), partial(self._send, self.cycle))  # pyright: ignore[reportArgumentType]
            return
        self.transport.write(self._door.message(self._refusal, self.server_state.default_headers))
        self._refusal = self._head_since = None
        self.on_response_complete()

    def _send(self, cycle: RequestResponseCycle, reply: Reply) -> None:
        """Ends a request as uvicorn does that of an application."""
        if cycle.disconnected:
            return
        more = self.server_state.default_headers + ([] if cycle.keep_alive else [(b"connection", b"close")])
        self.transport.write(self._door.message(reply, more))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:  # since the request came, the process drains
            self.transport.close()
        self.on_response_complete()

    def _is_idle(self) -> bool:
        """Whether all that was read is answered."""
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if self._is_taken:
            self._waiting, self._is_taken = app, False
        else:
            super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the last request that was read; this tells the one that is being answered."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
            if answer := self._answering.scope["state"].get(ANSWER):  # pyright: ignore[reportTypedDictNotRequiredAccess]
                answer.cancel()
        super().connection_lost(exc)

    def close_if_stuck(self, load: Load) -> None:
        """Closes the connection if a head is not complete in time, or an answer not read. To be called every second."""
        now = time.monotonic()
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        late = self._head_since is not None and now - self._head_since > load.read
        unread = self._unread_since is not None and now - self._unread_since > load.unread
        if late or unread:
            self.transport.abort()


class Server(uvicorn.Server):
    """Ends a drained process by returning, where uvicorn raises the signal again and dies of it."""

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        load: Load,
        drain: Callable[[], None],
        is_broken: Callable[[], bool],
        beside: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """`drain` is called, in a signal handler, when SIGTERM or SIGINT has come. Once `is_broken`, the server ends
        within a second or two. `beside` is entered before the first request is taken, and left after the last one."""
        config = uvicorn.Config(
            app,
            http=partial(Connection, door),  # pyright: ignore[reportArgumentType], it is only called
            backlog=BACKLOG,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who the client is does not matter
            timeout_keep_alive=load.keep_alive,
            timeout_graceful_shutdown=_LAST_ANSWER * load.grace,  # pyright: ignore[reportArgumentType], a float is fine
        )
        super().__init__(config)
        self._load, self._drain, self._is_broken, self._beside = load, drain, is_broken, beside
        self._broken_ticks = 0

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal, with what runs beside it."""
        async with self._beside():
            await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """After a signal: ends connections as they get their answers."""
        log_event("drain", connections=len(self.server_state.connections))
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; once a second, connections that are stuck are closed. Whether to end."""
        if counter % 10 == 0:
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.close_if_stuck(self._load)
        self._broken_ticks += self._is_broken()
        return await super().on_tick(counter) or self._broken_ticks > _BROKEN_TICKS

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: drain; a second SIGINT does not wait."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        if not self.should_exit:
            self._drain()
        self.should_exit = True


def calm_garbage_collector() -> None:
    """To be called once all is loaded. A full collection walks all that JAX and the libraries hold, a pause of 0.1 s in
    which nothing is answered, and answers of a few thousand objects each would bring one about every second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def allow_many_connections() -> None:
    """Each takes a file descriptor, of which a process may have few unless it asks for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
