"""What stands before an application, on every listener: who is refused by the head of a request, and who answers.

`POST /v1/rank` goes past the application: routing and the messages of ASGI cost the event loop more than the answer.
When the service is overloaded, such a request is refused before any effort is spent on it, since under overload that
effort is taken from the requests that are served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from functools import partial

from litestar.types import ASGIApp

from serving.batching.batcher import OverloadError
from serving.error_answer import shorten
from serving.http.asgi import call
from serving.http.client_metrics import UNMATCHED
from serving.http.protocol import Headers, Reply, Request, error_reply
from serving.log_events import log_event, log_refused
from serving.scorer import RequestError
from serving.service.auth import EXPECTED, Hosts, Tokens
from serving.service.errors import overloaded
from serving.service.messages import read_deadline
from serving.service.rank import RANK, Rank
from serving.service.telemetry import Telemetry

_CHALLENGE = ((b"www-authenticate", b'Bearer realm="tt-jax"'),)
_ASKS = b"access-control-request-method"
_PREFLIGHT = Reply(
    204,
    (
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    ),
    b"",
)


class LoadShedder:
    """Answers the requests of one listener.

    Attributes:
      headers: of every answer. They let the pages of one other origin read what is answered, refusals too. The origin
        is always the same, so every answer names it, whoever asks: browsers compare.
    """

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        *,
        rank: Rank | None = None,
        tokens: Tokens | None = None,
        open_paths: Collection[str] = (),
        hosts: Hosts | None = None,
        origin: str = "",
    ) -> None:
        """`tokens`: one is needed for all but `open_paths`. `hosts`: the names it is asked by; None = any."""
        self.headers: Headers = ((b"access-control-allow-origin", origin.encode("ascii")),) if origin else ()
        self._app, self._telemetry, self._rank, self._origin = app, telemetry, rank, origin
        self._tokens, self._open, self._hosts = tokens, open_paths, hosts
        self._overloaded = telemetry.requests.labels(RANK, "503")
        self._coming = 0  # let through in this turn of the event loop: they enter the queue in the next one
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self, request: Request) -> Reply | None:
        """The answer to a request, if its head is enough to know it."""
        if self._hosts is not None and not self._hosts.allow(request.hosts):
            log_refused(request.client, "host", 421)
            asked = shorten(b", ".join(request.hosts).decode("latin-1"))
            return self._refuse(421, f"Host: {asked} is not a name of this service; see --allowed-host")
        if self._origin and request.method == b"OPTIONS" and any(name == _ASKS for name, _ in request.headers):
            return _PREFLIGHT
        if self._tokens is not None and request.path not in self._open and not self._tokens.let_in(request.headers):
            log_refused(request.client, "no token", 401)
            return self._refuse(401, EXPECTED, _CHALLENGE)
        if request.encoding.lower() not in (b"", b"identity"):
            given = shorten(request.encoding.decode("latin-1"))
            message = f"Content-Encoding: expected a body that is not compressed, got {given}"
            return self._refuse(415, message, ((b"accept-encoding", b"identity"),))
        return self._admit(self._rank, request) if self._rank and _is_rank(request) else None

    def answer(self, request: Request, send: Callable[[Reply], None]) -> None:
        """Answers a request that `enter` let through, now or later."""
        if self._rank and _is_rank(request):
            self._rank.answer(request, partial(self._ranked, request, send))
        else:
            task = asyncio.get_running_loop().create_task(self._call(request, send))
            self._tasks.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._tasks.discard)

    def _ranked(self, request: Request, send: Callable[[Reply], None], reply: Reply) -> None:
        self._telemetry.answered(RANK, reply.status, request.started)
        send(reply)

    async def _call(self, request: Request, send: Callable[[Reply], None]) -> None:
        try:
            reply = await call(self._app, request)
        except Exception as e:
            log_event("request_failed", logging.ERROR, error=e, method=request.method.decode(), path=request.path)
            reply = error_reply(500, "internal error")
        send(reply)

    def _refuse(self, status: int, message: str, headers: Headers = ()) -> Reply:
        self._telemetry.requests.labels(UNMATCHED, str(status)).inc()
        return error_reply(status, message, headers, close=True)

    def _admit(self, rank: Rank, request: Request) -> Reply | None:
        """Refuses with 503 while the batcher takes no more, or not in time."""
        try:
            lag = time.perf_counter() - request.started
            rank.batcher.admit(1 + self._coming, read_deadline(request.headers, request.started), lag)
        except OverloadError as e:
            self._overloaded.inc()  # not timed: it would hide how long answers take
            refused = overloaded(e)
            return error_reply(refused.status, refused.message, refused.header_pairs)
        except RequestError:  # a deadline that is none: that is explained when the request is whole
            pass
        if not self._coming:
            asyncio.get_running_loop().call_soon(self._all_came)
        self._coming += 1
        return None

    def _all_came(self) -> None:
        self._coming = 0


def _is_rank(request: Request) -> bool:
    return request.method == b"POST" and request.path.rstrip("/") == RANK
