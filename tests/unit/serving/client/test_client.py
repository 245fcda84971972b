"""The client, of threads and of asyncio: against the real service, and against one that fails in every way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.client import (
    AsyncClient,
    Client,
    DeadlinePassedError,
    NoAnswerError,
    Ranked,
    Retries,
    ServiceError,
)
from serving.scorer import ScoredAd, Scorer
from serving.service.app import create_app
from tests.support.paths import ROOT
from tests.support.service_calls import running, some_queries

ANSWER = b'{"ads": [{"id": 7, "score": 0.5, "probabilities": {"click": 0.25}}], "bundle": "b", "index": "i"}'
QUICK = Retries(attempts=3, first_wait_s=0.001, longest_wait_s=0.002)
Handler = Callable[[httpx.Request], httpx.Response]


def busy(seconds: str | None = None, status: int = 503) -> httpx.Response:
    headers = {} if seconds is None else {"retry-after": seconds}
    return httpx.Response(status, headers=headers, json={"error": "too busy"})


class Scripted:
    """A service that answers, or fails, by a list; its last item stays. Remembers the requests."""

    def __init__(self, *script: httpx.Response | Exception) -> None:
        self.script, self.seen = list(script), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        item = self.script[min(len(self.seen), len(self.script)) - 1]
        if isinstance(item, Exception):
            raise item
        return httpx.Response(item.status_code, headers=item.headers, content=item.content)


@pytest.fixture(params=["threads", "asyncio"])
def call(request: pytest.FixtureRequest) -> Callable[..., Ranked]:
    """One call of a client of either kind, whose service is a function."""

    def run(service: Handler, **settings: Any) -> Ranked:
        settings = {"retries": QUICK, "transport": httpx.MockTransport(service), **settings}
        if request.param == "threads":
            with Client("http://s", **settings) as client:
                return client.rank({"age": 3.0}, k=2)

        async def asynchronously() -> Ranked:
            async with AsyncClient("http://s", **settings) as client:
                return await client.rank({"age": 3.0}, k=2)

        return asyncio.run(asynchronously())

    return run


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Path, tiny_index: Path) -> Scorer:
    return Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)


@pytest.fixture(scope="module")
def address(scorer: Scorer) -> Iterator[str]:
    with running(create_app(scorer)) as (host, port):
        yield f"http://{host}:{port}"


def test_answers_are_the_scorers(address: str, scorer: Scorer) -> None:
    queries = some_queries(3, seed=21)
    ids = [ad.id for ad in scorer.top_k([queries[0]], 10)[0]]

    async def asynchronously() -> tuple[Ranked, list[Ranked]]:
        async with AsyncClient(address, deadline_s=60) as client:
            one = asyncio.gather(*(client.rank(queries[0], k=5, model="tiny") for _ in range(8)))
            return (await one)[-1], await client.rank_several(queries, 4, [ids, ids[:1], []])

    with Client(address, deadline_s=60) as client:
        found = client.rank(queries[0], k=5), client.rank_several(queries, 4, [ids, ids[:1], []], model="tiny")
        with pytest.raises(ServiceError, match="400: model: expected one of 'tiny', got 'moon'"):
            client.rank(queries[0], model="moon")
    for one, several in (found, asyncio.run(asynchronously())):
        _close([one], scorer.top_k([queries[0]], 5))
        _close(several, scorer.top_k(queries, 4, [ids, ids[:1], []]))
        assert {(r.bundle, r.index) for r in (one, *several)} == {(scorer.fingerprint, scorer.index_id)}


def _close(found: list[Ranked], expected: list[list[ScoredAd]]) -> None:
    """The same ads, and their numbers up to the rounding of batches of other sizes."""
    assert [[ad.id for ad in r.ads] for r in found] == [[ad.id for ad in ads] for ads in expected]
    for ad, wanted in zip((ad for r in found for ad in r.ads), (ad for ads in expected for ad in ads), strict=True):
        assert ad.score == pytest.approx(wanted.score, rel=1e-5)
        assert ad.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)


def test_what_the_service_refuses_is_told(address: str) -> None:
    with Client(address, deadline_s=60) as client:
        with pytest.raises(ServiceError, match="400: query 0: feature 'age': expected a number, got 'old'") as e:
            client.rank({"age": "old"})
        assert e.value.status == 400
        assert client.rank({}, k=1).ads  # the connection is still good


def test_what_may_pass_is_sent_again(call: Callable[..., Ranked]) -> None:
    refused, reset = httpx.ConnectError("refused"), httpx.RemoteProtocolError("closed without an answer")
    for problem in (busy("0"), busy(), busy("0", 429), refused, reset, httpx.ReadError("reset")):
        service = Scripted(problem, problem, httpx.Response(200, content=ANSWER))
        assert call(service).ads[0].id == 7
        assert len(service.seen) == 3
        assert {r.content for r in service.seen} == {b'{"query":{"age":3.0},"k":2}'}
        left = [int(r.headers["x-deadline-ms"]) for r in service.seen]
        assert 1000 >= left[0] >= left[1] >= left[2] > 0


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 502])
def test_what_will_not_pass_is_not_sent_again(call: Callable[..., Ranked], status: int) -> None:
    service = Scripted(httpx.Response(status, content=b"<html>\n no"), httpx.Response(200, content=ANSWER))
    with pytest.raises(ServiceError, match=f"{status}: <html> no"):
        call(service)
    assert len(service.seen) == 1


def test_attempts_end(call: Callable[..., Ranked]) -> None:
    service = Scripted(busy("0"))
    with pytest.raises(ServiceError, match="503: too busy"):
        call(service)
    assert len(service.seen) == 3
    service = Scripted(httpx.ConnectError("refused"))
    with pytest.raises(NoAnswerError, match="no answer: ConnectError: refused"):
        call(service)
    assert len(service.seen) == 3
    with pytest.raises(ServiceError, match="200: not an answer of this service"):
        call(Scripted(httpx.Response(200, content=b"{}")))
    with pytest.raises(DeadlinePassedError, match="the deadline of the request passed"):
        call(Scripted(httpx.Response(504, json={"error": "the deadline of the request passed"})))


def test_retry_after_is_honoured_if_the_deadline_allows(call: Callable[..., Ranked]) -> None:
    times: list[float] = []

    def service(_: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        return busy("1") if len(times) == 1 else httpx.Response(200, content=ANSWER)

    assert call(service, deadline_s=30).index == "i"
    assert times[1] - times[0] >= 1
    patient = Scripted(busy("3600"))
    start = time.monotonic()
    with pytest.raises(ServiceError, match="503"):
        call(patient, deadline_s=30)  # at once: waiting would be in vain
    assert time.monotonic() - start < 10
    assert len(patient.seen) == 1


def test_the_deadline_holds_against_a_service_that_does_not_answer() -> None:
    with Silence() as address:
        start = time.monotonic()
        with (
            Client(address) as client,
            pytest.raises(DeadlinePassedError, match=r"no answer within 0\.2 s; before: TimeoutError"),
        ):
            client.rank({}, deadline_s=0.2)

        async def asynchronously() -> None:
            async with AsyncClient(address) as client:
                await client.rank({}, deadline_s=0.2)

        with pytest.raises(DeadlinePassedError, match=r"no answer within 0\.2 s; before: TimeoutError"):
            asyncio.run(asynchronously())
        assert 0.4 <= time.monotonic() - start < 5


class Silence:
    """A port that takes connections and never answers."""

    def __enter__(self) -> str:
        self.socket = socket.create_server(("127.0.0.1", 0))
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Dripping(Silence):
    """A server that says `start` and then, without an end, a byte every 20 ms."""

    def __init__(self, start: bytes) -> None:
        self.start, self.over = start, threading.Event()

    def __enter__(self) -> str:
        self.thread = threading.Thread(target=self.drip)
        address = super().__enter__()
        self.thread.start()
        return address

    def drip(self) -> None:
        connection, _ = self.socket.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(self.start)
            while not self.over.wait(0.02):
                connection.sendall(b"1")

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        super().__exit__()


@pytest.mark.parametrize("of", ["head", "body"])
@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_the_deadline_holds_against_a_service_that_drips(kind: str, of: str) -> None:
    start = b"HTTP/1.1 200 OK\r\n" + (b"x: " if of == "head" else b"content-length: 1000000\r\n\r\n")
    with Dripping(start) as address:
        started = time.monotonic()

        async def asynchronously() -> None:
            async with AsyncClient(address) as client:
                await client.rank({}, deadline_s=0.3)

        def in_a_thread() -> None:
            with Client(address) as client:
                client.rank({}, deadline_s=0.3)

        with pytest.raises(DeadlinePassedError, match=r"no answer within 0\.3 s; before: TimeoutError"):
            in_a_thread() if kind == "threads" else asyncio.run(asynchronously())
        assert 0.3 <= time.monotonic() - started < 3  # the server goes on


def test_the_addresses_of_a_name_share_the_deadline(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one refuses, the second one is the service."""
    port = int(address.rpartition(":")[2])
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: both if host == b"ads" else real(host, *a, **k))
    with Client(f"http://ads:{port}", deadline_s=60) as client:
        assert client.rank({}, k=1).ads


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "serving client"]


def test_a_client_of_threads_has_a_thread_from_its_first_call_to_its_end() -> None:
    transport = httpx.MockTransport(Scripted(httpx.Response(200, content=ANSWER)))
    client = Client("http://s", transport=transport)
    assert not _threads()
    with ThreadPoolExecutor(8) as pool:
        assert {call.result().index for call in [pool.submit(client.rank, {}) for _ in range(100)]} == {"i"}
    assert len(_threads()) == 1
    client.close()
    client.close()
    assert not _threads()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.rank({})
    forgotten = Client("http://s", transport=transport)
    forgotten.rank({})
    del forgotten
    gc.collect()
    assert not _threads()


def test_calls_in_flight_end_with_their_client() -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            begun.set()
            await asyncio.sleep(60)
            raise AssertionError

    begun, client = threading.Event(), Client("http://s", deadline_s=60, transport=Silent())
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client.rank, {}) for _ in range(4)]
        assert begun.wait(10)
        client.close()
        for call in calls:
            with pytest.raises(RuntimeError, match="the client is closed"):
                call.result(10)


@pytest.mark.parametrize("answer", [busy("9" * 400), busy("9" * 5000), httpx.ReadError("reset")])
def test_what_a_proxy_says_is_no_error_of_its_own(call: Callable[..., Ranked], answer: Any) -> None:
    assert call(Scripted(answer, httpx.Response(200, content=ANSWER))).index == "i"


def test_an_answer_that_cannot_be_decoded_is_none(call: Callable[..., Ranked]) -> None:
    with pytest.raises(NoAnswerError, match="DecodingError"):
        call(lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip")))


def test_retries_are_a_share_of_the_requests() -> None:
    service = Scripted(busy("0"))
    retries = Retries(attempts=5, first_wait_s=0, longest_wait_s=0, budget=0.1, burst=4)
    with Client("http://s", retries=retries, transport=httpx.MockTransport(service)) as client:
        for _ in range(100):
            with pytest.raises(ServiceError):
                client.rank({})
    assert 100 + 4 <= len(service.seen) <= 100 + 4 + 10


def test_a_token_is_sent(call: Callable[..., Ranked]) -> None:
    service = Scripted(httpx.Response(200, content=ANSWER))
    call(service, token="s3cret")
    call(service)
    assert [r.headers.get("authorization") for r in service.seen] == ["Bearer s3cret", None]


def test_settings_that_make_no_sense() -> None:
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="deadline_s: expected a number of seconds above 0"):
            Client("http://s", deadline_s=seconds)
    with Client("http://s") as client, pytest.raises(ValueError, match="deadline_s"):
        client.rank({}, deadline_s=0)
    with pytest.raises(ValueError, match="attempts >= 1"):
        Retries(attempts=0)
    with pytest.raises(ValueError, match="nothing below 0"):
        Retries(budget=-1)


def test_the_client_needs_no_jax() -> None:
    code = "import sys, serving.client; print(sorted({'jax', 'numpy', 'litestar'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout == "[]\n"
