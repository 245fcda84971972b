"""The serving process: its address, its answers over a real connection, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.scorer import Scorer
from serving.service import run
from tests.service_calls import error_of, plain, post, some_queries

MAX_K = 20


def test_an_address_that_cannot_be_had_is_an_error(tiny_bundle: Path, tiny_index: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            run(tiny_bundle, tiny_index, port=port, max_k=1)
    with pytest.raises(ValueError, match="port: expected 0 to 65535, got 70000"):
        run(tiny_bundle, tiny_index, port=70000)


def test_the_process_serves_drains_and_exits(tiny_bundle: Path, tiny_index: Path) -> None:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=MAX_K, warm=False)
    arguments = [f"--bundle={tiny_bundle}", f"--index={tiny_index}", "--port=0", f"--max-k={MAX_K}"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tt_jax", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.match(r"serving (http://127\.0\.0\.1:(\d+)) ", line)
        assert address, line + process.communicate()[1]
        query = some_queries(1, seed=4)[0]
        with httpx.Client(base_url=address[1], timeout=60) as client:
            assert client.get("/health/ready").status_code == 200
            assert post(client, {"query": query, "k": 5})["ads"] == plain(scorer.top_k([query], 5)[0])
            assert "k" in error_of(client.post("/v1/rank", content=b'{"query": {}, "k": 21}'), 400)
        late = _answer_across_sigterm(process, int(address[2]), query)
        assert late["ads"] == plain(scorer.top_k([query], 10)[0])
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


def _answer_across_sigterm(process: subprocess.Popen[str], port: int, query: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request whose body is completed after the process has stopped to listen."""
    body = json.dumps({"query": query}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:5])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.get("/health/live")  # answered after the head above has been read
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while _listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        connection.sendall(body[5:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    return json.loads(content)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True
