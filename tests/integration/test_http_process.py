"""HTTP on the three listeners of a real process: what each does with odd, silent and many clients; flags."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.serving_process import ServingProcess, rest

pytestmark = pytest.mark.process

TOKEN = "a-token-of-the-tests"
NAMES = ("service", "metrics", "admin")
READ, MOST = 1, 40
WISH = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: h2c"


class Listeners:
    """A process and its ports by name."""

    def __init__(self, bundle: Path, index: Path, token_file: Path) -> None:
        flags = ["--metrics-port=0", "--admin-port=0", f"--admin-token-file={token_file}", f"--max-connections={MOST}"]
        flags += [f"--read-s={READ}", "--access-log", "--log-format=json", "--allowed-host=ads.mine.org", "--console"]
        self.process = ServingProcess(bundle, index, *flags, first="admin metrics")
        ports = {name: httpx.URL(url).port or 0 for name, url in self.process.before.items()}
        self.ports = {"service": self.process.port, **ports}

    def connect(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), timeout=60)

    def ask(self, name: str, head: str, body: bytes = b"") -> bytes:
        """All that comes for one request; the connection is closed after it."""
        more = f"Authorization: bEARER {TOKEN}\r\nConnection: close\r\n\r\n"
        with self.connect(name) as connection:
            connection.sendall(f"{head}\r\n{more}".encode() + body)
            return rest(connection)

    def metric(self, name: str, listener: str, more: str = "") -> float:
        text = httpx.get(self.process.before["metrics"], timeout=60).text
        start = f'{name}{{listener="{listener}"{more}}} '
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))

    def refused(self, name: str, reason: str) -> float:
        return self.metric("tt_jax_clients_refused_total", name, f',reason="{reason}"')


@pytest.fixture(scope="module")
def listeners(tiny_bundle: Path, tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listeners]:
    token_file = tmp_path_factory.mktemp("admin") / "tokens"
    token_file.write_text(TOKEN)
    found = Listeners(tiny_bundle, tiny_index, token_file)
    yield found
    found.process.kill()


PATHS = {"service": "/v1/model", "metrics": "/metrics", "admin": "/admin/status"}


@pytest.mark.parametrize("name", NAMES)
def test_what_stock_clients_send_is_answered_alike(listeners: Listeners, name: str) -> None:
    start = f"GET {PATHS[name]} HTTP/1.1\r\nHost: x"
    for more in ("", f"\r\n{WISH}", "\r\nConnection: Upgrade\r\nUpgrade: websocket"):
        answer = listeners.ask(name, start + more)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert answer.count(b"HTTP/1.1 ") == 1
    answer = listeners.ask(name, start.replace("GET", "HEAD"))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert answer.endswith(b"\r\n\r\n")
    assert int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]) > 100
    assert listeners.ask(name, "CONNECT x:443 HTTP/1.1\r\nHost: x").startswith(b"HTTP/1.1 405 ")
    assert listeners.ask(name, f"{start}\r\nContent-Encoding: gzip").startswith(b"HTTP/1.1 415 ")
    assert b"\r\nx-request-id: a-1\r\n" in listeners.ask(name, f"{start}\r\nX-Request-Id: a-1")


def test_a_hidden_request_is_a_body(listeners: Listeners) -> None:
    hidden = f"GET /v1/model HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    for name, path in (("service", "/v1/rank"), ("admin", "/admin/ads")):
        start = f"POST {path} HTTP/1.1\r\nHost: x\r\n{WISH}\r\nContent-Length: {len(hidden)}"
        answer = listeners.ask(name, start, hidden)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"invalid JSON" in answer
    body = json.dumps({"query": {"age": 30}, "k": 2}).encode()
    answer = listeners.ask(
        "service", f"POST /v1/rank HTTP/1.1\r\nHost: x\r\n{WISH}\r\nContent-Length: {len(body)}", body
    )
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["ads"]) == 2


def test_names_by_which_it_may_be_asked(listeners: Listeners) -> None:
    """The admin listener has a token, which no page of another site has."""
    for path in ("/console/form", "/console", "/v1/model", "/health/ready"):
        for host, status in (("evil.example", 421), ("localhost:1", 200), ("ads.mine.org:80", 200)):
            answer = listeners.ask("service", f"GET {path} HTTP/1.1\r\nHost: {host}")
            assert int(answer[9:12]) == status
    assert listeners.ask("metrics", "GET /metrics HTTP/1.1\r\nHost: evil.example:80").startswith(b"HTTP/1.1 421 ")
    assert listeners.ask("admin", "GET /admin/status HTTP/1.1\r\nHost: ads.example").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("name", NAMES)
def test_silent_clients_take_no_place_for_long_and_nobody_elses(listeners: Listeners, name: str) -> None:
    most = {"service": MOST, "metrics": 256, "admin": 256}[name]
    while listeners.metric("tt_jax_connections", name) > (name == "metrics"):  # refused ones linger
        time.sleep(0.1)
    silent = [listeners.connect(name) for _ in range(most)]
    try:
        for connection in silent[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        for other in set(NAMES) - {name}:
            assert listeners.ask(other, f"GET {PATHS[other]} HTTP/1.1\r\nHost: x").startswith(b"HTTP/1.1 200 ")
        start = time.monotonic()
        answer = listeners.ask(name, f"GET {PATHS[name]} HTTP/1.1\r\nHost: x")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert {rest(connection) for connection in silent} == {b""}
        assert READ / 2 < time.monotonic() - start < READ + 20
    finally:
        for connection in silent:
            connection.close()
    assert listeners.ask(name, f"GET {PATHS[name]} HTTP/1.1\r\nHost: x").startswith(b"HTTP/1.1 200 ")
    assert (listeners.refused(name, "silent"), listeners.refused(name, "connections")) == (most, 1)


def test_the_access_log(listeners: Listeners) -> None:
    for name in NAMES:
        listeners.ask(name, f"GET {PATHS[name]}?token=secret HTTP/1.1\r\nHost: x\r\nX-Request-Id: log-of-{name}")
    listeners.process.process.terminate()
    out, err = listeners.process.process.communicate(timeout=60)
    lines = [json.loads(line) for line in err.splitlines()]
    found = [line for line in lines if str(line.get("request_id")).startswith("log-of-")]
    assert [(line["listener"], line["path"], line["status"]) for line in found] == [(n, PATHS[n], 200) for n in NAMES]
    assert {line["event"] for line in found} == {"access"}
    assert "secret" not in err + out


def test_more_connections_than_files_are_refused(tiny_bundle: Path, tiny_index: Path) -> None:
    flags = [f"--bundle={tiny_bundle}", f"--index={tiny_index}", "--port=0", f"--max-connections={10**9}"]
    command = [sys.executable, "-m", "tt_jax", "serve", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert re.search(
        r"error: max_connections: expected at most \d+, with \d+ files open .*, got 1000000000$", ended.stderr
    )
