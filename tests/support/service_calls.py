"""Calls of the service, shared by its tests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import uvloop
from litestar import Litestar

from serving.http.connection import Handler
from serving.scorer import ScoredAd
from serving.service.app import Service
from serving.service.load_shedding import LoadShedder
from tests.support import tiny

FORM = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d` sends


def some_queries(n: int, seed: int = 0) -> list[dict[str, Any]]:
    return tiny.queries(np.random.default_rng(seed), n)


def post(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/rank", content=json.dumps(body), headers=FORM)
    assert answer.status_code == 200, answer.text
    return answer.json()


def plain(ads: list[ScoredAd]) -> list[dict[str, Any]]:
    return [{"id": ad.id, "score": ad.score, "probabilities": ad.probabilities} for ad in ads]


def error_of(answer: httpx.Response, status: int) -> str:
    """The message of an error, which is all that its body holds, in one line."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert 0 < len(body["error"]) < 1000
    assert "\n" not in body["error"]
    assert "Traceback" not in body["error"]
    return body["error"]


def shedder_of(app: Litestar, **who: Any) -> LoadShedder:
    """Of an application of `create_app`. `who`: may ask, see `LoadShedder`."""
    service = app.state.service
    return LoadShedder(app, service.telemetry, rank=service.rank, **who)


@contextmanager
def running(
    app: Litestar, listener: socket.socket | None = None, handler: Handler | None = None, **who: Any
) -> Iterator[tuple[str, int]]:
    """Host and port of an application that answers over real connections, in a thread."""
    service: Service = app.state.service
    listener = listener or socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()[:2]
    site = service.listener("service", handler or shedder_of(app, **who), service.request_limits.body, 1000)  # pyright: ignore[reportArgumentType]
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with app.lifespan(), site.serving(listener, 1.0):
            started.set()
            await stop.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        try:
            while not started.wait(0.1):
                assert thread.is_alive()
            yield address
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
