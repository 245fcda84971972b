"""A request and an answer of HTTP/1.1: what is read of a head alike for all routes, and how an answer is written."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec

from serving.error_answer import ErrorAnswer

Headers = Sequence[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")  # what a client may call its request: nothing that a log could misread
_STATUS = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_METHODS = ((b"allow", b"GET, HEAD, OPTIONS, POST"),)


class HeadError(Exception):
    """What came is no request that can be answered; the connection ends with this status and message.

    `request`: as far as it is known.
    """

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.request: Request | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Reply:
    """An answer. The connection adds the length. `close`: the rest of the request is not read."""

    status: int
    headers: Headers
    body: bytes
    close: bool = False


def error_reply(status: int, message: str, headers: Headers = (), *, close: bool = False) -> Reply:
    """What is sent for a request that failed."""
    return Reply(status, (JSON, *headers), msgspec.json.encode(ErrorAnswer(message)), close)


@dataclass(eq=False, slots=True)
class Request:
    """A request.

    Attributes:
      headers: names in lower case; trailers are not among them.
      started: when it reached this machine, of `time.perf_counter`.
      client: address, of the socket.
      id: of the client, or one that was made.
      path: without the query, percent-encoding decoded.
      cancel: to be called if the client leaves before the answer.
    """

    method: bytes
    target: bytes
    headers: Headers
    started: float
    client: Any = None
    id: bytes = field(default_factory=lambda: os.urandom(8).hex().encode())
    keep_alive: bool = False
    path: str = ""
    query: bytes = b""
    hosts: tuple[bytes, ...] = ()
    encoding: bytes = b""  # of the body
    length: int = 0  # of the body, if its head tells it
    body: bytes | bytearray = b""
    held: int = 0  # bytes of it that count for the limit of all bodies
    waits_for_continue: bool = False
    reply: Reply | None = None  # known before its turn to be answered comes
    is_entered: bool = False  # the application has seen its head
    cancel: Callable[[], object] | None = None

    def add(self, piece: bytes) -> None:
        """To the body."""
        if not self.body:
            self.body = piece
        else:
            self.body = bytearray(self.body) if isinstance(self.body, bytes) else self.body
            self.body += piece


def read_head(request: Request) -> None:
    """Reads what the connection and all routes need of a head. Raises `HeadError`."""
    ids = [value for name, value in request.headers if name == b"x-request-id"]
    if len(ids) == 1 and _ID.fullmatch(ids[0]):
        request.id = ids[0]
    if request.method == b"CONNECT":
        raise HeadError(405, "this is no proxy; expected GET, HEAD, OPTIONS or POST", _METHODS)
    try:
        url = httptools.parse_url(request.target)
    except httptools.HttpParserError:
        raise HeadError(400, "the target of the request is no path") from None
    path = url.path or b"/"
    request.path = unquote(path) if b"%" in path else path.decode("utf-8", "replace")
    request.query = url.query or b""
    hosts: list[bytes] = []
    for name, value in request.headers:
        if name == b"content-length":
            request.length = int(value)
        elif name == b"host":
            hosts.append(value)
        elif name == b"content-encoding":
            request.encoding += b", " + value if request.encoding else value
        elif name == b"expect":
            request.waits_for_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise HeadError(501, "Transfer-Encoding: expected chunked or none")
    if len(hosts) > 1:
        raise HeadError(400, "Host: expected one")
    if url.host:
        hosts.insert(0, b"[%b]" % url.host if b":" in url.host else url.host)
    request.hosts = tuple(hosts)


def encode(request: Request, reply: Reply, headers: Headers, close: bool) -> bytes:
    """An answer as it is sent."""
    lines = [_STATUS[reply.status], _date_line(int(time.time())), b"x-request-id: ", request.id, b"\r\n"]
    lines += [b"%b: %b\r\n" % header for header in (*headers, *reply.headers)]
    if reply.status not in (204, 304):
        lines.append(b"content-length: %d\r\n" % len(reply.body))
    if close:
        lines.append(b"connection: close\r\n")
    lines += [b"\r\n"] if request.method == b"HEAD" else [b"\r\n", reply.body]
    return b"".join(lines)


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
