"""Calls of the service, shared by its tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, cast

import httpx
import numpy as np
import uvicorn
from litestar.types import ASGIApp

from serving.scorer import ScoredAd
from tests import tiny

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


@contextmanager
def running(app: ASGIApp, listener: socket | None = None) -> Iterator[tuple[str, int]]:
    """Host and port of an application that answers over real connections, in a thread."""
    config = uvicorn.Config(cast(Any, app), port=0, lifespan="on", ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener] if listener else None,))
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join()
