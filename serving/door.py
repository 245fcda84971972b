"""What stands before the application when it is overloaded: requests are refused before any effort is spent on them.

The application refuses them too, but a task, routing, reading and explaining cost it many times as much, and under
overload that effort is taken from the requests that are served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from serving.access import Tokens
from serving.batcher import Batcher, OverloadError
from serving.messages import ErrorAnswer, read_deadline
from serving.scorer import RequestError
from serving.telemetry import Telemetry

_LONGEST_BODY = 65_536  # of a refused request, bytes: it is still read. A longer one is for the application to refuse.
_HEAD = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"

Headers = Sequence[tuple[bytes, bytes]]


class Door:
    """Refuses a `POST` to `path` with 503 while the batcher takes no more. Knows a request by its head only."""

    def __init__(
        self, path: str, batcher: Batcher, telemetry: Telemetry, headers: Headers = (), tokens: Tokens | None = None
    ) -> None:
        """`headers`: of every refusal. `tokens`: without one, a request is for the application to refuse."""
        self._path, self._batcher, self._headers, self._tokens = path.encode(), batcher, headers, tokens
        self._coming = 0  # let through in this turn of the event loop: they enter the queue in the next one
        self._refused = telemetry.requests.labels(path, "503")

    def refusal(self, method: bytes, target: bytes, headers: Headers, arrived: float, more: Headers) -> bytes | None:
        """The whole answer to a request that is refused, with `more` headers; None lets it through.

        `headers`: of the request, with names in lower case. `arrived`: of `time.perf_counter`.
        """
        if target != self._path or method != b"POST" or not _is_short(headers):
            return None
        if self._tokens is not None and not self._tokens.let_in(headers):
            return None  # neither told how busy the service is, nor counted among those who come
        try:
            lag = time.perf_counter() - arrived
            self._batcher.admit(1 + self._coming, read_deadline(headers, arrived), lag)
        except OverloadError as e:
            self._refused.inc()
            return _answer(e, [*more, *self._headers])
        except RequestError:  # a deadline that is none: the application explains it
            pass
        if not self._coming:
            asyncio.get_running_loop().call_soon(self._all_came)
        self._coming += 1
        return None

    def _all_came(self) -> None:
        self._coming = 0


def _is_short(headers: Headers) -> bool:
    """Whether the body is, and the request says so."""
    return any(name == b"content-length" and int(value) <= _LONGEST_BODY for name, value in headers)


def _answer(error: OverloadError, more: Headers) -> bytes:
    body = msgspec.json.encode(ErrorAnswer(str(error)))
    lines = b"".join(b"%b: %b\r\n" % header for header in more)
    retry_after = error.retry_after_header.encode()
    return b"%b%bretry-after: %b\r\ncontent-length: %d\r\n\r\n%b" % (_HEAD, lines, retry_after, len(body), body)
