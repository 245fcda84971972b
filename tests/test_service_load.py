"""The serving process against clients that are slow, silent, gone, greedy or many: nobody else suffers."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serving.scorer import Scorer
from tests.service_calls import error_of, plain, some_queries

MAX_K, MAX_QUEUE, READ, UNREAD, GRACE = 20, 4096, 1.0, 2.0, 20.0
LONGEST = 1.0  # s; an answer takes 1 ms, but the machine of a test may be busy
QUERY = some_queries(1, seed=4)[0]


class Server:
    """The process."""

    def __init__(self, bundle: Path, index: Path) -> None:
        paths = [f"--bundle={bundle}", f"--index={index}"]
        limits = [f"--max-k={MAX_K}", f"--max-queue={MAX_QUEUE}", f"--read-s={READ}", f"--unread-s={UNREAD}"]
        command = [sys.executable, "-W", "error", "-m", "tt_jax", "serve", *paths, *limits]
        self.process = subprocess.Popen(
            [*command, "--port=0", "--keep-alive-s=3", f"--grace-s={GRACE}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        address = re.match(r"serving http://127\.0\.0\.1:(\d+) ", line)
        assert address, line + self.process.communicate()[1]
        self.port = int(address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metric(self, name: str) -> float:
        return next(float(v) for n, v in self.metrics() if n == name)

    def metrics(self) -> Iterator[tuple[str, str]]:
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            if line[0] != "#":
                name, value = line.rsplit(" ", 1)
                yield name, value


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tiny_index: Path) -> Iterator[Server]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = Server(tiny_bundle, tiny_index)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path, tiny_index: Path) -> list[dict]:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=MAX_K, warm=False)
    return plain(scorer.top_k([QUERY], 5)[0])


@contextmanager
def nobody_else_suffers(server: Server, expected: list[dict]) -> Iterator[None]:
    """Another client asks all the time, and gets right answers in time."""
    over, answers, slowest = threading.Event(), [], [0.0]

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not over.wait(0.01):
                start = time.perf_counter()
                answers.append(client.post("/v1/rank", json={"query": QUERY, "k": 5}))
                slowest[0] = max(slowest[0], time.perf_counter() - start)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
        time.sleep(0.1)
    finally:
        over.set()
        asking.join()
    assert len(answers) > 3
    for answer in answers:
        assert answer.status_code == 200, answer.text
        found = answer.json()["ads"]
        assert [ad["id"] for ad in found] == [ad["id"] for ad in expected]
        assert [ad["score"] for ad in found] == pytest.approx([ad["score"] for ad in expected], rel=1e-5)
    assert slowest[0] < LONGEST


def rest(connection: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def send_while_taken(connection: socket.socket, block: bytes, most: int) -> int:
    """Sends a block again and again until the service hangs up; the bytes that were sent."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(block)
            sent += len(block)
    except ConnectionError:
        pass
    return sent


def head(length: int, more: str = "") -> bytes:
    return f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def drip(connection: socket.socket, content: bytes) -> float:
    """Sends a byte every tenth of a second until the service has had enough; the seconds that took."""
    start = time.monotonic()
    with connection:
        connection.settimeout(0.1)
        for i in range(len(content)):
            try:
                connection.sendall(content[i : i + 1])
                if not connection.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("the service read all of it")
    return time.monotonic() - start


def test_a_head_that_drips_and_a_silent_client_are_hung_up_on(server: Server, expected: list[dict]) -> None:
    with nobody_else_suffers(server, expected), server.connect() as silent:
        assert READ < drip(server.connect(), b"POST /v1/rank HTTP/1.1\r\n" + b"X: y\r\n" * 100) < READ + 5
        assert rest(silent) == b""
        with server.connect() as later:  # the same on a connection that was of use before
            later.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert later.recv(65536).startswith(b"HTTP/1.1 200")
            assert READ < drip(later, b"POST /v1/rank HTTP/1.1\r\n" + b"X: y\r\n" * 100) < READ + 5


def test_a_body_that_drips_is_told_so(server: Server, expected: list[dict]) -> None:
    with nobody_else_suffers(server, expected), server.connect() as connection:
        connection.sendall(head(100) + b'{"query"')
        time.sleep(READ / 2)
        connection.sendall(b":")
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the body did not arrive within 1 s" in answer


def test_a_head_without_end_is_cut(server: Server, expected: list[dict]) -> None:
    with nobody_else_suffers(server, expected), server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert send_while_taken(connection, b"X: " + b"y" * 60_000 + b"\r\n", 2**28) < 2**25


def test_an_idle_connection_is_closed_after_a_while(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        assert rest(connection) == b""
        assert 2 < time.monotonic() - start < 8


def test_who_does_not_read_is_hung_up_on(server: Server, expected: list[dict]) -> None:
    body = json.dumps({"queries": [QUERY] * 64, "k": MAX_K}).encode()
    with nobody_else_suffers(server, expected), server.connect() as greedy:
        greedy.settimeout(UNREAD + 8)
        # First the kernel's buffers fill, then the service stops reading, then it has waited long enough.
        assert send_while_taken(greedy, head(len(body)) + body, 2**30) < 2**30


def test_nobody_ranks_for_clients_that_left(server: Server, expected: list[dict]) -> None:
    body = json.dumps({"queries": [QUERY] * 64, "k": MAX_K}).encode()
    gone = 'tt_jax_shed_total{reason="gone"}'
    before, ranked = server.metric(gone), server.metric("tt_jax_queries_total")
    leaving = [server.connect() for _ in range(60)]
    for connection in leaving:
        connection.sendall(head(len(body)) + body)
    for connection in leaving:
        connection.close()
    deadline = time.monotonic() + 30
    while server.metric("tt_jax_queue_queries") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.metric(gone) > before
    assert server.metric("tt_jax_queries_total") - ranked < 60 * 64
    with nobody_else_suffers(server, expected):
        pass


def test_a_thousand_idle_connections(server: Server, expected: list[dict]) -> None:
    idle = [server.connect() for _ in range(1000)]
    try:
        with nobody_else_suffers(server, expected):
            for connection in idle:
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            for connection in idle:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.5)
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_is_not_read(server: Server, expected: list[dict], chunked: bool) -> None:
    size, block = 100 * 2**20, b" " * 2**16
    with nobody_else_suffers(server, expected), server.connect() as connection:
        if chunked:
            connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + block + b"\r\n"
        else:
            connection.sendall(head(size))
        sent = send_while_taken(connection, block, size)
        assert sent < size / 4  # what the kernel buffers, and at most 1 MB that the service reads
        assert rest(connection)[:12] in (b"HTTP/1.1 413", b"")


def test_deep_and_large_json(server: Server, expected: list[dict]) -> None:
    with nobody_else_suffers(server, expected), httpx.Client(base_url=server.url, timeout=60) as client:
        for body in (b"[" * 10**6, b'{"query": {"user": ' + b"[" * 10**6, b'{"query": {"age": ' + b"9" * 10**6 + b"}}"):
            error_of(client.post("/v1/rank", content=body), 400)
        wide = json.dumps({"queries": [{"history": list(range(1000, 9000))}] * 20, "k": 3})
        assert client.post("/v1/rank", content=wide).status_code == 200


def test_deadlines_of_requests(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        ask = {"query": QUERY, "k": 5}
        for name in ("X-Deadline-Ms", "x-envoy-expected-rq-timeout-ms"):
            assert client.post("/v1/rank", json=ask, headers={name: "60000"}).status_code == 200
            assert "deadline" in error_of(client.post("/v1/rank", json=ask, headers={name: "0"}), 504)
            for bad in ("-1", "1.5", "soon", "", "9" * 10):
                assert name.lower() in error_of(client.post("/v1/rank", json=ask, headers={name: bad}), 400)


def test_sigterm_with_a_full_queue(server: Server) -> None:
    """The last test of the process: all that was admitted is answered, nothing more is taken, and it ends in time."""
    bodies = [json.dumps({"queries": [QUERY] * 64, "k": MAX_K}).encode()] * 50
    waiting = [server.connect() for _ in bodies]
    watch = server.connect()
    watch.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert watch.recv(65536).startswith(b"HTTP/1.1 200")
    for connection, body in zip(waiting, bodies, strict=True):
        connection.sendall(head(len(body)) + body)
    while server.metric("tt_jax_queue_queries") == 0:
        time.sleep(0.001)
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    watch.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert rest(watch)[:12] in (b"HTTP/1.1 503", b"")  # not ready, or closed already
    for connection in waiting:
        assert rest(connection).startswith(b"HTTP/1.1 200")
    out, err = server.process.communicate(timeout=60)
    assert (server.process.returncode, out, err) == (0, "", "")
    assert time.monotonic() - start < GRACE
