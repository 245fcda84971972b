"""HTTP/1.1 on a listener, byte by byte: what a request is, however it is sent, and who is refused or hung up on."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from serving.http.listener import Listener
from serving.http.protocol import Headers, Reply, Request
from serving.limits import ServiceLimits
from serving.scorer import Scorer
from serving.service.telemetry import Telemetry
from tests.support.raw_client import answer, client_of, connected, listening, refusal, whole

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"  # a body that is a request of its own
WISHES = (
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"connection: keep-alive, upgrade, HTTP2-Settings\r\nUPGRADE: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: upgrade\r\nUpgrade: a/1, b/2\r\nUpgrade: c\r\n",
    b"Upgrade: TLS/1.0\r\n",
)


class Echo:
    """Answers with what it was asked: method, path and body."""

    headers: Headers = ()

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def enter(self, request: Request) -> Reply | None:
        return Reply(503, (), b"no") if request.path == "/full" else None

    def answer(self, request: Request, send: Callable[[Reply], None]) -> None:
        self.asked.append(request)
        body = bytes(request.body)
        reply = Reply(200, (), request.method + b" " + request.path.encode() + b" " + body)
        if request.path == "/slow":
            asyncio.get_running_loop().call_later(0.05, send, reply)
        else:
            send(reply)


def sized(body: bytes, more: bytes = b"", path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, more, len(body), body)


def chunked(body: bytes, more: bytes = b"", path: bytes = b"/", trailer: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (path, more)
    return head + b"".join(b"1\r\n%b\r\n" % body[i : i + 1] for i in range(len(body))) + b"0\r\n" + trailer + b"\r\n"


@pytest.fixture
def telemetry(warm_scorer: Scorer) -> Telemetry:
    return Telemetry(warm_scorer, {})


def refused(telemetry: Telemetry) -> dict[str, float]:
    """How many, by reason."""
    found = re.findall(r'tt_jax_clients_refused_total\{.*reason="(\w+)"\} (\S+)', telemetry.text().decode())
    return {reason: float(count) for reason, count in found}


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("wish", WISHES)
def test_a_request_that_asks_for_another_protocol_is_answered_as_any(
    telemetry: Telemetry, wish: bytes, size: int
) -> None:
    """In pieces of any size, several in a row, with and without a body, which is never taken for a request."""
    get = b"GET /get HTTP/1.1\r\nHost: x\r\n%b\r\n" % wish
    trailer = b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Encoding: gzip\r\n"
    slow = sized(HIDDEN, wish, b"/slow")
    requests = (sized(HIDDEN, wish), get, chunked(HIDDEN, wish, trailer=trailer), slow, sized(b"", wish), HIDDEN)

    async def test() -> None:
        echo, sent = Echo(), b"".join(requests)
        async with connected(echo, telemetry) as (reader, writer):
            for at in range(0, len(sent), size):
                writer.write(sent[at : at + size])
                await asyncio.sleep(0)
            answers = [await answer(reader) for _ in requests]
            writer.write(sized(b"last"))
            answers.append(await answer(reader))
        bodies = [b"POST / " + HIDDEN, b"GET /get ", b"POST / " + HIDDEN, b"POST /slow " + HIDDEN, b"POST / "]
        assert answers == [(200, body) for body in (*bodies, b"GET /hidden ", b"POST / last")]
        assert not any(name == b"upgrade" and b"h2c" in value for name, value in echo.asked[-1].headers)

    asyncio.run(test())


@pytest.mark.parametrize("wish", [b"", *WISHES])
def test_expect_with_a_body_that_comes_later(telemetry: Telemetry, wish: bytes) -> None:
    expect = b"Expect: 100-continue\r\n" + wish

    async def test() -> None:
        async with connected(Echo(), telemetry) as (reader, writer):
            for sent in (sized(HIDDEN, expect), chunked(HIDDEN, expect), sized(HIDDEN, expect, b"/slow")):
                head, _, body = sent.partition(b"\r\n\r\n")
                writer.write(head + b"\r\n\r\n")
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(body)
                assert (await answer(reader))[1].endswith(HIDDEN)
            writer.write(sized(b"1", path=b"/slow") + sized(b"", expect))  # its turn comes later
            assert [await answer(reader) for _ in range(2)] == [(200, b"POST /slow 1"), (200, b"POST / ")]
            writer.write(sized(b"12", expect, b"/full")[:-2])
            await asyncio.sleep(0.05)
            writer.write(b"12")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")  # without 100 before it

    asyncio.run(test())


MALFORMED = {
    "connect": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "no proxy"),
    "connect with a body": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n123", 405, "no proxy"),
    "connect to upgrade": (b"CONNECT / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 405, "no proxy"),
    "a target that is none": (b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", 400, "target"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "Host: expected one"),
    "another coding": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
        "Transfer-Encoding",
    ),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", 400, "not HTTP/1.1"),
    "length and chunks": (chunked(b"1", b"Content-Length: 1\r\n"), 400, "not HTTP/1.1"),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not HTTP/1.1"),
    "nonsense": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not HTTP/1.1"),
    "a long head": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431, "65536 bytes"),
    "a long trailer": (chunked(b"1", trailer=b"X: " + b"y" * 10**6), 431, "65536 bytes"),
    "a long body": (sized(b" " * (2**20 + 1)), 413, "at most 1048576 bytes"),
    "a long body in chunks": (chunked(b"")[:-5] + b"%x\r\n" % 2**21 + b" " * 2**21, 413, "at most 1048576 bytes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_ends_the_connection(telemetry: Telemetry, name: str) -> None:
    """With an answer that says why, after those to the requests before, and nothing after it is taken for one."""
    sent, status, message = MALFORMED[name]

    async def test() -> None:
        for before in (0, 2):
            echo = Echo()
            async with connected(echo, telemetry) as (reader, writer):
                writer.write(before * sized(b"1", path=b"/slow") + sent + HIDDEN)
                for _ in range(before):
                    assert await answer(reader) == (200, b"POST /slow 1")
                found = await refusal(reader)
                assert found[0] == status
                assert message in found[1]
            assert len(echo.asked) == before

    asyncio.run(test())


def test_ids_of_requests(telemetry: Telemetry) -> None:
    """Of the client, where no log could misread them; else made, each another."""
    kept = (b"7", b"a/b+c=", b"4bf92f3577b34da6a3ce929d0e0e4736", b"x" * 128)
    bad = (b"", b"a b", b'"', b"x" * 129, b"\xc3\xa9", b"a\tb", b"{}", b"a;b", b"%0d%0aX: y")

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, more: bytes) -> bytes:
        writer.write(sized(b"", more))
        (found,) = re.findall(rb"\r\nx-request-id: (.*)\r\n", await whole(reader))
        return found

    async def test() -> None:
        echo = Echo()
        async with connected(echo, telemetry) as streams:
            for given in kept:
                assert await ask(*streams, b"x-REQUEST-id: %b\r\n" % given) == given
            made = [await ask(*streams, b"X-Request-Id: %b\r\n" % given) for given in bad]
            made += [await ask(*streams, b""), await ask(*streams, b"X-Request-Id: 1\r\nX-Request-Id: 2\r\n")]
            streams[1].write(b"CONNECT x:1 HTTP/1.1\r\nX-Request-Id: mine\r\n\r\n")
            assert b" 405 Method Not Allowed\r\n" in (refused := await whole(streams[0]))
            assert b"\r\nx-request-id: mine\r\n" in refused
        assert all(re.fullmatch(rb"[0-9a-f]{16}", found) for found in made)
        assert len(set(made)) == len(made)
        assert [request.id for request in echo.asked] == [*kept, *made]

    asyncio.run(test())


def test_the_access_log(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A line an answer, in which a client can place nothing but what stands in its field."""
    caplog.set_level("INFO", "serving")
    path = b"/a%0Ab%22%20status=1?secret"

    async def test() -> None:
        for access_log in (False, True):
            async with connected(Echo(), telemetry, access_log=access_log) as (reader, writer):
                writer.write(sized(b"12345", b"X-Request-Id: mine\r\n", path) + b"nonsense\r\n\r\n")
                await answer(reader)
                await refusal(reader)

    asyncio.run(test())
    lines = [record.__dict__["fields"] for record in caplog.records if record.__dict__.get("event") == "access"]
    assert [(line["method"], line["status"]) for line in lines] == [("POST", 200), ("-", 400)]
    assert (lines[0]["path"], lines[0]["request_id"], lines[0]["listener"]) == ('/a\nb" status=1', "mine", "tests")
    assert 0 <= lines[0]["ms"] < 60_000
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert "secret" not in caplog.text


QUICK: dict[str, Any] = {"read": 0.3, "unread": 0.3, "keep_alive": 1}


def test_silent_and_slow_clients_are_hung_up_on(telemetry: Telemetry) -> None:
    async def test() -> None:
        async with listening(Echo(), telemetry, ServiceLimits(**QUICK)) as site:
            for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nX: ", sized(b"1") + b"GET"):
                async with client_of(site) as (reader, writer):
                    writer.write(sent)
                    if sent.startswith(b"POST"):
                        await answer(reader)
                    assert not await _rest(reader)
            for sent in (sized(b"123")[:-1], chunked(b"123")[:-2], sized(b"1", WISHES[0])[:-1]):
                async with client_of(site) as (reader, writer):
                    writer.write(sent)
                    assert await refusal(reader) == (408, "the body did not arrive within 0.3 s")
            async with client_of(site) as (reader, writer):
                writer.write(sized(b"1"))
                await answer(reader)
                assert not await _rest(reader)  # idle
            async with client_of(site) as (reader, writer):
                with pytest.raises(ConnectionError):  # it does not read its answers
                    await _send_again_and_again(writer, sized(b"x" * 2**20))
            assert not site.connections

    asyncio.run(test())
    assert refused(telemetry) == {"silent": 4, "body": 3, "unread": 1}


def test_connections_are_bounded(telemetry: Telemetry) -> None:
    async def test() -> None:
        async with listening(Echo(), telemetry, max_connections=2) as site:
            async with client_of(site), client_of(site) as (reader, writer):
                for _ in range(3):
                    async with client_of(site) as (refused_reader, refused_writer):
                        refused_writer.write(sized(b"1"))
                        assert await refusal(refused_reader) == (503, "too many connections")
                writer.write(sized(b"1"))
                assert (await answer(reader))[0] == 200
                assert 'tt_jax_connections{listener="tests"} 2.0' in telemetry.text().decode()
            await asyncio.sleep(0.05)
            async with client_of(site) as (reader, writer):
                writer.write(sized(b"1"))
                assert (await answer(reader))[0] == 200

    asyncio.run(test())
    assert refused(telemetry) == {"connections": 3}


def test_the_bytes_of_unfinished_bodies_are_bounded(telemetry: Telemetry) -> None:
    """Of all together; small bodies always find room, and what was held is given back however a request ends."""
    big = sized(b"x" * 200_000)

    async def test() -> None:
        async with AsyncExitStack() as stack:
            site = await stack.enter_async_context(
                listening(Echo(), telemetry, ServiceLimits(max_bodies=500_000, read=2.0))
            )
            a, b, c = [await stack.enter_async_context(client_of(site)) for _ in range(3)]
            for _, writer in (a, b):
                writer.write(big[:-1])
            await _until(lambda: site._held > 360_000)
            c[1].write(big)
            assert await refusal(c[0]) == (503, "too many bytes of unfinished requests")
            async with client_of(site) as (reader, writer):
                writer.write(sized(b"x" * 16_000))
                assert (await answer(reader))[0] == 200
            a[1].write(big[-1:])
            assert (await answer(a[0]))[0] == 200
            b[1].close()  # it leaves
            await _until(lambda: site._held == 0)
            a[1].write(2 * chunked(b"y" * 40_000))
            assert [len((await answer(a[0]))[1]) for _ in range(2)] == 2 * [40_007]
            a[1].write(big[:-1])
            assert (await refusal(a[0]))[0] == 408
            assert site._held == 0

    asyncio.run(test())
    assert refused(telemetry) == {"bodies": 1, "body": 1}


async def _send_again_and_again(writer: asyncio.StreamWriter, sent: bytes) -> None:
    async with asyncio.timeout(60):
        for _ in range(1000):
            writer.write(sent)
            await writer.drain()


class Greedy:
    """In place of a connection."""

    def __init__(self, ended: list[str], name: str, unread: int, since: float) -> None:
        self.unread, self.unread_since, self._end = unread, since, functools.partial(ended.append, name)

    def hang_up(self, reason: str) -> None:
        assert reason == "unread"
        self._end()


def test_the_bytes_of_answers_that_nobody_takes_are_bounded(telemetry: Telemetry) -> None:
    """Who has not taken them for longest is hung up on, until the others fit; who takes them is not."""
    site = Listener("tests", Echo(), telemetry.clients, ServiceLimits(max_bodies=100), max_body=1, max_connections=10)
    ended: list[str] = []
    for name, unread, since in (("old", 60, 1.0), ("older", 60, 0.5), ("new", 90, 3.0), ("none", 0, math.inf)):
        greedy: Any = Greedy(ended, name, unread, since)
        site.connections.add(greedy)
    site._bound_unread()
    assert ended == ["older", "old"]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:
        return b""


def test_many_answers_in_a_row_that_are_there_at_once(telemetry: Telemetry) -> None:
    """However many requests come in one piece, and wish for another protocol."""
    one = b"GET / HTTP/1.1\r\n" + WISHES[0] + b"\r\n"

    async def test() -> None:
        async with connected(Echo(), telemetry) as (reader, writer):
            writer.write(3000 * one)
            for _ in range(3000):
                assert await answer(reader) == (200, b"GET / ")

    asyncio.run(test())


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("last", [b"HTTP/1.0", b"HTTP/1.1\r\nConnection: close", b"HTTP/1.0\r\nConnection: keep-alive"])
def test_nothing_after_the_last_request_is_read(telemetry: Telemetry, last: bytes, wish: bytes) -> None:
    async def test() -> None:
        for asked in (sized(HIDDEN, wish), sized(HIDDEN)):
            echo = Echo()
            async with connected(echo, telemetry) as (reader, writer):
                writer.write(sized(b"1") + asked.replace(b"HTTP/1.1", last, 1) + HIDDEN)
                assert await answer(reader) == (200, b"POST / 1")
                assert await answer(reader) == (200, b"POST / " + HIDDEN)
                assert not await _rest(reader)
            assert len(echo.asked) == 2

    asyncio.run(test())


def test_a_head_is_answered_without_a_body(telemetry: Telemetry) -> None:
    async def test() -> None:
        async with connected(Echo(), telemetry) as (reader, writer):
            writer.write(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n" + sized(b"1"))
            assert b"content-length: 8\r\n" in await reader.readuntil(b"\r\n\r\n")
            assert await answer(reader) == (200, b"POST / 1")
            writer.write(b"GET /old HTTP/1.0\r\n\r\n")
            assert json.dumps((await whole(reader)).decode()).endswith('GET /old "')
            assert not await _rest(reader)

    asyncio.run(test())
