"""A service in this process: from a bundle and an index to a socket that answers, until a signal ends it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from litestar import Litestar

from serving.http.server import Server, bound, calm_garbage_collector, listen, make_room
from serving.routing.plan import Plan
from serving.routing.router import Routes
from serving.scorer import Scorer
from serving.scorer_updates import load
from serving.scoring.sharding import ads_mesh
from serving.service.app import Service, create_app
from serving.service.auth import OPEN, hosts_of
from serving.service.config import ServiceConfig
from serving.service.load_shedding import LoadShedder
from serving.service.telemetry import log_serves

Listeners = Callable[[Service], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _no_others(_: Service) -> AsyncIterator[None]:
    yield


def run(plan: Plan, config: ServiceConfig, listeners: Listeners = _no_others) -> None:
    """Loads and warms the scorers of a plan, then serves in one process until SIGTERM or SIGINT.

    `listeners`: of other addresses; entered before the service takes requests, and left when it has drained.

    Raises ValueError for a port that is none, what `serving.scorer_updates.load` and `RequestLog` raise, OSError naming
    an address that is taken, and `DispatcherError` when the thread that ranks has ended or is stuck. It may still be at
    work then, so end the process with `os._exit`.
    """
    started, room = time.monotonic(), make_room(config.limits.max_connections)
    with bound(config.host, config.port) as sock:  # before the seconds that loading takes
        # No name for the scorers: they would be kept when others take their place.
        app = create_app(*_loaded(plan, config))
        calm_garbage_collector()
        listen(sock)
        service: Service = app.state.service
        service.room = room
        public = service.listener("service", _shedder(app, config), config.max_body, room.service)
        print(_announcement(app, config, sock.getsockname()[1]), flush=True)
        for model in service.batcher.scorers:
            log_serves("load", model, service.batcher.scorers[model], started)
        contexts = (lambda: listeners(service), app.lifespan)
        Server(public, config.limits, service.drain, lambda: service.batcher.failure is not None, contexts).run(sock)
        if service.batcher.failure:
            raise service.batcher.failure


def _loaded(plan: Plan, config: ServiceConfig) -> tuple[dict[str, Scorer], ServiceConfig, Routes]:
    """Each pair of the plan, by name, for `create_app`. Programs of equal shapes are compiled once."""
    scorers, like, mesh = dict[str, Scorer](), None, ads_mesh(config.devices)
    for pair, sources in plan.pairs.items():
        like = load(
            sources.bundle,
            sources.index,
            sources.deltas,
            sources.journal,
            max_k=config.max_k,
            max_candidates=config.max_candidates,
            live=config.live,
            mesh=mesh,
            like=like,
        )
        scorers[pair or like.schema.name] = like
    return scorers, config, plan.named(next(iter(scorers))).routes


def _shedder(app: Litestar, config: ServiceConfig) -> LoadShedder:
    return LoadShedder(
        app,
        app.state.service.telemetry,
        rank=app.state.service.rank,
        tokens=config.tokens,
        open_paths=(*OPEN, app.state.console.path) if config.console else OPEN,
        hosts=hosts_of(config.host, config.tokens, config.allowed_hosts),
        origin=config.console.origin if config.console else "",
    )


def _announcement(app: Litestar, config: ServiceConfig, port: int) -> str:
    address = f"{f'[{config.host}]' if ':' in config.host else config.host}:{port}"
    pages = "docs at /schema" + (f", console at {app.state.console.path}" if config.console else "")
    scorers: dict[str, Scorer] = app.state.service.batcher.scorers
    models = (
        f"model {name} {scorer.fingerprint[:12]}, index {scorer.index_id[:12]}, "
        f"{scorer.eligible} of {scorer.index_size} ads eligible"
        for name, scorer in scorers.items()
    )
    return f"serving http://{address} ({pages}): {'; '.join(models)}"
