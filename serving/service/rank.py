"""`POST /v1/rank`, ahead of Litestar: its routing, requests and responses would cost more than all else that the event
loop does for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from serving.batching.batcher import Batcher, Ranked
from serving.batching.request import Work
from serving.http.protocol import JSON, Reply, Request, error_reply
from serving.parity.request_log import RequestLog
from serving.routing.router import Router
from serving.routing.shadow import Shadows
from serving.service.errors import client_left, refusal
from serving.service.messages import Ads, BatchAnswer, RankAnswer, RequestLimits, read_deadline, read_request, to_work
from serving.service.telemetry import Telemetry

RANK = "/v1/rank"
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    """A request that is being ranked. `for_many`: it has `queries`, not a `query`."""

    work: Work
    for_many: bool
    answer: asyncio.Future[Ranked]


class Rank:
    """Answers that one route: the best ads for a query, or for each of several.

    The body is read as JSON, whatever its Content-Type: `curl -d` sends that of a form.
    """

    def __init__(
        self,
        batcher: Batcher,
        telemetry: Telemetry,
        limits: RequestLimits,
        log: RequestLog | None,
        router: Router,
        shadows: Shadows,
    ) -> None:
        self.batcher, self.telemetry, self.limits, self._log = batcher, telemetry, limits, log
        self._router, self._shadows = router, shadows

    def answer(self, request: Request, send: Callable[[Reply], None]) -> None:
        """Answers one request, now or later. Its `cancel` takes it from the queue."""
        try:
            asked = self._ask(request)
        except Exception as e:
            send(self._refuse(e, request))
        else:
            request.cancel = asked.answer.cancel
            asked.answer.add_done_callback(partial(self._ranked, asked, request, send))

    def _ask(self, request: Request) -> _Asked:
        """Has the batcher rank what a body asks for. Raises `RequestError` and `OverloadError`."""
        deadline = read_deadline(request.headers, request.started)
        message = read_request(bytes(request.body))
        work = self._router.routed(to_work(message, self.limits.queries), request.id.decode("ascii"))
        return _Asked(work, message.query is None, self.batcher.submit(work, deadline))

    def _ranked(
        self, asked: _Asked, request: Request, send: Callable[[Reply], None], answer: asyncio.Future[Ranked]
    ) -> None:
        try:
            reply = self._reply(asked, request, answer.result())
        except asyncio.CancelledError:
            reply = self._refuse(client_left(), request)
        except Exception as e:
            reply = self._refuse(e, request)
        send(reply)

    def _reply(self, asked: _Asked, request: Request, ranked: Ranked) -> Reply:
        work = asked.work
        self.telemetry.ranked(work, ranked.ads_found)
        if self._log:
            self._log.offer(work, ranked, request.id.decode("ascii"))
        if work.explore is None:  # else what the shadow differs in would be chance too
            self._shadows.offer(self._router.model_of[work.model], work, ranked)
        ads: list[Any] = [msgspec.Raw(ads) for ads in ranked.json]  # JSON already, of the type that is declared
        if asked.for_many:
            body = _ENCODER.encode(BatchAnswer([Ads(of_query) for of_query in ads], ranked.bundle, ranked.index))
        else:
            body = _ENCODER.encode(RankAnswer(ads[0], ranked.bundle, ranked.index))
        return Reply(200, (JSON,), body)

    def _refuse(self, error: Exception, request: Request) -> Reply:
        method, request_id = request.method.decode("ascii"), request.id.decode("ascii")
        refused = refusal(error, method, request.path, request_id, self.limits.body)
        return error_reply(refused.status, refused.message, refused.header_pairs)
