"""HTTP around the scorer. The event loop parses and awaits; JAX runs in the batcher's thread."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.exceptions import ClientException, HTTPException, InternalServerException
from litestar.openapi import ResponseSpec

from serving.batcher import Batcher
from serving.docs import RankOperation, openapi_config
from serving.messages import (
    Ads,
    BatchAnswer,
    ErrorAnswer,
    FeatureInfo,
    Limits,
    ModelAnswer,
    RankAnswer,
    one_line,
    read_request,
    to_work,
)
from serving.request_log import LogSettings, RequestLog
from serving.scorer import RequestError, Scorer
from serving.telemetry import Telemetry
from tt_jax.schema import Feature

DRAIN_SECONDS = 10  # SIGTERM: requests in flight get this long
_log = logging.getLogger(__name__)
_ERRORS = {
    400: ResponseSpec(ErrorAnswer, description="The request is wrong; `error` says where.", generate_examples=False),
    413: ResponseSpec(ErrorAnswer, description="The body is too large.", generate_examples=False),
}


class Service:
    """What the handlers share. `ready` is False before start-up and while the process drains."""

    def __init__(self, scorer: Scorer, max_body: int, max_queries: int, log: LogSettings | None) -> None:
        versions = {name: importlib.metadata.version(name) for name in ("tt-jax", "jax", "litestar")}
        versions = {name.replace("-", "_"): v for name, v in versions.items()} | {"python": platform.python_version()}
        self.limits = Limits(scorer.max_k, max_queries, scorer.max_candidates, max_body)
        self.telemetry = Telemetry(scorer, versions)
        self.batcher = Batcher(scorer)
        self.request_log = RequestLog(log, self.telemetry.registry) if log else None
        self.ready = False
        self.model = ModelAnswer(
            name=scorer.schema.name,
            tasks=scorer.schema.heads,
            utility=scorer.utility,
            features=[_feature_info(f) for f in scorer.schema.tower_features("query")],
            limits=self.limits,
            bundle=scorer.fingerprint,
            index=scorer.index_id,
            ads=scorer.index_size,
            eligible_ads=scorer.eligible,
            versions=versions,
        )


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
    scorer: Scorer, *, max_body: int = 2**20, max_queries: int = 64, log: LogSettings | None = None
) -> Litestar:
    """The ASGI application of a warm scorer, for one run of its lifespan.

    Args:
      max_body: bytes; a longer body is answered with 413.
      max_queries: most queries of one request.
      log: of a sample of the requests, for `tt-jax parity`; None = no log.
    """
    service = Service(scorer, max_body, max_queries, log)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        service.ready = True
        try:
            yield
        finally:
            service.ready = False
            service.batcher.close()
            if service.request_log:
                service.request_log.close()

    app = Litestar(
        [rank, live, ready, metrics, model],
        lifespan=[lifespan],
        middleware=[service.telemetry.start],
        before_send=[service.telemetry.before_send],
        exception_handlers={RequestError: _bad_request, HTTPException: _http_error, Exception: _crash},
        request_max_body_size=max_body,
        openapi_config=openapi_config(),
        logging_config=None,
        debug=False,
    )
    app.state.service = service
    return app


# Not declared as `data`: Litestar would choose the decoder by Content-Type, and `curl -d` sends that of a form.
@post("/v1/rank", status_code=200, operation_class=RankOperation, responses=_ERRORS)
async def rank(request: Request[Any, Any, Any]) -> RankAnswer | BatchAnswer:
    """The best ads for a query, or for each of several. The body is read as JSON, whatever its Content-Type."""
    service = _service(request)
    try:
        body = await request.body()
    except InternalServerException as e:
        raise ClientException(e.detail) from None  # the client went away: nobody reads this, and it is no fault of ours
    message = read_request(body)
    work = to_work(message, service.limits.queries)
    ranked = await service.batcher.submit(work)
    service.telemetry.ranked(work.queries, ranked.ads)
    if service.request_log:
        service.request_log.offer(work, ranked)
    if message.query is not None:
        return RankAnswer(ranked.ads[0], ranked.bundle, ranked.index)
    return BatchAnswer([Ads(ads) for ads in ranked.ads], ranked.bundle, ranked.index)


@get("/health/live", media_type=MediaType.TEXT)
async def live() -> str:
    """200 as long as the event loop turns."""
    return "live\n"


@get("/health/ready", media_type=MediaType.TEXT, responses={503: ResponseSpec(ErrorAnswer, generate_examples=False)})
async def ready(request: Request[Any, Any, Any]) -> str:
    """200 when requests are welcome; 503 while the process drains."""
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
    return _service(request).model


def _service(request: Request[Any, Any, Any]) -> Service:
    return request.app.state.service


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response[ErrorAnswer]:
    return Response(ErrorAnswer(one_line(message)), status_code=status, media_type=MediaType.JSON, headers=headers)


def _bad_request(_: Request[Any, Any, Any], error: RequestError) -> Response[ErrorAnswer]:
    return _error(400, str(error))


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorAnswer]:
    if error.status_code >= 500 and error.status_code != 503:
        return _crash(request, error)
    path = request.scope["path"]
    message = {
        404: f"no such path: {path}; see /schema",
        405: f"{path} does not take {request.scope['method']}; expected {(error.headers or {}).get('allow', '')}",
        413: f"the body is too large; expected at most {_service(request).limits.body} bytes",
    }.get(error.status_code, error.detail)
    return _error(error.status_code, message, error.headers)


def _crash(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    _log.error("%s %s failed", request.scope["method"], request.scope["path"], exc_info=error)
    return _error(500, "internal error")


class _Server(uvicorn.Server):
    """Ends a drained process by returning, where uvicorn raises the signal again and dies of it."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: no longer ready, drain; a second SIGINT does not wait."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self._service.ready = False
        self.should_exit = True


def run(
    bundle: Path,
    index: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    max_k: int = 1000,
    log: LogSettings | None = None,
) -> None:
    """Loads and warms the scorer, then serves in one process until SIGTERM or SIGINT. Port 0 takes a free one.

    `log`: of a sample of the requests.

    Raises ValueError for a port that is none, what `Scorer.load` and `RequestLog` raise, and OSError naming an address
    that is taken.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port: expected 0 to {2**16 - 1}, got {port}")
    scorer = Scorer.load(bundle, index, max_k=max_k)
    app = create_app(scorer, log=log)
    with _listen(host, port) as listener:
        address = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print(f"serving http://{address} (docs at /schema): {_describe(scorer)}", flush=True)
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        _Server(config, app.state.service).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as e:
        raise OSError(f"cannot listen on {host}:{port}: {e.strerror or e}") from None


def _describe(scorer: Scorer) -> str:
    return (
        f"model {scorer.schema.name} {scorer.fingerprint[:12]}, index {scorer.index_id[:12]}, "
        f"{scorer.eligible} of {scorer.index_size} ads eligible"
    )
