"""The door before the application: who is refused there, and who is let through."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serving.batcher import Batcher
from serving.door import Door
from serving.load import Load
from serving.messages import Work
from serving.scorer import Scorer
from serving.telemetry import Telemetry
from tests.test_batcher import held


def scope(path: str = "/v1/rank", method: str = "POST", **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "method": method, "headers": pairs}


def test_only_what_the_batcher_would_refuse_is_refused(warm_scorer: Scorer) -> None:
    telemetry, passed = Telemetry(warm_scorer, {}), []
    batcher = Batcher(warm_scorer, load=Load(max_queue=1), metrics=telemetry.queue)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    door = Door(app, "/v1/rank", batcher, telemetry)

    async def ask(scope: dict[str, Any]) -> list[Any]:
        """What is sent; nothing if it is let through."""
        sent, count = [], len(passed)

        async def send(message: Any) -> None:
            sent.append(message)

        await door(scope, None, send)  # type: ignore[arg-type]
        assert (len(passed) == count) == bool(sent)
        return sent

    async def test() -> None:
        small = {"content_length": "100"}
        await batcher.submit(Work([{}], 1, None))  # it knows how long a batch takes
        assert await ask(scope(**small)) == []
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            head, body = await ask(scope(**small))
            assert head["status"] == 503
            headers = dict(head["headers"])
            assert int(headers[b"retry-after"]) >= 1
            assert int(headers[b"content-length"]) == len(body["body"])
            assert json.loads(body["body"]) == {"error": "the queue is full: 1 queries wait"}
            for other in (
                scope("/health/ready", **small),
                scope(method="GET", **small),
                scope(content_length="100000"),
                scope(),  # chunked
                scope(**small, x_deadline_ms="soon"),
            ):
                assert await ask(other) == []
        await waiting
        assert await ask(scope(**small)) == []

    try:
        asyncio.run(test())
    finally:
        batcher.close()
    text = telemetry.text().decode()
    assert 'tt_jax_requests_total{route="/v1/rank",status="503"} 1.0' in text
    assert 'tt_jax_shed_total{reason="full"} 1.0' in text


def test_a_deadline_that_cannot_be_kept_is_refused_at_the_door(warm_scorer: Scorer) -> None:
    telemetry = Telemetry(warm_scorer, {})
    batcher = Batcher(warm_scorer, metrics=telemetry.queue)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("let through")

    async def send(message: Any) -> None:
        sent.append(message)

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            door = Door(app, "/v1/rank", batcher, telemetry)
            await door(scope(content_length="2", x_deadline_ms="0"), None, send)  # type: ignore[arg-type]
        await waiting

    try:
        asyncio.run(test())
    finally:
        batcher.close()
    assert sent[0]["status"] == 503
    assert b"longer than the request allows" in sent[1]["body"]
