"""A serving process and raw connections to it, for the tests of the service."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from socket import create_connection, socket

import httpx

from tests.support.paths import ROOT


class ServingProcess:
    """`tt-jax serve` on a free port. Kill it at the end.

    `program`: of Python, that stands for `tt-jax`.
    `before`: addresses that it prints before its own, by what they are called; `first` says which to expect.
    """

    def __init__(
        self, bundle: Path, index: Path, *flags: str, first: str = "", program: Sequence[str] = ("-m", "tt_jax")
    ) -> None:
        command = [sys.executable, "-W", "error", *program, "serve", f"--bundle={bundle}", f"--index={index}"]
        self.process = subprocess.Popen(
            [*command, "--port=0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.before: dict[str, str] = {}
        for name in first.split():
            line = self.process.stdout.readline()
            assert line.startswith(f"{name} http://"), line + self.process.communicate()[1]
            self.before[name] = line.split()[1]
        line = self.process.stdout.readline()
        address = re.match(r"serving (http://127\.0\.0\.1:(\d+)) ", line)
        assert address, line + self.process.communicate()[1]
        self.url, self.port = address[1], int(address[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def connect(self) -> socket:
        return create_connection(("127.0.0.1", self.port), timeout=60)

    def listens(self) -> bool:
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def head(length: int) -> bytes:
    """Of a request with a body of that length."""
    return f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def get(connection: socket, path: str) -> bytes:
    """An answer, all of it, on a connection that stays open; what there is of it if the service closes it."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while part := connection.recv(65536):
            answer += part
            length = re.search(rb"content-length: (\d+)", answer)
            if length and len(answer.partition(b"\r\n\r\n")[2]) == int(length[1]):
                break
    return answer


def rest(connection: socket) -> bytes:
    """All that comes until the service closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def send_while_taken(connection: socket, block: bytes, most: int) -> int:
    """Sends a block again and again until the service hangs up; the bytes that were sent."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(block)
            sent += len(block)
    except ConnectionError:
        pass
    return sent


def drip(connection: socket, content: bytes) -> float:
    """Sends a byte every tenth of a second until the service has had enough; the seconds that took."""
    start = time.monotonic()
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
        raise AssertionError("the service read all of it")
    return time.monotonic() - start
