"""Requests out of the bytes of one connection. httptools parses.

Another protocol is never spoken: `Upgrade` is ignored, CONNECT refused. Trailers are dropped: nothing may depend on
what comes after a body.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any, Protocol

import httptools

from serving.http.protocol import HeadError, Request, read_head

_LONGEST_HEAD = 65_536  # bytes; also of trailers, and of what stands between two chunks
_MOST_FIELDS = 256  # of a head with its trailers: short ones take 30 times their bytes in memory
_LAST_DATA = 52  # where Linux' struct tcp_info has tcpi_last_data_recv, ms


class Owner(Protocol):
    """What gets the requests. Each call says whether to read on."""

    def on_begin(self) -> bool:
        """The first byte of a head has come."""
        ...

    def on_head(self, request: Request) -> bool:
        """A head is complete."""
        ...

    def on_piece(self, piece: bytes) -> bool:
        """A piece of its body has come."""
        ...

    def on_end(self) -> bool:
        """Its body is complete."""
        ...


class _StopError(Exception):
    """Raised in a callback of the parser: the owner has had enough."""


class RequestReader:
    """Reads the requests of one connection, one after the other."""

    def __init__(self, owner: Owner, transport: asyncio.BaseTransport) -> None:
        self._owner, self._transport, self._client = owner, transport, transport.get_extra_info("peername")
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target, self._headers = b"", list[tuple[bytes, bytes]]()
        self._in_head = False
        self._size = self._fields = 0  # bytes of a head, and of its trailers; how many fields
        self._useless = 0  # bytes since the last that ended a head, or were of a body

    def read(self, data: bytes) -> None:
        """Reads on. Raises `HeadError` for what is no request, or too long a head."""
        self._useless += len(data)
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserCallbackError as e:
            if isinstance(e.__context__, _StopError):
                return
            raise e.__context__ or e from None
        except httptools.HttpParserError as e:
            raise HeadError(400, f"this is not HTTP/1.1: {e}") from None
        if self._useless > _LONGEST_HEAD:
            raise _too_long()

    def close(self) -> None:
        """To be called in the end: the parser holds this object, and this the parser."""
        self._parser = None

    def _feed(self, rest: memoryview) -> None:
        while len(rest):
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as e:
                rest = rest[e.args[0] :]
            # It takes the body for another protocol. Another one reads the head again without that wish, then the body.
            lines = [b"%b: %b\r\n" % header for header in self._headers if header[0] != b"upgrade"]
            start = self._parser.get_method(), self._target, self._parser.get_http_version().encode()
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"%b %b HTTP/%b\r\n%b\r\n" % (*start, b"".join(lines)))

    # What the parser calls

    def on_message_begin(self) -> None:
        self._in_head, self._target, self._headers, self._size, self._fields = True, b"", [], 0, 0
        self._go_on(self._owner.on_begin())

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count(len(name) + len(value))
        if self._in_head:  # else it is a trailer
            self._headers.append((name.lower(), value.rstrip(b" \t")))  # llhttp strips the start only

    def on_headers_complete(self) -> None:
        method = self._parser.get_method()
        if self._parser.should_upgrade() and method != b"CONNECT":
            return  # see `_feed`
        self._in_head, self._useless = False, 0
        arrived = time.perf_counter() - _unread_seconds(self._transport)
        request = Request(method, self._target, self._headers, arrived, self._client)
        version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive() and version == "1.1"
        try:
            if version not in ("1.0", "1.1"):
                raise HeadError(505, f"expected HTTP/1.1, got version {version}")
            read_head(request)
        except HeadError as e:
            e.request = request
            raise
        request.waits_for_continue &= version == "1.1"
        self._go_on(self._owner.on_head(request))

    def on_body(self, body: bytes) -> None:
        self._useless = 0
        self._go_on(self._owner.on_piece(body))

    def on_message_complete(self) -> None:
        self._useless = 0
        if not self._in_head:
            self._go_on(self._owner.on_end())

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _LONGEST_HEAD or self._fields > _MOST_FIELDS:
            raise _too_long()

    def _go_on(self, reads_on: bool) -> None:
        if not reads_on:
            raise _StopError


def _too_long() -> HeadError:
    return HeadError(431, f"the head or a trailer is longer than {_LONGEST_HEAD} bytes, or {_MOST_FIELDS} fields")


def nobody(client: Any) -> Request:
    """In place of a request of which the head could not be read."""
    return Request(b"-", b"-", (), time.perf_counter(), client)


def _unread_seconds(transport: asyncio.BaseTransport) -> float:
    """How long the last bytes that came lay in the kernel before they were read, to a millisecond. 0 where the
    kernel does not tell, which is everywhere but on Linux."""
    if sys.platform != "linux":
        return 0.0
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA + 4)
    return int.from_bytes(info[_LAST_DATA:], sys.byteorder) / 1e3
