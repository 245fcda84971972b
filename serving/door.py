"""What stands before the application when it is overloaded: requests are refused before any effort is spent on them.

The application refuses them too, but routing, reading and explaining cost it several times as much, and under overload
that effort is taken from the requests that are served.
"""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from serving.batcher import Batcher, OverloadError
from serving.messages import ErrorAnswer, read_deadline
from serving.scorer import RequestError
from serving.telemetry import Telemetry

_LONGEST_BODY = 65_536  # of a refused request, bytes: it is still read. A longer one is for the application to refuse.


class Door:
    """An ASGI application around another: `POST` to `path` is answered with 503 while the batcher takes no more."""

    def __init__(self, app: ASGIApp, path: str, batcher: Batcher, telemetry: Telemetry) -> None:
        self._app, self._path, self._batcher = app, path, batcher
        self._refused = telemetry.requests.labels(path, "503")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or refuses it."""
        if self._is_guarded(scope):
            try:
                self._batcher.admit(1, read_deadline(scope["headers"], time.perf_counter()))
            except OverloadError as e:
                self._refused.inc()
                await _refuse(e, send)
                return
            except RequestError:  # a deadline that is none: the application explains it
                pass
        await self._app(scope, receive, send)

    def _is_guarded(self, scope: Any) -> bool:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            return False
        return _body_length(scope) <= _LONGEST_BODY


def _body_length(scope: Any) -> float:
    """Bytes; infinite where the request does not say."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), math.inf)


async def _refuse(error: OverloadError, send: Send) -> None:
    body = msgspec.json.encode(ErrorAnswer(str(error)))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", error.retry_after_header.encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
