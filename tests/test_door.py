"""The door before the application: who is refused there, who is let through, and when a request counts as come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.access import Tokens
from serving.batcher import Batcher
from serving.door import Door
from serving.load import Load
from serving.messages import Work
from serving.rank import BODY
from serving.scorer import Scorer
from serving.server import Connection
from serving.telemetry import STARTED, Telemetry
from tests.test_batcher import held

HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
CHUNKED = HEAD.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
SMALL = {"content_length": "100"}
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def refusal(door: Door, target: str = "/v1/rank", method: str = "POST", **headers: str) -> bytes | None:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return door.refusal(method.encode(), target.encode(), pairs, time.perf_counter(), [(b"date", b"today")])


def test_only_what_the_batcher_would_refuse_is_refused(warm_scorer: Scorer) -> None:
    telemetry = Telemetry(warm_scorer, {})
    batcher = Batcher(warm_scorer, load=Load(max_queue=2), metrics=telemetry.queue)
    door = Door("/v1/rank", batcher, telemetry, [(b"allow", b"them")])

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))  # it knows how long a batch takes
        assert refusal(door, **SMALL) is None
        await asyncio.sleep(0)
        async with held(batcher):
            waiting = [batcher.submit(Work([{}], 1, None)) for _ in range(2)]
            head, body = (refusal(door, **SMALL) or b"").split(b"\r\n\r\n")
            status, *lines = head.split(b"\r\n")
            headers = dict(line.split(b": ") for line in lines)
            assert status == b"HTTP/1.1 503 Service Unavailable"
            assert int(headers[b"retry-after"]) >= 1
            assert int(headers[b"content-length"]) == len(body)
            assert headers[b"date"] == b"today"
            assert headers[b"allow"] == b"them"
            assert json.loads(body) == {"error": "the queue is full: 2 queries wait"}
            assert refusal(door, "/health/ready", **SMALL) is None
            assert refusal(door, method="GET", **SMALL) is None
            assert refusal(door, content_length="100000") is None
            assert refusal(door) is None  # chunked
            assert refusal(door, **SMALL, x_deadline_ms="soon") is None
        await asyncio.gather(*waiting)
        assert refusal(door, **SMALL) is None

    run(batcher, test())
    text = telemetry.text().decode()
    assert 'tt_jax_requests_total{route="/v1/rank",status="503"} 1.0' in text
    assert 'tt_jax_shed_total{reason="full"} 1.0' in text


def test_who_has_no_token_is_not_told_of_the_queue(warm_scorer: Scorer) -> None:
    batcher, tokens = Batcher(warm_scorer, load=Load(max_queue=2)), Tokens.of("a-token-of-the-tests")
    door = Door("/v1/rank", batcher, Telemetry(warm_scorer, {}), tokens=tokens)
    right = {**SMALL, "authorization": "Bearer a-token-of-the-tests"}

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert refusal(door, **SMALL, authorization="Bearer another-token-of-the-tests") is None
            assert refusal(door, **right) is None  # the one before has taken no place
            assert b" 503 " in (refusal(door, **right) or b"")
            assert refusal(door, **SMALL) is None  # the application says 401
        await waiting

    run(batcher, test())


def test_those_let_through_count_before_they_are_in_the_queue(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, load=Load(max_queue=4))
    door = Door("/v1/rank", batcher, Telemetry(warm_scorer, {}))

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert [refusal(door, **SMALL) is None for _ in range(5)] == [True, True, True, False, False]
            await asyncio.sleep(0)  # in this turn they would have entered the queue
            assert refusal(door, **SMALL) is None
        await waiting

    run(batcher, test())


def test_a_deadline_that_cannot_be_kept_is_refused_at_the_door(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    door = Door("/v1/rank", batcher, Telemetry(warm_scorer, {}))

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            refused = refusal(door, **SMALL, x_deadline_ms="0")
            assert refused is not None
            assert b"longer than the request allows" in refused
        await waiting

    run(batcher, test())


def test_a_connection_goes_on_after_a_refusal(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, load=Load(max_queue=1))
    seen: list[Any] = []

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with connected(Door("/v1/rank", batcher, Telemetry(warm_scorer, {})), seen) as (reader, writer):
            request = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
            async with held(batcher):
                waiting = batcher.submit(Work([{}], 1, None))
                writer.write(request + b"1")
                await asyncio.sleep(0.05)
                writer.write(b"234" + request + b"5678" + request)  # one more, and the head of a third
                for _ in range(2):
                    assert (await answer(reader))[0] == 503
                await asyncio.sleep(0.05)
                writer.write(b"9012")
                assert (await answer(reader))[0] == 503
                assert not seen
            await waiting
            writer.write(request + b"3456")
            assert await answer(reader) == (200, b"3456")

    run(batcher, test())


def test_a_request_counts_from_when_it_came_not_from_when_it_was_read(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    seen: list[Any] = []

    async def test() -> None:
        async with connected(Door("/v1/rank", batcher, Telemetry(warm_scorer, {})), seen) as (reader, writer):
            writer.write(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            time.sleep(0.2)  # the event loop does something else
            read_at = time.perf_counter()
            assert (await answer(reader))[0] == 200
        assert 0.1 < read_at - seen[0]["state"][STARTED] < 0.4

    run(batcher, test())


@pytest.mark.parametrize(
    ("pieces", "bodies", "told"),
    [
        ([HEAD + b"1234"], [b"1234"], [b"1234"]),
        ([HEAD + b"1234" + HEAD + b"5678"], [b"1234", b"5678"], [b"1234", b"5678"]),  # the second one waits
        ([HEAD, b"1234"], [b"1234"], [None]),
        ([HEAD + b"12", b"34" + HEAD + b"5678"], [b"1234", b"5678"], [None, b"5678"]),
        ([CHUNKED + b"1\r\n1\r\n3\r\n234\r\n0\r\n\r\n"], [b"1234"], [b"1234"]),
        ([HEAD.replace(b"4", b"70000") + b"1" * 70_000], [b"1" * 70_000], [None]),  # uvicorn would wait for `receive`
    ],
)
def test_a_body_that_came_with_its_head_is_in_the_state(
    warm_scorer: Scorer, pieces: list[bytes], bodies: list[bytes], told: list[bytes | None]
) -> None:
    batcher = Batcher(warm_scorer)
    seen: list[Any] = []

    async def test() -> None:
        async with connected(Door("/v1/rank", batcher, Telemetry(warm_scorer, {})), seen) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            assert [await answer(reader) for _ in bodies] == [(200, body) for body in bodies]
        assert [scope["state"].get(BODY) for scope in seen] == told

    run(batcher, test())


@asynccontextmanager
async def connected(door: Door, seen: list[Any]) -> AsyncIterator[Streams]:
    """A client of an application that notes the scopes it sees, and answers with the body."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        body += message["body"]
        length = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(echo, log_config=None, access_log=False)
    protocol = partial(Connection, door, config=config, server_state=ServerState(), app_state={})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1")
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()
    finally:
        server.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head[9:12]), await reader.readexactly(length)


def run(batcher: Batcher, test: Any) -> None:
    try:
        asyncio.run(test)
    finally:
        batcher.close()
