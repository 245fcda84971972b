"""The ASGI application around a scorer: its routes, and what they share. JAX runs in the batcher's thread."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.params import FromQuery

from serving.batching.batcher import Batcher
from serving.batching.request import by_model
from serving.error_answer import ErrorAnswer
from serving.http.asgi import STARTED
from serving.http.listener import Listener
from serving.http.protocol import Reply
from serving.http.protocol import Request as HttpRequest
from serving.http.server import Room
from serving.parity.request_log import RequestLog
from serving.routing.router import Router, Routes
from serving.routing.shadow import Shadows
from serving.scorer import Scorer
from serving.service.config import ServiceConfig
from serving.service.errors import ERRORS, explain
from serving.service.load_shedding import LoadShedder
from serving.service.messages import AttributeInfo, BatchAnswer, FeatureInfo, ModelAnswer, RankAnswer, RequestLimits
from serving.service.openapi import RankOperation, openapi_config
from serving.service.rank import RANK, Rank
from serving.service.telemetry import Telemetry
from tt_jax.schema import Feature

_LAST_BATCH = 0.6  # of the grace time: when no batch is started any more
_LAST_CALL = 0.1  # of it: for the last batch to end
_LAST_EXTRA = 1.0  # s from when the service has drained until the connections of the other listeners are cut


class Service:
    """What the handlers share. `ready` is False before start-up and while the process drains."""

    def __init__(self, scorers: Mapping[str, Scorer], config: ServiceConfig, routes: Routes) -> None:
        versions = {name: importlib.metadata.version(name) for name in ("tt-jax", "jax", "litestar")}
        versions = {name.replace("-", "_"): v for name, v in versions.items()} | {"python": platform.python_version()}
        k, candidates = (min(getattr(s, limit) for s in scorers.values()) for limit in ("max_k", "max_candidates"))
        self.request_limits = RequestLimits(k, config.max_queries, candidates, config.max_body)
        self.telemetry = Telemetry(scorers, versions)
        self.config = config
        self.batcher = Batcher(scorers, limits=config.limits, metrics=self.telemetry.queue)
        self.router = Router(routes, self.batcher.scorers)
        self.shadows = Shadows(routes.shadows, self.batcher, self.telemetry.registry)
        self.request_log = RequestLog(config.log, self.telemetry.registry) if config.log else None
        self.rank = Rank(self.batcher, self.telemetry, self.request_limits, self.request_log, self.router, self.shadows)
        self.room, self.ready = Room(0, 0), False  # until it runs
        self._versions = versions

    @property
    def models(self) -> list[str]:
        """Names that a request may give: of models, and of the pairs of those that have several."""
        return list(dict.fromkeys((*self.router.models, *self.batcher.scorers)))

    def pair(self, name: str | None) -> str:
        """The pair of that name, or the first one of a model; None = of all. Raises `RequestError`."""
        if name is None:
            return next(iter(self.batcher.scorers))
        name = self.router.require(name, self.models)
        return name if name in self.batcher.scorers else next(iter(self.router.weights(name)))

    def model(self, name: str | None = None) -> ModelAnswer:
        """What is served now by that model, as `pair` has it."""
        pair = self.pair(name)
        scorer = self.batcher.scorers[pair]
        return ModelAnswer(
            name=scorer.schema.name,
            tasks=scorer.schema.heads,
            utility=scorer.utility,
            features=[_feature_info(f) for f in scorer.schema.tower_features("query")],
            limits=self.request_limits,
            bundle=scorer.fingerprint,
            index=scorer.index_id,
            ads=scorer.index_size,
            eligible_ads=scorer.eligible,
            versions=self._versions,
            model=pair,
            models=self.models,
            attributes=[AttributeInfo(**told) for told in scorer.conditions.told(scorer.ads.attributes)],
            request_values={v.name: v.default for v in scorer.schema.request_values},
        )

    def listener(self, name: str, shedder: LoadShedder, max_body: int, max_connections: int) -> Listener:
        """One of this process. `name`: in metrics and logs. `max_body`: bytes."""
        return Listener(
            name,
            shedder,
            self.telemetry.clients,
            self.config.limits,
            max_body=max_body,
            max_connections=max_connections,
            access_log=self.config.access_log,
        )

    def extra_listener(
        self, name: str, shedder: LoadShedder, max_body: int, sock: socket.socket
    ) -> AbstractAsyncContextManager[None]:
        """Answers on another address for as long as the block lasts."""
        return self.listener(name, shedder, max_body, self.room.extra).serving(sock, _LAST_EXTRA)

    def drain(self) -> None:
        """No longer ready. Requests are served for most of the grace time, then refused; safe in a signal handler."""
        self.ready = False
        self.batcher.closing_at = time.perf_counter() + _LAST_BATCH * self.config.limits.grace


def _feature_info(f: Feature) -> FeatureInfo:
    return FeatureInfo(
        name=f.name,
        kind=f.kind,
        dtype=f.dtype if f.is_ids else "float",
        max_length=f.max_length if f.kind in ("bag", "sequence") else None,
        dim=f.dim if f.kind == "dense" else None,
        default=f.default,
    )


def create_app(
    scorers: Scorer | Mapping[str, Scorer], config: ServiceConfig | None = None, routes: Routes | None = None
) -> Litestar:
    """The ASGI application of warm scorers, for one run of its lifespan. Takes no address of `config`.

    `scorers`: one, or several by name. `routes`: which of them answers what; by default each is a model of its own.
    """
    config, scorers = config or ServiceConfig(), by_model(scorers)
    service = Service(scorers, config, routes or Routes.of(scorers))
    pages = None if config.console is None else config.console(service)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        service.ready = True
        try:
            yield
        finally:
            service.ready = False
            service.batcher.close(_LAST_CALL * config.limits.grace)
            service.shadows.close()
            if pages:
                pages.close()
            if service.request_log:
                service.request_log.close()

    return Litestar(
        [rank, live, ready, model, *([metrics] if config.metrics_here else ()), *(pages.routes if pages else ())],
        lifespan=[lifespan],
        middleware=[service.telemetry.start],
        before_send=[service.telemetry.before_send],
        exception_handlers={Exception: explain},
        request_max_body_size=config.max_body,
        openapi_config=openapi_config(config.tokens is not None),
        logging_config=None,
        state=State({"service": service, "console": pages}),
        debug=False,
    )


@post(RANK, status_code=200, operation_class=RankOperation, responses=ERRORS)
async def rank(request: Request[Any, Any, Any]) -> Response[RankAnswer | BatchAnswer]:
    """The best ads for a query, or for each of several. The body is read as JSON, whatever its Content-Type."""
    scope, answer = request.scope, asyncio.get_running_loop().create_future()
    asked = HttpRequest(b"POST", RANK.encode(), list(scope["headers"]), scope["state"][STARTED], path=RANK)
    asked.body = await request.body()
    _service(request).rank.answer(
        asked, answer.set_result
    )  # as `LoadShedder` does, which most requests need not go past
    reply: Reply = await answer
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(msgspec.Raw(reply.body), status_code=reply.status, headers=headers)  # pyright: ignore[reportReturnType]


_UNAVAILABLE = {503: ResponseSpec(ErrorAnswer, generate_examples=False)}


@get("/health/live", security=[{}], media_type=MediaType.TEXT, responses=_UNAVAILABLE)
async def live(request: Request[Any, Any, Any]) -> str:
    """200 as long as the event loop turns and the thread that ranks gets on; else 503, and the process ends."""
    if failure := _service(request).batcher.failure:
        raise HTTPException(status_code=503, detail=f"not alive: {failure}")
    return "live\n"


@get("/health/ready", security=[{}], media_type=MediaType.TEXT, responses=_UNAVAILABLE)
async def ready(request: Request[Any, Any, Any]) -> str:
    """200 when requests are welcome; 503 while the process drains, and where `/health/live` is 503."""
    if failure := _service(request).batcher.failure:
        raise HTTPException(status_code=503, detail=f"not ready: {failure}")
    if not _service(request).ready:
        raise HTTPException(status_code=503, detail="not ready: starting or draining")
    return "ready\n"


@get("/metrics", media_type=MediaType.TEXT)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Prometheus metrics."""
    telemetry = _service(request).telemetry
    return Response(telemetry.text(), headers={"content-type": telemetry.content_type})


@get("/v1/model", responses={400: ERRORS[400]})
async def model(request: Request[Any, Any, Any], model: FromQuery[str | None] = None) -> ModelAnswer:
    """What is served by a model (`?model=NAME`, else the first): features of a query, tasks, utility, limits,
    fingerprints, versions."""
    return _service(request).model(model)


def _service(request: Request[Any, Any, Any]) -> Service:
    return request.app.state.service
