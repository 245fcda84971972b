"""How much a head may hold, and what of it counts: white space, versions, addresses, requests that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from serving.http.protocol import Headers, Reply, Request
from serving.limits import ServiceLimits
from serving.scorer import Scorer
from serving.service.telemetry import Telemetry
from tests.support.raw_client import answer, client_of, connected, listening, refusal, whole


class Echo:
    """Notes what it is asked. It answers `/held` later."""

    headers: Headers = ()

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.release = lambda: None

    def enter(self, request: Request) -> Reply | None:
        return None

    def answer(self, request: Request, send: Callable[[Reply], None]) -> None:
        self.asked.append(request)
        reply = Reply(200, (), bytes(request.body))
        if request.path == "/held":
            self.release = partial(send, reply)
        else:
            send(reply)


@pytest.fixture
def telemetry(warm_scorer: Scorer) -> Telemetry:
    return Telemetry(warm_scorer, {})


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n%b\r\n1\r\n1\r\n0\r\n%b\r\n"
REFUSED = {
    "a head that comes at once": (b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"y" * 66_000), 431),
    "a target that comes at once": (b"GET /%b HTTP/1.1\r\n\r\n" % (b"y" * 66_000), 431),
    "many short fields": (b"GET / HTTP/1.1\r\n%b\r\n" % (b"ab:\r\n" * 257), 431),
    "many short trailers": (CHUNKED % (b"", b"ab:\r\n" * 257), 431),
    "many of both, to upgrade": (CHUNKED % (b"Upgrade: x\r\nConnection: Upgrade\r\n", b"ab:\r\n" * 255), 431),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_is_too_much_or_of_another_version_is_refused(telemetry: Telemetry, name: str) -> None:
    sent, status = REFUSED[name]

    async def test() -> None:
        echo = Echo()
        async with connected(echo, telemetry) as (reader, writer):
            writer.write(sent)
            assert (await refusal(reader))[0] == status
        assert not echo.asked

    asyncio.run(test())


def test_white_space_around_a_value_does_not_count(telemetry: Telemetry) -> None:
    fields = b"Host: \t x \t\r\nX-Request-Id:mine \r\nContent-Encoding: identity\t\r\nTransfer-Encoding: chunked \r\n"

    async def test() -> None:
        echo = Echo()
        async with connected(echo, telemetry) as (reader, writer):
            for more in (b"", b"Upgrade: x \r\nConnection: Upgrade \r\n"):
                writer.write(CHUNKED % (fields.split(b"Transfer")[0] + more, b""))
                writer.write((CHUNKED % (b"", b"")).replace(b"chunked", b"chunked "))
                assert [(await answer(reader))[0] for _ in range(2)] == [200, 200]
        for request in echo.asked[::2]:
            assert (request.hosts, request.id, request.encoding) == ((b"x",), b"mine", b"identity")
        expects = b"POST / HTTP/1.1\r\nExpect: 100-continue \r\nContent-Length: 1 \r\n\r\n"
        async with connected(echo, telemetry) as (reader, writer):
            writer.write(expects)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"1")
            assert await answer(reader) == (200, b"1")
        async with connected(echo, telemetry) as (reader, writer):
            writer.write(expects.replace(b"1.1", b"1.0") + b"1")
            assert b" 200 " in (await reader.readline())  # HTTP/1.0 knows no 100

    asyncio.run(test())


def test_the_host_of_a_whole_url(telemetry: Telemetry) -> None:
    async def test() -> None:
        echo = Echo()
        async with connected(echo, telemetry) as (reader, writer):
            for host in (b"[::1]", b"localhost", b"127.0.0.1"):
                writer.write(b"GET http://%b:80/a HTTP/1.1\r\nHost: x\r\n\r\n" % host)
                await whole(reader)
                assert echo.asked[-1].hosts == (host, b"x")

    asyncio.run(test())


def test_requests_that_wait_for_others_are_bounded(telemetry: Telemetry) -> None:
    """However many come at once; what they counted is given back."""
    get = b"GET /%b HTTP/1.1\r\n\r\n"

    async def test() -> None:
        echo = Echo()
        async with (
            listening(echo, telemetry, ServiceLimits(max_bodies=50_000)) as site,
            client_of(site) as (reader, writer),
        ):
            writer.write(1000 * (get % b""))  # each is answered as it comes
            assert [(await answer(reader))[0] for _ in range(1000)] == 1000 * [200]
            writer.write(get % b"held" + 1000 * (get % b""))
            await _until(lambda: b'reason="bodies"} 1.0' in telemetry.text())
            assert site._held == 48 * 1024
            echo.release()
            assert [(await answer(reader))[0] for _ in range(49)] == 49 * [200]
            assert await refusal(reader) == (503, "too many bytes of unfinished requests")
            assert site._held == 0

    asyncio.run(test())


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)
