"""The admin listener: other bundles, indexes and ads for a service that goes on. On loopback, behind a token.

A load or a change of ads is answered when it serves, or with the reason why nothing has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromQuery

from serving.admin.messages import Status, read_changes, read_delta, read_load, read_model, read_split
from serving.admin.updates import LiveUpdates, LoadError
from serving.error_answer import ErrorAnswer, one_line
from serving.index.ad_index import now
from serving.index.change_set import ChangeError
from serving.index.delta import Delta, DeltaError
from serving.log_events import log_event
from serving.scorer import RequestError
from serving.scorer_updates import Sources, prepare, prepare_delta
from serving.service.app import Service
from serving.service.auth import Tokens
from serving.service.load_shedding import LoadShedder

MAX_BODY = 64 * 2**20  # bytes: tens of thousands of ads


@asynccontextmanager
async def administered(
    service: Service,
    *,
    sources: Mapping[str, Sources],
    listener: socket.socket | None,
    tokens: Tokens,
    callers: Tokens | None,
) -> AsyncIterator[None]:
    """Beside the service: SIGHUP loads anew what it was started with; and the admin listener, if there is one.

    `sources`: of each pair. `tokens`: of the admin listener. `callers`: of the service; SIGHUP reads both again.
    """
    updates = {
        pair: LiveUpdates(
            service.batcher,
            service.telemetry,
            some,
            ads=listener is not None,
            model=pair,
            check=partial(service.router.check, pair),
        )
        for pair, some in sources.items()
    }
    loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        for known in (tokens, callers or Tokens.of()):
            _read_again(known)
        reloads.add(task := asyncio.create_task(reload_all()))  # the loop itself holds tasks only weakly
        task.add_done_callback(reloads.discard)

    async def reload_all() -> None:
        for some in updates.values():  # one after the other: each takes memory and processors
            await some.reload()

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        async with contextlib.AsyncExitStack() as stack:
            if listener is not None:
                shedder = LoadShedder(create_admin(service, updates), service.telemetry, tokens=tokens)
                await stack.enter_async_context(service.extra_listener("admin", shedder, MAX_BODY, listener))
            for some in updates.values():
                stack.callback(some.abandon)  # first, so that who waits for a load gets an answer
            yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for some in updates.values():
            some.close()


def _read_again(tokens: Tokens) -> None:
    try:
        if path := tokens.read_again():
            log_event("tokens", outcome="done", file=path, tokens=len(tokens))
    except (ValueError, OSError) as e:  # those of before go on
        log_event("tokens", logging.WARNING, outcome="failed", reason=one_line(str(e)))


def create_admin(service: Service, updates: LiveUpdates | Mapping[str, LiveUpdates]) -> Litestar:
    """The ASGI application of the admin listener. `updates`: by pair, or of the only one."""
    app = Litestar(
        [load, ads, delta, split, status, metrics],
        exception_handlers={
            RequestError: partial(_refuse, 400),
            ChangeError: partial(_refuse, 400),
            DeltaError: partial(_refuse, 409),
            OSError: partial(_refuse, 409),  # a path that cannot be read
            LoadError: partial(_refuse, 409),
            HTTPException: _http_error,
            Exception: _crash,
        },
        request_max_body_size=MAX_BODY,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    by_pair = {updates.model: updates} if isinstance(updates, LiveUpdates) else updates
    app.state.service, app.state.updates = service, by_pair
    return app


@post("/admin/load", status_code=200)
async def load(request: Request[Any, Any, Any]) -> Status:
    """Another bundle and index."""
    body, updates = await _asked(request)
    wanted = read_load(body)
    deltas = None if wanted.deltas is None else Path(wanted.deltas)
    journal = updates.sources.journal if wanted.journal is None else Path(wanted.journal)
    await updates.load(Sources(Path(wanted.bundle), Path(wanted.index), deltas, journal), wanted.carry)
    return _status(request, updates)


@post("/admin/ads", status_code=200)
async def ads(request: Request[Any, Any, Any]) -> Status:
    """Puts, enables, disables, re-bids or removes ads: all of them or none."""
    body, updates = await _asked(request)
    await updates.change(lambda scorer: prepare(scorer, read_changes(body, scorer), now()))
    return _status(request, updates)


@post("/admin/delta", status_code=200)
async def delta(request: Request[Any, Any, Any]) -> Status:
    """A delta that `tt-jax index --delta-of` wrote."""
    body, updates = await _asked(request)
    path = read_delta(body).delta
    await updates.change(lambda scorer: prepare_delta(scorer, Delta.load(path)))
    return _status(request, updates)


@post("/admin/split", status_code=200)
async def split(request: Request[Any, Any, Any]) -> Status:
    """Other weights of the pairs of a model, from the next request on until the process ends."""
    wanted, router = read_split(await request.body()), _service(request).router
    several = [model for model in router.models if len(router.weights(model)) > 1]
    model = router.require(wanted.model, several or router.models)
    router.set_weights(model, wanted.weights)
    log_event("split", model=model, weights=",".join(f"{pair}:{w:g}" for pair, w in wanted.weights.items()))
    return _status(request, request.app.state.updates[next(iter(wanted.weights))])


@get("/admin/status")
async def status(request: Request[Any, Any, Any], model: FromQuery[str | None] = None) -> Status:
    """What is served, and how the last loads and changes went."""
    return _status(request, _of_model(request, model))


@get("/metrics", media_type=MediaType.TEXT)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Prometheus metrics of the service."""
    telemetry = request.app.state.service.telemetry
    return Response(telemetry.text(), headers={"content-type": telemetry.content_type})


async def _asked(request: Request[Any, Any, Any]) -> tuple[bytes, LiveUpdates]:
    """The body, and the updates of the pair that it names."""
    if not _service(request).ready:
        raise HTTPException(status_code=503, detail="not ready: starting or draining; nothing has changed")
    body = await request.body()
    return body, _of_model(request, await asyncio.to_thread(read_model, body))  # a body may be long


def _of_model(request: Request[Any, Any, Any], model: str | None) -> LiveUpdates:
    updates = request.app.state.updates
    return updates[_service(request).router.require(model, tuple(updates))]


def _status(request: Request[Any, Any, Any], updates: LiveUpdates) -> Status:
    service = _service(request)
    model = service.router.model_of[updates.model]
    return updates.status(service.ready, service.router.weights(model))


def _service(request: Request[Any, Any, Any]) -> Service:
    return request.app.state.service


def _refuse(code: int, _: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    return Response(ErrorAnswer(one_line(str(error))), status_code=code, media_type=MediaType.JSON)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorAnswer]:
    if error.status_code >= 500 and error.status_code != 503:
        return _crash(request, error)
    return _refuse(error.status_code, request, ValueError(error.detail))


def _crash(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    log_event("request_failed", logging.ERROR, error=error, method=request.scope["method"], path=request.scope["path"])
    return _refuse(500, request, ValueError("internal error"))
