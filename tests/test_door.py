"""The door before the application: who is refused, answered or let through, and when a request counts as come."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from uvicorn.server import ServerState

from serving.access import Tokens
from serving.batcher import Batcher
from serving.door import Door, Headers
from serving.load import Load
from serving.messages import Limits, Work
from serving.rank import RANK, Rank, Reply
from serving.scorer import Scorer
from serving.telemetry import STARTED, Telemetry
from tests.raw_client import answer, connected, whole
from tests.test_batcher import held

HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
CHUNKED = HEAD.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
SMALL = {"content_length": "100"}


def door_of(batcher: Batcher, *, headers: Headers = (), tokens: Tokens | None = None) -> Door:
    telemetry = Telemetry(batcher.scorer, {})
    return Door(Rank(batcher, telemetry, Limits(10, 10, 10, 2**20), 1.0, None), headers, tokens)


def entered(door: Door, target: str = "/v1/rank", method: str = "POST", **headers: str) -> Reply | bool:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return door.enter(method.encode(), target.encode(), pairs, time.perf_counter())


def refusal(door: Door, **headers: str) -> bytes:
    reply = entered(door, **headers)
    assert isinstance(reply, Reply)
    return door.message(reply, [(b"date", b"today")])


def test_only_what_the_batcher_would_refuse_is_refused(warm_scorer: Scorer) -> None:
    telemetry = Telemetry(warm_scorer, {})
    batcher = Batcher(warm_scorer, load=Load(max_queue=2), metrics=telemetry.queue)
    door = Door(Rank(batcher, telemetry, Limits(10, 10, 10, 90_000), 1.0, None), [(b"allow", b"them")])

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))  # it knows how long a batch takes
        assert entered(door, **SMALL) is True
        await asyncio.sleep(0)
        async with held(batcher):
            waiting = [batcher.submit(Work([{}], 1, None)) for _ in range(2)]
            head, body = refusal(door, **SMALL).split(b"\r\n\r\n")
            status, *lines = head.split(b"\r\n")
            headers = dict(line.split(b": ") for line in lines)
            assert status == b"HTTP/1.1 503 Service Unavailable"
            assert int(headers[b"retry-after"]) >= 1
            assert int(headers[b"content-length"]) == len(body)
            assert headers[b"date"] == b"today"
            assert headers[b"allow"] == b"them"
            assert json.loads(body) == {"error": "the queue is full: 2 queries wait"}
            assert entered(door, "/health/ready", **SMALL) is False
            assert entered(door, method="GET", **SMALL) is False
            assert entered(door, content_length="70000") is False
            assert entered(door) is False  # chunked
            assert entered(door, **SMALL, x_deadline_ms="soon") is True
        await asyncio.gather(*waiting)
        assert entered(door, **SMALL) is True

    run(batcher, test())
    text = telemetry.text().decode()
    assert 'tt_jax_requests_total{route="/v1/rank",status="503"} 1.0' in text
    assert 'tt_jax_shed_total{reason="full"} 1.0' in text


def test_who_has_no_token_is_not_told_of_the_queue(warm_scorer: Scorer) -> None:
    batcher, tokens = Batcher(warm_scorer, load=Load(max_queue=2)), Tokens.of("a-token-of-the-tests")
    door = door_of(batcher, tokens=tokens)
    right = {**SMALL, "authorization": "Bearer a-token-of-the-tests"}

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert entered(door, **SMALL, authorization="Bearer another-token-of-the-tests") is False
            assert entered(door, **right) is True  # the one before has taken no place
            assert b" 503 " in refusal(door, **right)
            assert entered(door, **SMALL) is False  # the application says 401
        await waiting

    run(batcher, test())


def test_those_let_through_count_before_they_are_in_the_queue(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, load=Load(max_queue=4))
    door = door_of(batcher)

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert [entered(door, **SMALL) is True for _ in range(5)] == [True, True, True, False, False]
            await asyncio.sleep(0)  # in this turn they would have entered the queue
            assert entered(door, **SMALL) is True
        await waiting

    run(batcher, test())


def test_a_deadline_that_cannot_be_kept_is_refused_at_the_door(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    door = door_of(batcher)

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert b"longer than the request allows" in refusal(door, **SMALL, x_deadline_ms="0")
        await waiting

    run(batcher, test())


def test_a_connection_goes_on_after_a_refusal(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, load=Load(max_queue=1))
    seen: list[Any] = []

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with connected(door_of(batcher), seen) as (reader, writer):
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
            writer.write(request.replace(RANK.encode(), b"/other") + b"3456")
            assert await answer(reader) == (200, b"3456")

    run(batcher, test())


def test_a_request_counts_from_when_it_came_not_from_when_it_was_read(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    seen: list[Any] = []

    async def test() -> None:
        async with connected(door_of(batcher), seen) as (reader, writer):
            writer.write(b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            time.sleep(0.2)  # the event loop does something else
            read_at = time.perf_counter()
            assert (await answer(reader))[0] == 200
        assert 0.1 < read_at - seen[0]["state"][STARTED] < 0.4

    run(batcher, test())


ECHO, TAKEN = 200, 400  # by the application; by the door, as none of these bodies is an object


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([HEAD + b"1234"], [TAKEN]),
        ([HEAD + b"1234", HEAD + b"5678"], [TAKEN, TAKEN]),
        ([HEAD + b"1234" + HEAD + b"5678"], [TAKEN, TAKEN]),
        ([HEAD, b"1234"], [ECHO]),
        ([HEAD + b"12", b"34" + HEAD + b"5678"], [ECHO, ECHO]),  # the second one came before the first was answered
        ([HEAD + b"12", b"34", HEAD + b"5678"], [ECHO, TAKEN]),
        ([HEAD.replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1) + b"1234"], [ECHO]),
        ([CHUNKED + b"1\r\n1\r\n3\r\n234\r\n0\r\n\r\n"], [ECHO]),
        ([HEAD.replace(b"4", b"70000") + b"1" * 70_000], [ECHO]),
    ],
)
def test_a_request_in_one_piece_is_answered_by_the_door(
    warm_scorer: Scorer, pieces: list[bytes], statuses: list[int]
) -> None:
    batcher = Batcher(warm_scorer)

    async def test() -> None:
        async with connected(door_of(batcher), []) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            assert [(await answer(reader))[0] for _ in statuses] == statuses

    run(batcher, test())


def test_an_answer_of_the_door_is_that_of_the_application(warm_scorer: Scorer) -> None:
    """But for the date: its head and its body, of one query and of several; and it tells the header of all answers."""
    batcher = Batcher(warm_scorer)
    bodies = [b'{"query": {}, "k": 3}', b'{"queries": [{}, {}], "k": 2}', b'{"query": {"x": 1}}']

    async def test() -> None:
        door = door_of(batcher, headers=[(b"allow", b"them")])
        async with connected(door, [], door._rank) as (reader, writer):
            for body in bodies:
                head = HEAD.replace(b"4", b"%d" % len(body))
                writer.write(head + body)
                taken = await whole(reader)
                writer.write(head)
                await asyncio.sleep(0.05)
                writer.write(body)
                assert taken.replace(b"allow: them\r\n", b"") == await whole(reader)
                assert b"allow: them\r\n" in taken
                writer.write(2 * (head + body))  # the second one is read while the first is ranked
                assert [(await whole(reader))[:15] for _ in range(2)] == [taken[:15]] * 2

    run(batcher, test())


def test_nobody_ranks_for_a_client_of_the_door_that_left(warm_scorer: Scorer) -> None:
    telemetry = Telemetry(warm_scorer, {})
    batcher = Batcher(warm_scorer, metrics=telemetry.queue)
    body = b'{"query": {}}'

    async def test() -> None:
        door = Door(Rank(batcher, telemetry, Limits(10, 10, 10, 2**20), 1.0, None))
        async with held(batcher):
            async with connected(door, []) as (_, writer):
                writer.write(HEAD.replace(b"4", b"%d" % len(body)) + body)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.05)
        await batcher.submit(Work([{}], 1, None))

    run(batcher, test())
    text = telemetry.text().decode()
    assert 'tt_jax_shed_total{reason="gone"} 1.0' in text
    assert 'tt_jax_requests_total{route="/v1/rank",status="400"} 1.0' in text


def test_what_the_door_has_taken_is_answered_when_the_process_drains(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    body = b'{"query": {}}'

    async def test() -> None:
        state = ServerState()
        async with connected(door_of(batcher), [], state=state) as (reader, writer):
            async with held(batcher):
                writer.write(HEAD.replace(b"4", b"%d" % len(body)) + body)
                await asyncio.sleep(0.05)
                for connection in tuple(state.connections):
                    connection.shutdown()  # as uvicorn does
            assert (await whole(reader)).startswith(b"HTTP/1.1 200 OK\r\nconnection: close\r\n")
            assert not await reader.read()

    run(batcher, test())


def run(batcher: Batcher, test: Any) -> None:
    try:
        asyncio.run(test)
    finally:
        batcher.close()
