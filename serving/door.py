"""What stands before the application, for `POST /v1/rank` alone.

When the service is overloaded, requests are refused before any effort is spent on them. The application refuses them
too, but a task, routing, reading and explaining cost it many times as much, and under overload that effort is taken
from the requests that are served. Those of the usual form are also answered here, for the same reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus

from litestar.types import HTTPScope

from serving.access import Tokens
from serving.batcher import OverloadError, Ranked
from serving.errors import client_left, overloaded
from serving.messages import read_deadline
from serving.rank import RANK, Asked, Rank, Reply, error_reply
from serving.scorer import RequestError

_PATH = RANK.encode()
_LONGEST_BODY = 65_536  # bytes: it is still read. A longer one is for the application to read, or refuse.
_STATUS = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}

Headers = Sequence[tuple[bytes, bytes]]


class Door:
    """Refuses with 503 while the batcher takes no more, knowing a request by its head only; answers the others."""

    def __init__(self, rank: Rank, headers: Headers = (), tokens: Tokens | None = None) -> None:
        """`headers`: of every answer. `tokens`: without one, a request is for the application to refuse."""
        self._rank, self._headers, self._tokens = rank, headers, tokens
        self._longest = min(_LONGEST_BODY, rank.limits.body)
        self._coming = 0  # let through in this turn of the event loop: they enter the queue in the next one
        self._refused = rank.telemetry.requests.labels(RANK, "503")

    def enter(self, method: bytes, target: bytes, headers: Headers, arrived: float) -> Reply | bool:
        """The refusal of a request, or whether `answer` takes it: else it is for the application.

        `headers`: of the request, with names in lower case. `arrived`: of `time.perf_counter`.
        """
        if target != _PATH or method != b"POST" or not self._is_short(headers):
            return False
        if self._tokens is not None and not self._tokens.let_in(headers):
            return False  # neither told how busy the service is, nor counted among those who come
        try:
            lag = time.perf_counter() - arrived
            self._rank.batcher.admit(1 + self._coming, read_deadline(headers, arrived), lag)
        except OverloadError as e:
            self._refused.inc()
            return error_reply(overloaded(e))  # counted, but not timed: it would hide how long answers take
        except RequestError:  # a deadline that is none: that is explained when the request is whole
            pass
        if not self._coming:
            asyncio.get_running_loop().call_soon(self._all_came)
        self._coming += 1
        return True

    def answer(self, scope: HTTPScope, body: bytes, send: Callable[[Reply], None]) -> None:
        """Answers a request that `enter` let through, now or later."""
        try:
            asked = self._rank.ask(scope, body)
        except Exception as e:
            send(self._rank.refuse(e, scope))
        else:
            asked.answer.add_done_callback(partial(self._ranked, asked, scope, send))

    def _ranked(
        self, asked: Asked, scope: HTTPScope, send: Callable[[Reply], None], answer: asyncio.Future[Ranked]
    ) -> None:
        try:
            reply = self._rank.reply(asked, scope, answer.result())
        except asyncio.CancelledError:
            reply = self._rank.refuse(client_left(), scope)
        except Exception as e:
            reply = self._rank.refuse(e, scope)
        send(reply)

    def message(self, reply: Reply, more: Headers) -> bytes:
        """A reply as it is sent, with `more` headers."""
        lines = [b"%b: %b\r\n" % header for header in (*more, *self._headers, *reply.headers)]
        return b"".join((_STATUS[reply.status], *lines, b"\r\n", reply.body))

    def _is_short(self, headers: Headers) -> bool:
        """Whether the body is, and the request says so."""
        return any(name == b"content-length" and int(value) <= self._longest for name, value in headers)

    def _all_came(self) -> None:
        self._coming = 0
