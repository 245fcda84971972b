"""One connection: requests are read whole, within limits, and answered one after the other.

Here is how much a client may send, how slowly, and in which order answers go out: alike for every listener and path.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from serving.http.protocol import HeadError, Headers, Reply, Request, encode, error_reply
from serving.http.request_parser import RequestReader, nobody
from serving.limits import ServiceLimits

_FREE_BODY = 16_384  # bytes of a body that do not count among those of all bodies: small requests always find room
_WAITING = 1024  # bytes that a request takes while those before it are answered
_LINGER = 1.0  # s for a client that still sends to read why it was refused, before the connection is closed
_RETRY = ((b"retry-after", b"1"),)


class Handler(Protocol):
    """What answers requests."""

    @property
    def headers(self) -> Headers:
        """Of every answer."""
        ...

    def enter(self, request: Request) -> Reply | None:
        """The answer to a request of which only the head needs to be known. Without `close`, the body is skipped."""
        ...

    def answer(self, request: Request, send: Callable[[Reply], None]) -> None:
        """Answers a request that `enter` let through, now or later."""
        ...


class Site(Protocol):
    """What the connections of one listener share."""

    handler: Handler
    limits: ServiceLimits
    max_body: int
    is_draining: bool

    def enter(self, connection: Connection) -> bool:
        """Whether there is room for a connection. Each is to `leave`."""
        ...

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        ...

    def linger(self, connection: Connection) -> bool:
        """Whether one that was refused may keep its descriptor for a moment."""
        ...

    def hold(self, size: int) -> bool:
        """Whether so many more bytes of bodies may be held, which are then to be given back by a negative `size`."""
        ...

    def refused(self, reason: str, client: Any, status: int | None) -> None:
        """Counts and logs a client that was refused, or hung up on, for one of a few reasons."""
        ...

    def answered(self, request: Request, reply: Reply) -> None:
        """Logs an answer, if that is asked for."""
        ...


class Connection(asyncio.Protocol):
    """One connection of a listener. `check` is to be called now and then.

    Attributes:
      unread: bytes of answers that the client had not taken at the last `check`.
      unread_since: of `time.monotonic`; inf = it takes them.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._transport: Any = None
        self._reader: Any = None
        self._client: Any = None  # address
        self._request: Request | None = None  # whose body is being read
        self._waiting: deque[Request] = deque()  # read, and to be answered when their turn comes
        self._current: Request | None = None  # being answered
        self._in_head = True  # a head is awaited, or has begun
        self._since = time.monotonic()  # a head is awaited, or a body is read, or the connection is idle
        self.unread, self.unread_since = 0, math.inf
        self._reads, self._writes, self._is_advancing = True, True, False

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Who connects is to send a request."""
        self._transport, self._client = transport, transport.get_extra_info("peername")
        self._reader = RequestReader(self, transport)
        if not self._site.enter(self):
            self._refuse("connections", error_reply(503, "too many connections", _RETRY, close=True))

    def data_received(self, data: bytes) -> None:
        """Reads on."""
        if self._reads:
            try:
                self._reader.read(data)
            except HeadError as e:
                self._request = e.request or self._request
                self._refuse("malformed", error_reply(e.status, str(e), e.headers, close=True))

    def pause_writing(self) -> None:
        """The client does not take its answers: it gets no further ones, and soon nothing more is read."""
        self._writes = False

    def resume_writing(self) -> None:
        """It does."""
        self._writes = True
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody works any more for a client that has left."""
        current, self._current, self._reads = self._current, None, False
        for request in (current, self._request, *self._waiting):
            if request is not None:
                self._hold(request, -request.held)
        self._waiting.clear()
        self._request = None
        self._reader.close()
        if current is not None and current.cancel is not None:
            current.cancel()
        self._site.leave(self)

    # What the listener calls

    def check(self, now: float) -> None:
        """Closes it if a head or a body is not complete in time, or an answer not taken. `now`: of `time.monotonic`."""
        limits, waited = self._site.limits, now - self._since
        self.unread = self._transport.get_write_buffer_size()
        self.unread_since = min(self.unread_since, now) if self.unread else math.inf
        if now - self.unread_since > limits.unread:
            self.hang_up("unread")
        if self._current or self._waiting or not self._reads:
            return
        if self._request is not None:
            if waited > limits.read:
                message = f"the body did not arrive within {limits.read:g} s"
                self._refuse("body", error_reply(408, message, close=True))
        elif self._in_head:
            if waited > limits.read:
                self.hang_up("silent")
        elif waited > limits.keep_alive:
            self._transport.close()

    def drain(self) -> None:
        """No further requests are taken; those that have begun are answered."""
        if self._is_free() and self._request is None:
            self._transport.close()

    def abort(self) -> None:
        """Ends it now."""
        self._transport.abort()

    def hang_up(self, reason: str) -> None:
        """Ends it now, and counts why."""
        self._reads = False
        self._site.refused(reason, self._client, None)
        self._transport.abort()

    # What the reader calls

    def on_begin(self) -> bool:
        """A head is to be complete in time."""
        self._in_head, self._since = True, time.monotonic()
        return True

    def on_head(self, request: Request) -> bool:
        """The request is refused by its head, or its body is read."""
        self._in_head, self._since, self._request = False, time.monotonic(), request
        if request.length > self._site.max_body:
            self._refuse("", self._too_large())
        elif self._is_free():
            self._enter(request)
            if request.reply is not None and request.reply.close:
                self._refuse("", request.reply)
        self._send_continue()
        return self._reads

    def on_piece(self, piece: bytes) -> bool:
        """Keeps it, unless the request is refused already."""
        request = self._request
        if request is None or request.reply is not None:
            return self._reads
        size = len(request.body) + len(piece)
        if size > self._site.max_body:
            self._refuse("", self._too_large())
        elif self._hold(request, max(0, size - _FREE_BODY) - request.held):
            request.add(piece)
        return self._reads

    def on_end(self) -> bool:
        """Only now a request is answered: its client may not read before it has written all."""
        request = self._request
        if request is not None and self._hold(request, 0 if self._is_free() else _WAITING):
            self._request, self._reads = None, request.keep_alive
            self._waiting.append(request)
            self._advance()
        return self._reads

    # Answering

    def _is_free(self) -> bool:
        """Whether all that was read is answered, and the answers are taken."""
        return self._current is None and not self._waiting and self._writes

    def _enter(self, request: Request) -> None:
        request.is_entered = True
        request.reply = self._site.handler.enter(request)

    def _advance(self) -> None:
        """Answers those that wait, one after the other, and reads on if none does."""
        if self._is_advancing:  # called by an answer that was there at once
            return
        self._is_advancing = True
        while self._waiting and self._current is None and self._writes and not self._transport.is_closing():
            request = self._current = self._waiting.popleft()
            if request.reply is None and not request.is_entered:
                self._enter(request)
            send = partial(self._send, request)
            if request.reply is not None:
                send(request.reply)
            else:
                self._site.handler.answer(request, send)
        self._is_advancing = False
        if self._transport.is_closing():
            return
        if self._waiting or (not self._reads and self._current is None):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
        self._send_continue()

    def _send(self, request: Request, reply: Reply) -> None:
        if request is not self._current or self._transport.is_closing():
            return
        self._current, self._since = None, time.monotonic()
        self._hold(request, -request.held)
        is_last = self._site.is_draining and not self._waiting and self._request is None
        close = reply.close or not request.keep_alive or is_last
        self._transport.write(encode(request, reply, self._site.handler.headers, close))
        self._site.answered(request, reply)
        if reply.close:
            self._linger()
        elif close:
            self._reads = False
            self._transport.close()
        else:
            self._advance()

    def _send_continue(self) -> None:
        """Tells a client that asked whether its body is welcome."""
        request = self._request
        if request is not None and request.waits_for_continue and request.reply is None and self._is_free():
            request.waits_for_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, reason: str, reply: Reply) -> None:
        """Answers what is being read, when its turn comes, and reads no more. `reason`: for the log, "" = none."""
        request, self._request = self._request or nobody(self._client), None
        request.reply, self._reads = reply, False
        if reason:
            self._site.refused(reason, self._client, reply.status)
        self._waiting.append(request)
        self._advance()

    def _too_large(self) -> Reply:
        return error_reply(413, f"the body is too large; expected at most {self._site.max_body} bytes", close=True)

    def _hold(self, request: Request, more: int) -> bool:
        """Counts so many more bytes for it, or refuses it; a negative `more` gives some back."""
        if more and not self._site.hold(more):
            self._refuse("bodies", error_reply(503, "too many bytes of unfinished requests", _RETRY, close=True))
            return False
        request.held += more
        return True

    def _linger(self) -> None:
        """Closes it a little later: were it closed with data unread, the client might lose the answer."""
        self._reads = False
        self._waiting.clear()
        if not self._site.linger(self):
            self._transport.close()
            return
        self._transport.pause_reading()
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, self._transport.close)
