"""HTTP around the scorer. The event loop parses and awaits; JAX runs in the batcher's thread."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException, NotFoundException
from litestar.openapi import ResponseSpec
from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from serving.access import Guard, Tokens
from serving.batcher import Batcher
from serving.changing import load as load_scorer
from serving.console import CONSOLE, ROUTES, Console, ConsoleSettings
from serving.cross_origin import CrossOrigin
from serving.docs import RankOperation, openapi_config
from serving.door import Door
from serving.errors import ERRORS, explain
from serving.load import Load
from serving.messages import BatchAnswer, ErrorAnswer, FeatureInfo, Limits, ModelAnswer, RankAnswer
from serving.rank import RANK, Rank
from serving.request_log import LogSettings, RequestLog
from serving.scorer import Scorer
from serving.server import Server, allow_many_connections, bound, calm_garbage_collector, listen
from serving.telemetry import Telemetry, log_serves
from tt_jax.schema import Feature

_LAST_BATCH = 0.6  # of the grace time: when no batch is started any more
_LAST_CALL = 0.1  # of it: for the last batch to end


class Service:
    """What the handlers share. `ready` is False before start-up and while the process drains."""

    def __init__(self, scorer: Scorer, max_body: int, max_queries: int, load: Load, log: LogSettings | None) -> None:
        versions = {name: importlib.metadata.version(name) for name in ("tt-jax", "jax", "litestar")}
        versions = {name.replace("-", "_"): v for name, v in versions.items()} | {"python": platform.python_version()}
        self.limits = Limits(scorer.max_k, max_queries, scorer.max_candidates, max_body)
        self.telemetry = Telemetry(scorer, versions)
        self.load = load
        self.batcher = Batcher(scorer, load=load, metrics=self.telemetry.queue)
        self.request_log = RequestLog(log, self.telemetry.registry) if log else None
        self.ready = False
        self._versions = versions

    def model(self) -> ModelAnswer:
        """What is served now."""
        scorer = self.batcher.scorer
        return ModelAnswer(
            name=scorer.schema.name,
            tasks=scorer.schema.heads,
            utility=scorer.utility,
            features=[_feature_info(f) for f in scorer.schema.tower_features("query")],
            limits=self.limits,
            bundle=scorer.fingerprint,
            index=scorer.index_id,
            ads=scorer.index_size,
            eligible_ads=scorer.eligible,
            versions=self._versions,
        )

    def drain(self) -> None:
        """No longer ready. Requests are served for most of the grace time, then refused; safe in a signal handler."""
        self.ready = False
        self.batcher.closing_at = time.perf_counter() + _LAST_BATCH * self.load.grace


def _feature_info(f: Feature) -> FeatureInfo:
    return FeatureInfo(
        name=f.name,
        kind=f.kind,
        dtype=f.dtype if f.is_ids else "float",
        max_length=f.max_length if f.kind in ("bag", "sequence") else None,
        dim=f.dim if f.kind == "dense" else None,
        default=f.default,
    )


class App(Litestar):
    """All routes; that of `rank` goes past Litestar."""

    rank: Rank

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/") == RANK:
            await self.rank(scope, receive, send)  # pyright: ignore[reportArgumentType], no lifespan
        else:
            await super().__call__(scope, receive, send)


def create_app(
    scorer: Scorer,
    *,
    max_body: int = 2**20,
    max_queries: int = 64,
    load: Load | None = None,
    log: LogSettings | None = None,
    tokens: Tokens | None = None,
    metrics_here: bool = True,
    console: ConsoleSettings | None = None,
) -> App:
    """The ASGI application of a warm scorer, for one run of its lifespan.

    Args:
      max_body: bytes; a longer body is answered with 413.
      max_queries: most queries of one request.
      log: of a sample of the requests, for `tt-jax parity`; None = no log.
      tokens: whose holders alone may use it, all but `/health`; None = everybody.
      metrics_here: whether `/metrics` is here, or on a listener of its own.
      console: None = no console.
    """
    if max_body < 1 or max_queries < 1:
        raise ValueError(f"expected max_body and max_queries >= 1, got {max_body} and {max_queries}")
    service = Service(scorer, max_body, max_queries, load or Load(), log)
    shown = console and Console(console, service.batcher, service.telemetry, RANK, service.load.read)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        service.ready = True
        try:
            yield
        finally:
            service.ready = False
            service.batcher.close(_LAST_CALL * service.load.grace)
            if shown:
                shown.close()
            if service.request_log:
                service.request_log.close()

    app = App(
        [rank, live, ready, model, *([metrics] if metrics_here else ()), *(ROUTES if shown else ())],
        lifespan=[lifespan],
        middleware=[service.telemetry.start],
        before_send=[service.telemetry.before_send],
        exception_handlers={Exception: explain},
        request_max_body_size=max_body,
        openapi_config=openapi_config(tokens is not None),
        logging_config=None,
        debug=False,
    )
    app.state.service, app.state.console = service, shown
    app.rank = Rank(service.batcher, service.telemetry, service.limits, service.load.read, service.request_log)
    return app


@post(RANK, status_code=200, operation_class=RankOperation, responses=ERRORS)
async def rank() -> RankAnswer | BatchAnswer:
    """The best ads for a query, or for each of several. The body is read as JSON, whatever its Content-Type."""
    raise NotFoundException  # stands here for the OpenAPI document: `App` answers, but for odd spellings of the path


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


Beside = Callable[[Service], AbstractAsyncContextManager[None]]


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
    load: Load | None = None,
    log: LogSettings | None = None,
    tokens: Tokens | None = None,
    metrics_here: bool = True,
    live: bool = False,
    console: ConsoleSettings | None = None,
    beside: Beside = _nothing,
) -> None:
    """Loads and warms the scorer, then serves in one process until SIGTERM or SIGINT. Port 0 takes a free one.

    Args:
      bundle, index, deltas, journal, max_k, max_candidates, live: see `serving.changing.load`.
      max_queries, max_body, log, tokens, metrics_here: see `create_app`.
      load: limits.
      console: None = no console.
      beside: entered before the service takes requests, and left when it has drained.

    Raises ValueError for a port that is none, what `serving.changing.load` and `RequestLog` raise, OSError naming an
    address that is taken, and `DispatcherError` when the thread that ranks has ended or is stuck. It may still be at
    work then, so end the process with `os._exit`.
    """
    load, started = load or Load(), time.monotonic()
    allow_many_connections()
    with bound(host, port) as listener:  # before the seconds that loading takes
        app = create_app(  # no name for the scorer: it would be kept when another takes its place
            load_scorer(bundle, index, deltas, journal, max_k=max_k, max_candidates=max_candidates, live=live),
            max_body=max_body,
            max_queries=max_queries,
            load=load,
            log=log,
            tokens=tokens,
            metrics_here=metrics_here,
            console=console,
        )
        calm_garbage_collector()
        listen(listener)
        address = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        service: Service = app.state.service
        entry, headers = app, ()
        if tokens is not None:
            entry = Guard(entry, tokens, service.telemetry)
        if console and console.origin:
            entry = CrossOrigin(entry, console.origin)  # outermost: browsers may read refusals too
            headers = (entry.header,)
        door = Door(app.rank, headers, tokens)
        pages = "docs at /schema" + (f", console at {CONSOLE}" if console else "")
        print(f"serving http://{address} ({pages}): {_describe(service.batcher.scorer)}", flush=True)
        log_serves("load", service.batcher.scorer, started)
        batcher = service.batcher
        Server(entry, door, load, service.drain, lambda: batcher.failure is not None, lambda: beside(service)).run(
            sockets=[listener]
        )
        if batcher.failure:
            raise batcher.failure


def _describe(scorer: Scorer) -> str:
    return (
        f"model {scorer.schema.name} {scorer.fingerprint[:12]}, index {scorer.index_id[:12]}, "
        f"{scorer.eligible} of {scorer.index_size} ads eligible"
    )
