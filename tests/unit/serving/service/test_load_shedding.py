"""Before the application: who is refused, answered or let through, and when a request counts as come."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from prometheus_client import CollectorRegistry

from serving.batching.batcher import Batcher
from serving.batching.request import Work
from serving.http.asgi import STARTED
from serving.http.protocol import Request
from serving.limits import ServiceLimits
from serving.routing.router import Router, Routes
from serving.routing.shadow import Shadows
from serving.scorer import Scorer
from serving.service.auth import Hosts, Tokens
from serving.service.load_shedding import LoadShedder
from serving.service.messages import RequestLimits
from serving.service.rank import RANK, Rank
from serving.service.telemetry import Telemetry
from tests.support.batcher_calls import held
from tests.support.raw_client import answer, client_of, connected, echo, listening, refusal, whole

HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
CHUNKED = HEAD.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")


def shedder_of(
    batcher: Batcher, seen: list[Any] | None = None, telemetry: Telemetry | None = None, **who: Any
) -> LoadShedder:
    telemetry = telemetry or Telemetry(batcher.scorer, {})
    router = Router(Routes.of(batcher.scorers), batcher.scorers)
    shadows = Shadows({}, batcher, CollectorRegistry())
    rank = Rank(batcher, telemetry, RequestLimits(10, 10, 10, 2**20), None, router, shadows)
    return LoadShedder(echo([] if seen is None else seen), telemetry, rank=rank, **who)


def entered(
    shedder: LoadShedder, path: str = RANK, method: str = "POST", hosts: tuple[bytes, ...] = (), **headers: str
) -> Any:
    """Status, message and all else of the answer, or None for a request that is let through."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    more: Any = {"path": path, "hosts": hosts, "encoding": headers.get("content_encoding", "").encode()}
    reply = shedder.enter(Request(method.encode(), b"", pairs, time.perf_counter(), **more))
    return reply and (reply.status, json.loads(reply.body)["error"], dict(reply.headers), reply.close)


def test_only_what_the_batcher_would_refuse_is_refused(warm_scorer: Scorer) -> None:
    telemetry = Telemetry(warm_scorer, {})
    batcher = Batcher(warm_scorer, limits=ServiceLimits(max_queue=2), metrics=telemetry.queue)
    shedder = shedder_of(batcher, telemetry=telemetry)

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))  # it knows how long a batch takes
        assert entered(shedder) is None
        await asyncio.sleep(0)
        async with held(batcher):
            waiting = [batcher.submit(Work([{}], 1, None)) for _ in range(2)]
            status, message, headers, close = entered(shedder)
            assert (status, message) == (503, "the queue is full: 2 queries wait")
            assert int(headers[b"retry-after"]) >= 1
            assert not close
            assert entered(shedder, "/health/ready") is None
            assert entered(shedder, method="GET") is None
            assert entered(shedder, x_deadline_ms="soon") is None  # explained when it is whole
        await asyncio.gather(*waiting)
        assert entered(shedder) is None

    run(batcher, test())
    text = telemetry.text().decode()
    assert 'tt_jax_requests_total{route="/v1/rank",status="503"} 1.0' in text
    assert 'tt_jax_shed_total{reason="full"} 1.0' in text


def test_who_has_no_token_is_not_told_of_the_queue(warm_scorer: Scorer) -> None:
    batcher, tokens = Batcher(warm_scorer, limits=ServiceLimits(max_queue=2)), Tokens.of("a-token-of-the-tests")
    shedder = shedder_of(batcher, tokens=tokens, open_paths=("/open",))

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            for path in (RANK, "/other"):
                status, message, headers, close = entered(shedder, path, authorization="Bearer another-token-of-them")
                assert (status, close) == (401, True)
                assert headers[b"www-authenticate"] == b'Bearer realm="tt-jax"'
                assert "Authorization: Bearer" in message
            for scheme in ("Bearer", "bearer", "BEARER"):  # those before have taken no place
                assert entered(shedder, "/other", authorization=f"{scheme} a-token-of-the-tests") is None
            assert entered(shedder, authorization="bearer a-token-of-the-tests") is None
            assert entered(shedder, authorization="bearer a-token-of-the-tests")[0] == 503
            assert entered(shedder)[0] == 401
            assert entered(shedder, "/open") is None
        await waiting

    run(batcher, test())


def test_a_compressed_body_is_refused(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    shedder = shedder_of(batcher)

    async def test() -> None:
        for path in (RANK, "/other"):
            for encoding in ("gzip", "GZIP", "br", "identity, gzip", "zstd"):
                status, message, headers, close = entered(shedder, path, content_encoding=encoding)
                assert (status, close, headers[b"accept-encoding"]) == (415, True, b"identity")
                assert message == f"Content-Encoding: expected a body that is not compressed, got {encoding}"
            assert entered(shedder, path, content_encoding="Identity") is None

    run(batcher, test())


LOCAL = "localhost localhost:8080 LocalHost 127.0.0.1:1 127.3.2.1 [::1]:8080 [::1] ads.localhost x localhost. mine.org"
OTHERS = "evil.example evil.example:8080 10.0.0.7 localhost.evil.example 127.0.0.1.evil.org [fe80::1]:80 0.0.0.0 a.b:x"


def test_the_names_of_a_listener_that_only_this_machine_reaches(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    shedder, open_shedder = (shedder_of(batcher, hosts=Hosts("mine.org", *more)) for more in ((), ("*",)))

    async def test() -> None:
        for path in (RANK, "/console/form", "/health/ready"):
            assert entered(shedder, path) is None  # no browser: they send one
            for host in LOCAL.split():
                assert entered(shedder, path, hosts=(host.encode(),)) is None
            for host in OTHERS.split():
                status, message, _, close = entered(shedder, path, hosts=(host.encode(),))
                assert (status, close) == (421, True)
                assert message == f"Host: {host} is not a name of this service; see --allowed-host"
                assert entered(shedder, path, hosts=(b"localhost", host.encode()))[0] == 421
                assert entered(open_shedder, path, hosts=(host.encode(),)) is None

    run(batcher, test())


def test_those_let_through_count_before_they_are_in_the_queue(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, limits=ServiceLimits(max_queue=4))
    shedder = shedder_of(batcher)

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert [entered(shedder) is None for _ in range(5)] == [True, True, True, False, False]
            await asyncio.sleep(0)  # in this turn they would have entered the queue
            assert entered(shedder) is None
        await waiting

    run(batcher, test())


def test_a_deadline_that_cannot_be_kept_is_refused_at_the_door(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    shedder = shedder_of(batcher)

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with held(batcher):
            waiting = batcher.submit(Work([{}], 1, None))
            assert "longer than the request allows" in entered(shedder, x_deadline_ms="0")[1]
        await waiting

    run(batcher, test())


def test_a_connection_goes_on_after_a_refusal(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, limits=ServiceLimits(max_queue=1))
    seen: list[Any] = []

    async def test() -> None:
        await batcher.submit(Work([{}], 1, None))
        async with connected(shedder_of(batcher, seen), Telemetry(warm_scorer, {})) as (reader, writer):
            async with held(batcher):
                waiting = batcher.submit(Work([{}], 1, None))
                writer.write(HEAD + b"1")
                await asyncio.sleep(0.05)
                writer.write(b"234" + HEAD + b"5678" + HEAD)  # one more, and the head of a third
                for _ in range(2):
                    assert (await answer(reader))[0] == 503
                await asyncio.sleep(0.05)
                writer.write(b"9012")
                assert (await answer(reader))[0] == 503
                assert not seen
            await waiting
            writer.write(HEAD.replace(RANK.encode(), b"/other") + b"3456")
            assert await answer(reader) == (200, b"3456")

    run(batcher, test())


def test_who_is_refused_by_its_head_gets_the_answer_and_no_more_is_read(warm_scorer: Scorer) -> None:
    """Before the body is there, or after it; and it is the last answer of its connection."""
    batcher = Batcher(warm_scorer)
    shedder = shedder_of(batcher, tokens=Tokens.of("a-token-of-the-tests"))
    secret = HEAD.replace(b"\r\n", b"\r\nAuthorization: Bearer a-token-of-the-tests\r\n", 1)

    async def test() -> None:
        async with listening(shedder, Telemetry(warm_scorer, {})) as site:
            for sent in (HEAD, HEAD + b"1234", HEAD + b"1234" + secret + b"5678", HEAD + b"1234" * 9):
                async with client_of(site) as (reader, writer):
                    writer.write(sent)
                    assert (await refusal(reader))[0] == 401
            async with client_of(site) as (reader, writer):
                writer.write(secret + b"1234" + HEAD + b"5678")
                assert (await answer(reader))[0] == 400  # the token is right, its body is not
                assert (await refusal(reader))[0] == 401

    run(batcher, test())


def test_a_token_in_a_trailer_counts_nowhere(warm_scorer: Scorer) -> None:
    batcher, seen = Batcher(warm_scorer), []
    shedder = shedder_of(batcher, seen, tokens=Tokens.of("a-token-of-the-tests"))
    authorization = b"Authorization: Bearer a-token-of-the-tests\r\n"
    upgrade = b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"

    async def test() -> None:
        async with listening(shedder, Telemetry(warm_scorer, {})) as site:
            for path in (RANK.encode(), b"/other"):
                for more in (b"\r\n", upgrade):
                    head = CHUNKED.replace(RANK.encode(), path).replace(b"\r\n", more, 1)
                    trailing = b"4\r\n1234\r\n0\r\n" + authorization + b"X-Request-Id: mine\r\n\r\n"
                    async with client_of(site) as (reader, writer):
                        writer.write(head + trailing)
                        assert (await refusal(reader))[0] == 401
                    async with client_of(site) as (reader, writer):
                        writer.write(2 * (head[:-2] + authorization + b"\r\n" + trailing))
                        for _ in range(2):
                            text = await whole(reader)
                            assert text[9:12] == (b"400" if path == RANK.encode() else b"200")
                            assert b"mine" not in text
        assert len(seen) == 4
        assert not any(b"mine" in value for scope in seen for _, value in scope["headers"])

    run(batcher, test())


def test_a_request_counts_from_when_it_came_not_from_when_it_was_read(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    seen: list[Any] = []

    async def test() -> None:
        async with connected(shedder_of(batcher, seen), Telemetry(warm_scorer, {})) as (reader, writer):
            writer.write(b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            time.sleep(0.2)  # the event loop does something else
            read_at = time.perf_counter()
            assert (await answer(reader))[0] == 200
        assert 0.1 < read_at - seen[0]["state"][STARTED] < 0.4

    run(batcher, test())


def test_the_headers_of_all_answers(warm_scorer: Scorer) -> None:
    """Of ads, of errors, of refusals; and what a browser asks before it asks."""
    batcher = Batcher(warm_scorer)
    shedder = shedder_of(batcher, origin="http://there", tokens=Tokens.of("a-token-of-the-tests"))
    token = b"\r\nAuthorization: Bearer a-token-of-the-tests\r\n"
    body = b'{"query": {}, "k": 3}'

    async def test() -> None:
        async with listening(shedder, Telemetry(warm_scorer, {})) as site:
            ranked = HEAD.replace(b"4", b"%d" % len(body)).replace(b"\r\n", token, 1) + body
            asked = b"OPTIONS /v1/rank HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: POST\r\n\r\n"
            sent = {200: ranked, 204: asked, 401: HEAD, 400: b"nonsense\r\n\r\n"}
            for status, request in sent.items():
                async with client_of(site) as (reader, writer):
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert int(head[9:12]) == status
                    for line in (b"access-control-allow-origin: http://there", b"date: ", b"x-request-id: "):
                        assert head.count(b"\r\n" + line) == 1
                    assert (b"access-control-allow-methods: GET, POST" in head) == (status == 204)

    run(batcher, test())


def test_nobody_ranks_for_a_client_of_the_door_that_left(warm_scorer: Scorer) -> None:
    telemetry = Telemetry(warm_scorer, {})
    batcher = Batcher(warm_scorer, metrics=telemetry.queue)
    body = b'{"query": {}}'

    async def test() -> None:
        async with listening(shedder_of(batcher, telemetry=telemetry), telemetry) as site:
            async with held(batcher):
                async with client_of(site) as (_, writer):
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
    request = HEAD.replace(b"4", b"%d" % len(body)) + body

    async def test() -> None:
        async with (
            listening(shedder_of(batcher), Telemetry(warm_scorer, {})) as site,
            client_of(site) as (reader, writer),
        ):
            async with held(batcher):
                writer.write(2 * request)
                await asyncio.sleep(0.05)
                draining = asyncio.create_task(site.drain(20.0))
                await asyncio.sleep(0.05)
            first, last = await whole(reader), await whole(reader)
            assert not await reader.read()
            await draining
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" not in first
        assert b"\r\nconnection: close\r\n" in last

    run(batcher, test())


def run(batcher: Batcher, test: Any) -> None:
    try:
        asyncio.run(test)
    finally:
        batcher.close()
