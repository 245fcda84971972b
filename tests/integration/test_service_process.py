"""The serving process: its address, its end, and clients that are slow, silent, gone, greedy or many.

All but the first test share one process; the last one ends it.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.routing.plan import Plan
from serving.scorer import Scorer
from serving.scorer_updates import Sources
from serving.service.config import ServiceConfig
from serving.service.run import run
from tests.support.service_calls import error_of, plain, post, some_queries
from tests.support.serving_process import ServingProcess, drip, get, head, rest, send_while_taken

pytestmark = pytest.mark.process

MAX_K, READ, UNREAD, KEEP_ALIVE, GRACE = 20, 2, 2, 3, 20  # s
CONSOLE = ("--console", "--console-beside=http://127.0.0.1:9", "--console-origin=http://127.0.0.1:10")
SLOWEST = 2.0  # s; an answer takes 2 ms, but the machine of a test may be busy
QUERY = some_queries(1, seed=4)[0]
MANY = json.dumps({"queries": [QUERY] * 64, "k": MAX_K}).encode()


def test_an_address_that_cannot_be_had_is_an_error(tiny_bundle: Path, tiny_index: Path) -> None:
    plan = Plan.alone(Sources(tiny_bundle, tiny_index))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            run(plan, ServiceConfig(port=port, max_k=1))
    with pytest.raises(ValueError, match="port: expected 0 to 65535, got 70000"):
        run(plan, ServiceConfig(port=70000))


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tiny_index: Path) -> Iterator[ServingProcess]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a thousand connections have two ends
    times = [f"--read-s={READ}", f"--unread-s={UNREAD}", f"--keep-alive-s={KEEP_ALIVE}", f"--grace-s={GRACE}"]
    server = ServingProcess(tiny_bundle, tiny_index, f"--max-k={MAX_K}", "--max-queue=4096", *times, *CONSOLE)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def expected(warm_scorer: Scorer) -> list[dict[str, Any]]:
    """The ads for QUERY, k = 5."""
    return plain(warm_scorer.top_k([QUERY], 5)[0])


@contextmanager
def nobody_else_suffers(server: ServingProcess, expected: list[dict[str, Any]]) -> Iterator[None]:
    """Another client asks all the time, and gets right answers in time."""
    over, answers, seconds = threading.Event(), [], []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not over.wait(0.01) or len(answers) < 4:
                start = time.perf_counter()
                answers.append(client.post("/v1/rank", json={"query": QUERY, "k": 5}))
                seconds.append(time.perf_counter() - start)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
    for answer in answers:
        assert answer.status_code == 200, answer.text
        found = answer.json()["ads"]
        assert [ad["id"] for ad in found] == [ad["id"] for ad in expected]
        assert [ad["score"] for ad in found] == pytest.approx([ad["score"] for ad in expected], rel=1e-5)
    assert len(answers) > 3
    assert max(seconds) < SLOWEST


def test_answers_over_a_real_connection(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/health/ready").status_code == 200
        assert post(client, {"query": QUERY, "k": 5})["ads"] == expected
        assert "k" in error_of(client.post("/v1/rank", content=b'{"query": {}, "k": 21}'), 400)


def test_the_console_by_its_flags(server: ServingProcess) -> None:
    page = httpx.get(f"{server.url}/console", timeout=60)
    assert page.status_code == 200
    assert "connect-src 'self' http://127.0.0.1:9;" in page.headers["content-security-policy"]
    assert page.headers["access-control-allow-origin"] == "http://127.0.0.1:10"
    gates = httpx.post(f"{server.url}/console/gates", content=b'{"query": {"age": 30}}', timeout=60).json()
    assert sum(gates["gates"]["click"]) == pytest.approx(1)
    assert httpx.get(f"{server.url}/console/state", timeout=60).json()["bundle"] == gates["bundle"]


def test_deadlines_of_requests(server: ServingProcess) -> None:
    ask = {"query": QUERY, "k": 5}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name in ("X-Deadline-Ms", "x-envoy-expected-rq-timeout-ms"):
            assert client.post("/v1/rank", json=ask, headers={name: "60000"}).status_code == 200
            assert "deadline" in error_of(client.post("/v1/rank", json=ask, headers={name: "0"}), 504)
            for bad in ("-1", "1.5", "soon", "", "9" * 10):
                assert name.lower() in error_of(client.post("/v1/rank", json=ask, headers={name: bad}), 400)


def test_who_sends_no_head_or_drips_one_is_hung_up_on(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    slow_head = b"POST /v1/rank HTTP/1.1\r\n" + b"X: y\r\n" * 100
    with nobody_else_suffers(server, expected), server.connect() as silent, server.connect() as later:
        assert get(later, "/health/live").startswith(b"HTTP/1.1 200")  # this connection was of use before
        assert READ < drip(later, slow_head) < READ + 5
        assert rest(silent) == b""


def test_a_body_that_drips_is_told_so(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    with nobody_else_suffers(server, expected), server.connect() as connection:
        connection.sendall(head(100) + b'{"query"')
        time.sleep(READ / 2)
        connection.sendall(b":")
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the body did not arrive within 2 s" in answer


def test_a_head_without_end_is_cut(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    with nobody_else_suffers(server, expected), server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert send_while_taken(connection, b"X: " + b"y" * 60_000 + b"\r\n", 2**28) < 2**25


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_is_not_read(server: ServingProcess, expected: list[dict[str, Any]], chunked: bool) -> None:
    size, block = 100 * 2**20, b" " * 2**16
    with nobody_else_suffers(server, expected), server.connect() as connection:
        if chunked:
            connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + block + b"\r\n"
        else:
            connection.sendall(head(size))
        assert send_while_taken(connection, block, size) < size / 4  # what the kernel buffers, and 1 MB
        assert rest(connection).startswith(b"HTTP/1.1 413")


def test_deep_and_large_json(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    with nobody_else_suffers(server, expected), httpx.Client(base_url=server.url, timeout=60) as client:
        for body in (b"[" * 10**6, b'{"query": {"user": ' + b"[" * 10**6, b'{"query": {"age": ' + b"9" * 10**6 + b"}}"):
            error_of(client.post("/v1/rank", content=body), 400)
        wide = json.dumps({"queries": [{"history": list(range(1000, 9000))}] * 20, "k": 3})
        assert client.post("/v1/rank", content=wide).status_code == 200


def test_an_idle_connection_is_closed_after_a_while(server: ServingProcess) -> None:
    with server.connect() as connection:
        get(connection, "/health/live")
        start = time.monotonic()
        assert rest(connection) == b""
        assert KEEP_ALIVE - 0.5 < time.monotonic() - start < KEEP_ALIVE + 5


def test_who_does_not_read_is_hung_up_on(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    with nobody_else_suffers(server, expected), server.connect() as greedy:
        greedy.settimeout(60)
        # First the kernel's buffers fill, then the service stops reading, then it has waited long enough.
        assert send_while_taken(greedy, head(len(MANY)) + MANY, 2**30) < 2**28


def test_a_thousand_idle_connections(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    idle: list[socket.socket] = []
    try:
        with nobody_else_suffers(server, expected):
            for _ in range(1000):
                idle.append(server.connect())
                assert get(idle[-1], "/health/live").startswith(b"HTTP/1.1 200")
            time.sleep(0.3)
    finally:
        for connection in idle:
            connection.close()


def test_nobody_ranks_for_clients_that_left(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    gone, ranked = 'tt_jax_shed_total{reason="gone"}', "tt_jax_batch_queries_sum"
    gone_before, ranked_before = server.metric(gone), server.metric(ranked)
    leaving = [server.connect() for _ in range(60)]
    for connection in leaving:
        connection.sendall(head(len(MANY)) + MANY)
    for connection in leaving:
        connection.close()
    with nobody_else_suffers(server, expected):
        pass
    assert server.metric(gone) > gone_before
    assert server.metric(ranked) - ranked_before < 60 * 64


def test_sigterm_with_a_full_queue(server: ServingProcess, expected: list[dict[str, Any]]) -> None:
    """What was admitted is answered, also what is still being sent; nothing new is; the process ends in time."""
    waiting = [server.connect() for _ in range(60)]
    watch, slow = server.connect(), server.connect()
    assert get(watch, "/health/ready").startswith(b"HTTP/1.1 200")
    body = json.dumps({"query": QUERY, "k": 5}).encode()
    slow.sendall(head(len(body)) + body[:5])
    for connection in waiting:
        connection.sendall(head(len(MANY)) + MANY)
    start = time.monotonic()
    while (queued := server.metric("tt_jax_queue_queries")) < 512:
        assert time.monotonic() - start < 10
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    slow.sendall(body[5:])
    while server.listens():
        assert time.monotonic() - start < 10
        time.sleep(0.01)
    assert get(watch, "/health/ready")[:12] in (b"HTTP/1.1 503", b"")  # or closed already
    answer = rest(slow)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert [ad["id"] for ad in json.loads(answer.partition(b"\r\n\r\n")[2])["ads"]] == [ad["id"] for ad in expected]
    statuses = Counter(rest(connection)[:12] for connection in waiting)
    assert set(statuses) <= {b"HTTP/1.1 200", b""}  # or closed before the request was read
    assert statuses[b"HTTP/1.1 200"] * 64 >= queued
    for connection in (watch, slow, *waiting):
        connection.close()
    out, err = server.process.communicate(timeout=60)
    assert (server.process.returncode, out) == (0, "")
    events = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert re.fullmatch(r"INFO drain connections=\d+", events[-2])
    assert events[-1] == "INFO stopped code=0"
    assert not [event for event in events if event.startswith("ERROR")]
    assert time.monotonic() - start < GRACE
