"""`POST /v1/rank`, ahead of Litestar: its routing, requests and responses would cost more than all else that the event
loop does for an answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.types import HTTPScope, Receive, Send

from serving.batcher import Batcher, Ranked
from serving.body import receive_body
from serving.errors import Refusal, client_left, refusal
from serving.messages import (
    Ads,
    BatchAnswer,
    ErrorAnswer,
    Limits,
    RankAnswer,
    Work,
    read_deadline,
    read_request,
    to_work,
)
from serving.request_log import RequestLog
from serving.telemetry import STARTED, Telemetry

RANK = "/v1/rank"
ANSWER = "tt_jax_answer"  # in the state of a request: the future that its connection cancels when the client leaves
_JSON = (b"content-type", b"application/json")
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """A request that is being ranked. `for_many`: it has `queries`, not a `query`."""

    work: Work
    for_many: bool
    answer: asyncio.Future[Ranked]


@dataclass(frozen=True, eq=False, slots=True)
class Reply:
    """An answer that is ready to be sent. Its headers name its length."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Rank:
    """Answers that one route: the best ads for a query, or for each of several. An ASGI application, and the steps of
    it for who needs none: `ask`, and when its answer is there `reply`, or `refuse`.

    The body is read as JSON, whatever its Content-Type: `curl -d` sends that of a form.
    """

    def __init__(
        self, batcher: Batcher, telemetry: Telemetry, limits: Limits, read: float, log: RequestLog | None
    ) -> None:
        """`read`: seconds for a body."""
        self.batcher, self.telemetry, self.limits, self._read, self._log = batcher, telemetry, limits, read, log

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        state = scope.setdefault("state", {})
        state.setdefault(STARTED, time.perf_counter())  # the server knows when it arrived
        try:
            body = await receive_body(scope["headers"], receive, self.limits.body, self._read)
            asked = self.ask(scope, body)
            reply = self.reply(asked, scope, await _unless_gone(asked.answer))
        except Exception as e:
            reply = self.refuse(e, scope)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body, "more_body": False})

    def ask(self, scope: HTTPScope, body: bytes) -> Asked:
        """Has the batcher rank what a body asks for. Raises `RequestError` and `OverloadError`."""
        state = scope["state"]
        deadline = read_deadline(scope["headers"], state[STARTED])
        message = read_request(body)
        work = to_work(message, self.limits.queries)
        state[ANSWER] = answer = self.batcher.submit(work, deadline)
        return Asked(work, message.query is None, answer)

    def reply(self, asked: Asked, scope: HTTPScope, ranked: Ranked) -> Reply:
        """What is sent for a request with these ads."""
        self.telemetry.ranked(asked.work.queries, ranked.found)
        if self._log:
            self._log.offer(asked.work, ranked)
        ads: list[Any] = [msgspec.Raw(ads) for ads in ranked.json]  # JSON already, of the type that is declared
        if asked.for_many:
            body = _ENCODER.encode(BatchAnswer([Ads(found) for found in ads], ranked.bundle, ranked.index))
        else:
            body = _ENCODER.encode(RankAnswer(ads[0], ranked.bundle, ranked.index))
        self.telemetry.answered(RANK, 200, scope["state"][STARTED])
        return _reply(200, [_JSON], body)

    def refuse(self, error: Exception, scope: HTTPScope) -> Reply:
        """What is sent for a request that failed with this error."""
        refused = refusal(error, scope, self.limits.body)
        self.telemetry.answered(RANK, refused.status, scope["state"][STARTED])
        return error_reply(refused)


def error_reply(refused: Refusal) -> Reply:
    """What is sent for a request that failed."""
    more = [(name.encode(), value.encode()) for name, value in refused.headers.items()]
    return _reply(refused.status, [_JSON, *more], _ENCODER.encode(ErrorAnswer(refused.message)))


def _reply(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Reply:
    return Reply(status, [*headers, (b"content-length", b"%d" % len(body))], body)


async def _unless_gone(answer: asyncio.Future[Ranked]) -> Ranked:
    """The answer. If the client leaves before it is there, nobody ranks for him."""
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():  # not the answer was cancelled, but who waits for it
            raise
        raise client_left() from None
