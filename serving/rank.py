"""`POST /v1/rank`, ahead of Litestar: its routing, requests and responses would cost more than all else that the event
loop does for an answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from litestar.types import HTTPScope, Receive, Send

from serving.batcher import Batcher, Ranked
from serving.body import receive_body
from serving.errors import client_left, refusal
from serving.messages import (
    Ads,
    BatchAnswer,
    ErrorAnswer,
    Limits,
    RankAnswer,
    read_deadline,
    read_request,
    to_work,
)
from serving.request_log import RequestLog
from serving.telemetry import STARTED, Telemetry

RANK = "/v1/rank"
ANSWER = "tt_jax_answer"  # in the state of a request: the future that its connection cancels when the client leaves
BODY = "tt_jax_body"  # in the state of a request: its body, if it came with its head
_ENCODER = msgspec.json.Encoder()


class Rank:
    """An ASGI application for that one route: the best ads for a query, or for each of several.

    The body is read as JSON, whatever its Content-Type: `curl -d` sends that of a form.
    """

    def __init__(
        self, batcher: Batcher, telemetry: Telemetry, limits: Limits, read: float, log: RequestLog | None
    ) -> None:
        """`read`: seconds for a body."""
        self._batcher, self._telemetry, self._limits, self._read, self._log = batcher, telemetry, limits, read, log

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        state = scope.setdefault("state", {})
        started: float = state.setdefault(STARTED, time.perf_counter())  # the server knows when it arrived
        headers = [(b"content-type", b"application/json")]
        try:
            status, body = 200, await self._answer(scope["headers"], state, receive)
        except Exception as e:
            refused = refusal(e, scope, self._limits.body)
            status, body = refused.status, _ENCODER.encode(ErrorAnswer(refused.message))
            headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
        headers.append((b"content-length", b"%d" % len(body)))
        self._telemetry.answered(RANK, status, started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, headers: Any, state: dict[str, Any], receive: Receive) -> bytes:
        deadline = read_deadline(headers, state[STARTED])
        body: bytes | None = state.get(BODY)
        if body is None or len(body) > self._limits.body:
            body = await receive_body(headers, receive, self._limits.body, self._read)
        message = read_request(body)
        work = to_work(message, self._limits.queries)
        state[ANSWER] = answer = self._batcher.submit(work, deadline)
        ranked = await _unless_gone(answer)
        self._telemetry.ranked(work.queries, ranked.found)
        if self._log:
            self._log.offer(work, ranked)
        ads: list[Any] = [msgspec.Raw(ads) for ads in ranked.json]  # JSON already, of the type that is declared
        if message.query is not None:
            return _ENCODER.encode(RankAnswer(ads[0], ranked.bundle, ranked.index))
        return _ENCODER.encode(BatchAnswer([Ads(found) for found in ads], ranked.bundle, ranked.index))


async def _unless_gone(answer: asyncio.Future[Ranked]) -> Ranked:
    """The answer. If the client leaves before it is there, nobody ranks for him."""
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():  # not the answer was cancelled, but who waits for it
            raise
        raise client_left() from None
