"""HTTP around the scorer. The event loop parses and awaits; JAX runs in the batcher's thread."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec

from serving.batching.batcher import Batcher
from serving.error_answer import ErrorAnswer
from serving.http.asgi import STARTED
from serving.http.listener import Listener
from serving.http.protocol import Reply
from serving.http.protocol import Request as HttpRequest
from serving.http.server import Room, Server, bound, calm_garbage_collector, listen, make_room
from serving.limits import ServiceLimits
from serving.parity.request_log import LogSettings, RequestLog
from serving.scorer import Scorer
from serving.scorer_updates import load as load_scorer
from serving.service.auth import OPEN, Tokens, hosts_of
from serving.service.errors import ERRORS, explain
from serving.service.load_shedding import LoadShedder
from serving.service.messages import BatchAnswer, FeatureInfo, ModelAnswer, RankAnswer, RequestLimits
from serving.service.openapi import RankOperation, openapi_config
from serving.service.rank import RANK, Rank
from serving.service.telemetry import Telemetry, log_serves
from tt_jax.schema import Feature


class Pages(Protocol):
    """Pages for people beside the API. `path`: of the one that needs no token."""

    @property
    def path(self) -> str: ...

    @property
    def routes(self) -> Sequence[Any]: ...

    def close(self) -> None:
        """At the end of the service. Does not wait for what is in progress."""


class MakePages(Protocol):
    """Makes the pages of a service. `origin`: from where a browser may read what this service answers, "" = nowhere."""

    @property
    def origin(self) -> str: ...

    def __call__(self, service: Service) -> Pages: ...


_LAST_BATCH = 0.6  # of the grace time: when no batch is started any more
_LAST_CALL = 0.1  # of it: for the last batch to end
_LAST_EXTRA = 1.0  # s from when the service has drained until the connections of the other listeners are cut


class Service:
    """What the handlers share. `ready` is False before start-up and while the process drains."""

    def __init__(
        self, scorer: Scorer, max_body: int, max_queries: int, limits: ServiceLimits, log: LogSettings | None
    ) -> None:
        versions = {name: importlib.metadata.version(name) for name in ("tt-jax", "jax", "litestar")}
        versions = {name.replace("-", "_"): v for name, v in versions.items()} | {"python": platform.python_version()}
        self.request_limits = RequestLimits(scorer.max_k, max_queries, scorer.max_candidates, max_body)
        self.telemetry = Telemetry(scorer, versions)
        self.service_limits = limits
        self.batcher = Batcher(scorer, limits=limits, metrics=self.telemetry.queue)
        self.request_log = RequestLog(log, self.telemetry.registry) if log else None
        self.rank = Rank(self.batcher, self.telemetry, self.request_limits, self.request_log)
        self.room, self.access_log, self.ready = Room(0, 0), False, False  # until it runs
        self._versions = versions

    def model(self) -> ModelAnswer:
        """What is served now."""
        scorer = self.batcher.scorer
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
        )

    def listener(self, name: str, shedder: LoadShedder, max_body: int, max_connections: int) -> Listener:
        """One of this process. `name`: in metrics and logs. `max_body`: bytes."""
        return Listener(
            name,
            shedder,
            self.telemetry.clients,
            self.service_limits,
            max_body=max_body,
            max_connections=max_connections,
            access_log=self.access_log,
        )

    def extra_listener(
        self, name: str, shedder: LoadShedder, max_body: int, sock: socket.socket
    ) -> AbstractAsyncContextManager[None]:
        """Answers on another address for as long as the block lasts."""
        return self.listener(name, shedder, max_body, self.room.extra).serving(sock, _LAST_EXTRA)

    def drain(self) -> None:
        """No longer ready. Requests are served for most of the grace time, then refused; safe in a signal handler."""
        self.ready = False
        self.batcher.closing_at = time.perf_counter() + _LAST_BATCH * self.service_limits.grace


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
    scorer: Scorer,
    *,
    max_body: int = 2**20,
    max_queries: int = 64,
    limits: ServiceLimits | None = None,
    log: LogSettings | None = None,
    tokens: Tokens | None = None,
    metrics_here: bool = True,
    console: MakePages | None = None,
) -> Litestar:
    """The ASGI application of a warm scorer, for one run of its lifespan.

    Args:
      max_body: bytes; a longer body is answered with 413.
      max_queries: most queries of one request.
      log: of a sample of the requests, for `tt-jax parity`; None = no log.
      tokens: whose holders alone may use it, all but `/health`; None = everybody.
      metrics_here: whether `/metrics` is here, or on a listener of its own.
      console: pages such as those of `serving.console`; None = none.
    """
    if max_body < 1 or max_queries < 1:
        raise ValueError(f"expected max_body and max_queries >= 1, got {max_body} and {max_queries}")
    service = Service(scorer, max_body, max_queries, limits or ServiceLimits(), log)
    pages = None if console is None else console(service)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        service.ready = True
        try:
            yield
        finally:
            service.ready = False
            service.batcher.close(_LAST_CALL * service.service_limits.grace)
            if pages:
                pages.close()
            if service.request_log:
                service.request_log.close()

    return Litestar(
        [rank, live, ready, model, *([metrics] if metrics_here else ()), *(pages.routes if pages else ())],
        lifespan=[lifespan],
        middleware=[service.telemetry.start],
        before_send=[service.telemetry.before_send],
        exception_handlers={Exception: explain},
        request_max_body_size=max_body,
        openapi_config=openapi_config(tokens is not None),
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


@get("/v1/model")
async def model(request: Request[Any, Any, Any]) -> ModelAnswer:
    """What is served: features of a query, tasks, utility, limits, fingerprints, versions."""
    return _service(request).model()


def _service(request: Request[Any, Any, Any]) -> Service:
    return request.app.state.service


Listeners = Callable[[Service], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _nothing(_: Service) -> AsyncIterator[None]:
    yield


def run(
    bundle: Path,
    index: Path,
    deltas: Path | None = None,
    journal: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    max_k: int = 1000,
    max_candidates: int = 16_384,
    max_queries: int = 64,
    max_body: int = 2**20,
    limits: ServiceLimits | None = None,
    log: LogSettings | None = None,
    tokens: Tokens | None = None,
    metrics_here: bool = True,
    live: bool = False,
    console: MakePages | None = None,
    allowed_hosts: Sequence[str] = (),
    access_log: bool = False,
    listeners: Listeners = _nothing,
) -> None:
    """Loads and warms the scorer, then serves in one process until SIGTERM or SIGINT. Port 0 takes a free one.

    Args:
      bundle, index, deltas, journal, max_k, max_candidates, live: see `serving.scorer_updates.load`.
      max_queries, max_body, log, tokens, metrics_here: see `create_app`.
      limits: of work, clients and times.
      console: pages such as those of `serving.console`; None = none.
      allowed_hosts: names that requests may be for, beside this machine's, where `serving.service.auth.hosts_of` checks
      them.
      access_log: whether each answer of each listener is logged.
      listeners: entered before the service takes requests, and left when it has drained.

    Raises ValueError for a port that is none, what `serving.scorer_updates.load` and `RequestLog` raise, OSError naming
    an address that is taken, and `DispatcherError` when the thread that ranks has ended or is stuck. It may still be at
    work then, so end the process with `os._exit`.
    """
    limits, started = limits or ServiceLimits(), time.monotonic()
    room = make_room(limits.max_connections)
    with bound(host, port) as listener:  # before the seconds that loading takes
        app = create_app(  # no name for the scorer: it would be kept when another takes its place
            load_scorer(bundle, index, deltas, journal, max_k=max_k, max_candidates=max_candidates, live=live),
            max_body=max_body,
            max_queries=max_queries,
            limits=limits,
            log=log,
            tokens=tokens,
            metrics_here=metrics_here,
            console=console,
        )
        calm_garbage_collector()
        listen(listener)
        address = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        service: Service = app.state.service
        service.room, service.access_log = room, access_log
        origin = console.origin if console else ""
        hosts = hosts_of(host, tokens, allowed_hosts)
        open_paths = (*OPEN, app.state.console.path) if console else OPEN
        who: Any = {"tokens": tokens, "open_paths": open_paths, "hosts": hosts, "origin": origin}
        shedder = LoadShedder(app, service.telemetry, rank=service.rank, **who)
        public = service.listener("service", shedder, max_body, room.service)
        pages = "docs at /schema" + (f", console at {app.state.console.path}" if console else "")
        print(f"serving http://{address} ({pages}): {_describe(service.batcher.scorer)}", flush=True)
        log_serves("load", service.batcher.scorer, started)
        batcher, around = service.batcher, (lambda: listeners(service), app.lifespan)
        Server(public, limits, service.drain, lambda: batcher.failure is not None, around).run(listener)
        if batcher.failure:
            raise batcher.failure


def _describe(scorer: Scorer) -> str:
    return (
        f"model {scorer.schema.name} {scorer.fingerprint[:12]}, index {scorer.index_id[:12]}, "
        f"{scorer.eligible} of {scorer.index_size} ads eligible"
    )
