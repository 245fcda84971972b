"""Tokens, the listener of metrics, and limits: who may use the service, and how much of it."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.testing import TestClient

from serving.client import Client, ServiceError
from serving.scorer import Scorer
from serving.service.app import RANK, create_app
from serving.service.auth import OPEN, Tokens, is_loopback, read_tokens
from serving.service.config import ServiceConfig
from tests.support.service_calls import error_of, post, running, some_queries
from tests.support.serving_process import ServingProcess
from tt_jax.cli.main import main

OLD, NEW, NEWEST = "the-token-of-yesterday", "the-token-of-tomorrow", "the-token-of-next-week"
QUERY = some_queries(1)[0]
BODY = json.dumps({"query": QUERY, "k": 3})


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{OLD}\n\n  {NEW} \n")
    return path


@pytest.fixture(scope="module")
def url(warm_scorer: Scorer, token_file: Path) -> Iterator[str]:
    """Of a guarded service."""
    tokens = read_tokens(token_file)
    app = create_app(warm_scorer, ServiceConfig(tokens=tokens))
    with running(app, tokens=tokens, open_paths=OPEN) as (host, port):
        yield f"http://{host}:{port}"


def test_the_lines_of_a_file_are_tokens(tmp_path: Path, token_file: Path) -> None:
    path = tmp_path / "token"
    for text, line in (("short", 1), ("a" * 15, 1), (f"{OLD}\ntwo words of a token", 2), (f"{OLD}\x07", 1)):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"token: line {line}: expected a token of at least 16") as refused:
            read_tokens(path)
        assert text.splitlines()[line - 1] not in str(refused.value)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"token: expected a token .* found none"):
        read_tokens(path)
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="ASCII"):
        read_tokens(path)
    tokens = read_tokens(token_file)
    assert [tokens.allow(f"Bearer {token}".encode()) for token in (OLD, NEW, OLD[:-1], OLD + "x", "")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert OLD not in repr(tokens)
    Tokens.of(OLD).read_again()  # of no file


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Bearer {OLD}x", f"Basic {OLD}", OLD, "Bearer é"])
def test_nobody_else_may(url: str, header: str | None) -> None:
    headers: Any = {} if header is None else {"authorization": header.encode("latin-1")}
    for method, path in (("POST", RANK), ("GET", "/v1/model"), ("GET", "/metrics"), ("GET", "/schema"), ("GET", "/no")):
        answer = httpx.request(method, url + path, headers=headers, content=BODY if method == "POST" else b"")
        assert "Authorization: Bearer" in error_of(answer, 401)
        assert answer.headers["www-authenticate"] == 'Bearer realm="tt-jax"'
        assert answer.headers["connection"] == "close"
    for path in ("/health/live", "/health/ready"):
        assert httpx.get(url + path, headers=headers).status_code == 200


def test_every_token_of_the_file_may(url: str) -> None:
    for token in (OLD, NEW):
        with Client(url, token=token, deadline_s=60) as client:
            assert len(client.rank(QUERY, k=3).ads) == 3
    with Client(url, token="another-token-of-mine") as client, pytest.raises(ServiceError, match="401: expected the"):
        client.rank(QUERY)
    twice = [("authorization", f"Bearer {OLD}"), ("authorization", f"Bearer {NEW}")]
    error_of(httpx.post(url + RANK, content=BODY, headers=twice), 401)
    text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {NEW}"}).text
    assert re.search(r'tt_jax_requests_total\{route="unmatched",status="401"\} [1-9]', text)


def test_a_body_without_a_token_is_not_read(url: str) -> None:
    sent = 0

    def blocks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * 2**20:
            sent += 2**20
            yield bytes(2**20)

    try:
        answer = httpx.post(url + RANK, content=blocks(), timeout=60)
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        pass  # hung up on while it sent
    else:
        assert answer.status_code == 401
    assert sent < 50 * 2**20


def test_the_document_has_the_scheme(url: str, warm_scorer: Scorer) -> None:
    document = httpx.get(f"{url}/schema/openapi.json", headers={"authorization": f"Bearer {OLD}"}).json()
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/health/live"]["get"]["security"] == [{}]  # no token
    assert "security" not in document["paths"][RANK]["post"]
    assert "401" in document["paths"][RANK]["post"]["responses"]
    with TestClient(create_app(warm_scorer, ServiceConfig(metrics_here=False))) as client:
        document = client.get("/schema/openapi.json").json()
        assert "security" not in document
        assert "securitySchemes" not in document["components"]
        assert "/metrics" not in document["paths"]
        error_of(client.get("/metrics"), 404)


def test_what_only_this_machine_reaches() -> None:
    hosts = {"127.0.0.1": True, "127.9.9.9": True, "::1": True, "localhost": True}
    hosts |= {"0.0.0.0": False, "::": False, "10.0.0.1": False, "": False, "example.org": False}
    assert {host: is_loopback(host) for host in hosts} == hosts


def test_limits_that_cannot_be(warm_scorer: Scorer) -> None:
    cases: list[dict[str, Any]] = [{"max_body": 0}, {"max_queries": -1}]
    for limits in cases:
        with pytest.raises(ValueError, match="expected max_body and max_queries >= 1"):
            create_app(warm_scorer, ServiceConfig(**limits))


def test_the_flags_of_a_process(tiny_bundle: Path, tiny_index: Path, token_file: Path, tmp_path: Path) -> None:
    """Tokens, also others after SIGHUP, metrics on a port of their own, and the three limits."""
    tokens = tmp_path / "tokens"
    tokens.write_bytes(token_file.read_bytes())
    limits = ["--max-k=20", "--max-candidates=5", "--max-queries=2", "--max-body-kb=2"]
    server = ServingProcess(
        tiny_bundle, tiny_index, *limits, f"--token-file={tokens}", "--metrics-port=0", first="metrics"
    )
    try:
        with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {NEW}"}, timeout=60) as client:
            ads = post(client, {"query": QUERY, "k": 6})["ads"]
            known = client.get("/v1/model").json()["limits"]
            assert known == {"k": 20, "queries": 2, "candidates": 5, "body": 2048}
            body: dict[str, Any]
            for body, message in (
                ({"query": QUERY, "candidates": [ad["id"] for ad in ads]}, "at most 5 ids, got 6"),
                ({"queries": [{}] * 3}, "queries"),
            ):
                assert message in error_of(client.post(RANK, content=json.dumps(body)), 400)
            assert "at most 2048 bytes" in error_of(client.post(RANK, content=" " * 2049), 413)
            error_of(client.get("/metrics"), 404)
        error_of(httpx.post(server.url + RANK, content=BODY), 401)
        metrics = httpx.get(server.before["metrics"]).text
        assert 'tt_jax_queries_total{model="tiny"} 1.0' in metrics
        assert httpx.get(server.before["metrics"].replace("/metrics", RANK)).status_code == 404
        tokens.write_text(f"{NEWEST}\ntoo short")
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        told = f'WARNING tokens outcome=failed reason="{tokens}: line 2: expected a token'
        while told not in (line := server.process.stderr.readline()):
            assert line
        assert _status(server, OLD, NEW, NEWEST) == [200, 200, 401]
        tokens.write_text(f"{NEW}\n{NEWEST}\n")
        server.process.send_signal(signal.SIGHUP)
        started = time.monotonic()
        while _status(server, OLD, NEW, NEWEST) != [401, 200, 200]:
            assert time.monotonic() - started < 30
        started = time.monotonic()
        server.process.terminate()
        out, err = server.process.communicate(timeout=60)
        assert (out, "ERROR" in err) == ("", False), err
        assert f"INFO tokens outcome=done file={tokens} tokens=2" in err
        assert not any(token in err for token in (OLD, NEW, NEWEST))
        assert time.monotonic() - started < 30
    finally:
        server.kill()


def _status(server: ServingProcess, *tokens: str) -> list[int]:
    headers = ({"authorization": f"Bearer {token}"} for token in tokens)
    return [httpx.get(f"{server.url}/v1/model", headers=h, timeout=60).status_code for h in headers]


def test_a_warning_where_everybody_may(
    tmp_path: Path, token_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning comes before anything is loaded; here there is nothing to load."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # SIGHUP is that of the tests here
    none = [f"--bundle={tmp_path}", f"--index={tmp_path}", "--port=0"]
    for flags, warned in (
        (["--host=0.0.0.0"], True),
        (["--host=0.0.0.0", f"--token-file={token_file}"], False),
        ([], False),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *none, *flags])
        assert ended.value.code != 0
        lines = capsys.readouterr().err.splitlines()
        told = (
            'WARNING open_to_all host=0.0.0.0 reason="whoever reaches 0.0.0.0 may use this service; see --token-file"'
        )
        assert [line.split(" ", 1)[1] for line in lines if "WARNING" in line] == ([told] if warned else [])
