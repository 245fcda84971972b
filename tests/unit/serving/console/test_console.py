"""The routes of the console: who gets them, what they say, what the page may do. The page itself: test_console_page."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from serving.batching.batcher import OverloadError
from serving.batching.request import Work
from serving.console.console import Console, ConsoleSettings
from serving.scorer import RequestError, Scorer
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.console_pairs import in_memory
from tests.support.reference_model import Reference, softmax
from tests.support.service_calls import error_of, post, running, some_queries
from tt_jax.bundle.reader import Bundle
from tt_jax.cli.main import main

BESIDE, ORIGIN = "http://127.0.0.1:9", "http://10.0.0.7:8080"
Client = TestClient[Litestar]


@pytest.fixture(scope="module")
def client(warm_scorer: Scorer) -> Iterator[Client]:
    with TestClient(create_app(warm_scorer, ServiceConfig(console=ConsoleSettings(BESIDE), max_body=20_000))) as client:
        yield client


def test_there_is_none_unless_it_is_asked_for(warm_scorer: Scorer) -> None:
    with TestClient(create_app(warm_scorer)) as client:
        for path in ("/console", "/console/form", "/console/state"):
            error_of(client.get(path), 404)
        error_of(client.post("/console/gates", content=b'{"query": {}}'), 404)
        assert "access-control-allow-origin" not in client.get("/v1/model", headers={"origin": ORIGIN}).headers


def test_the_page_may_run_its_own_script_only_and_talk_to_these_services_only(client: Client) -> None:
    answer = client.get("/console")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": f"'self' {BESIDE}",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=", answer.text)


def test_the_form_gets_the_golden_queries_and_the_vocabularies(client: Client, tiny_bundle: Path) -> None:
    form = client.get("/console/form").json()
    golden = [row.query for row in Bundle.load(tiny_bundle).golden]
    expected = [{name: value for name, value in query.items() if value is not None} for query in golden]
    assert [{name: json.loads(text) for name, text in e.items()} for e in form["examples"]] == expected
    assert form["choices"] == {"country": list(tiny.COUNTRIES), "interests": list(tiny.TOPICS)}
    assert form["beside"] == BESIDE


def test_the_state_is_that_of_the_metrics(client: Client, warm_scorer: Scorer) -> None:
    before = client.get("/console/state").json()
    for query in some_queries(3):
        post(client, {"query": query, "k": 2})
    state = client.get("/console/state").json()
    assert state["answers"][-1] == before["answers"][-1] + 3
    text = client.get("/metrics").text
    buckets = re.findall(r'^tt_jax_request_seconds_bucket{le="(.*)",route="/v1/rank"} (\S+)$', text, re.MULTILINE)
    assert [float(bound) for bound, _ in buckets] == [*state["seconds"], float("inf")]
    assert [float(count) for _, count in buckets] == state["answers"]
    assert (state["ready"], state["waiting"]) == (True, 0)
    assert (state["bundle"], state["index"]) == (warm_scorer.fingerprint, warm_scorer.index_id)
    assert (state["ads"], state["eligible_ads"]) == (warm_scorer.index_size, warm_scorer.eligible)
    assert set(state["shed"]) == {"full", "slow", "expired", "late", "gone", "closing"}
    assert 0 <= state["index_age"] <= state["bundle_age"] + 1 < 3600


def test_the_gates_are_those_of_a_reference(client: Client, warm_scorer: Scorer) -> None:
    params, tables = tiny.weights()
    reference = Reference(tiny.SCHEMA, tiny.CONFIG.model, params, tables)
    for query in some_queries(3, seed=4):
        answer = client.post("/console/gates", content=json.dumps({"query": query})).json()
        encoded = warm_scorer.encode([query])
        x0 = reference.inputs("query", encoded.ids, encoded.floats.astype(np.float64))
        for t, head in enumerate(tiny.SCHEMA.heads):
            hidden = reference.gate_hidden("query/body", t, x0)
            expected = softmax(reference.dense(f"query/body/gate_out/{t}", hidden))[0]
            np.testing.assert_allclose(answer["gates"][head], expected, atol=1e-5)
        assert list(answer["gates"]) == list(tiny.SCHEMA.heads)
        assert answer["experts"] == ["0", "1"]
        assert (answer["kind"], answer["bundle"]) == ("mmoe_dcn", warm_scorer.fingerprint)


def test_gates_of_other_kinds(tiny_bundle: Path) -> None:
    found = {}
    for kind in ("mlp", "mtmd"):
        config = dataclasses.replace(tiny.CONFIG, model=dataclasses.replace(tiny.CONFIG.model, kind=kind))
        app = create_app(in_memory(tiny_bundle, config=config), ServiceConfig(console=ConsoleSettings()))
        with TestClient(app) as client:
            found[kind] = client.post("/console/gates", content=b'{"query": {"age": 30}}').json()
    assert (found["mlp"]["kind"], found["mlp"]["gates"], found["mlp"]["experts"]) == ("mlp", None, [])
    assert found["mtmd"]["experts"] == ["task_specific", "task_shared", "domain_shared", "borrowed"]
    for shares in found["mtmd"]["gates"].values():
        assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"", ["empty body"]),
        (b'{"query": {"age": "old"}}', ["'age'", "number", "'old'"]),
        (b'{"query": {"contry": "de"}}', ["'contry'", "'country'"]),
        (b'{"query": {}, "k": 3}', ["unknown key", '"k"']),
        (b'{"queries": [{}]}', ["unknown key", '"queries"']),
        (b'{"query": {"user": %s}}' % (b"[" * 900 + b"]" * 900), ["'user'", "string"]),
    ],
)
def test_a_wrong_query_is_explained(client: Client, body: bytes, parts: list[str]) -> None:
    error = error_of(client.post("/console/gates", content=body), 400)
    assert all(part in error for part in parts), error


def test_pages_of_one_origin_may_read_all_answers(warm_scorer: Scorer) -> None:
    name = "access-control-allow-origin"
    with (
        running(create_app(warm_scorer), origin=ORIGIN) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}") as client,
    ):
        wrong = client.post("/v1/rank", content=b"{}")
        error_of(wrong, 400)
        for answer in (wrong, client.get("/v1/model"), client.get("/nowhere"), client.options("/v1/rank")):
            assert answer.headers.get_list(name) == [ORIGIN]
        ranked = client.post("/v1/rank", content=b'{"query": {}, "k": 1}')
        assert (ranked.status_code, ranked.headers[name]) == (200, ORIGIN)
        assert "POST" in client.options("/v1/rank").headers["allow"]  # the service's own answer: no browser asks so
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        answer = client.options("/v1/rank", headers={"origin": ORIGIN, **asks})
        assert (answer.status_code, answer.headers[name]) == (204, ORIGIN)
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        assert "authorization" in answer.headers["access-control-allow-headers"]


def test_few_may_wait_for_gates_and_ranking_does_not(warm_scorer: Scorer) -> None:
    async def ask() -> list[object]:
        service = create_app(warm_scorer).state.service
        batcher, console = service.batcher, Console(ConsoleSettings(), service, "/v1/rank")
        busy, asked = threading.Event(), [asyncio.ensure_future(console.gates({"age": i})) for i in range(4)]
        console._thread.submit(busy.wait)
        asked.append(asyncio.ensure_future(console.gates({"age": 5})))
        try:
            await asyncio.wait(asked[4:])
            assert (await batcher.submit(Work([{}], 3, None))).ads_found == 3
            busy.set()
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            busy.set()
            console.close()
            batcher.close()

    *served, refused = asyncio.run(ask())
    assert isinstance(refused, OverloadError)
    assert not [answer for answer in served if isinstance(answer, Exception)]


@pytest.mark.parametrize(
    "value", ["10.0.0.7:8080", "http://10.0.0.7:8080/", "http://a b", "http://x; script-src *", "*", "http://u:p@x"]
)
def test_an_origin_is_one(value: str) -> None:
    for settings in ({"beside": value}, {"origin": value}):
        with pytest.raises(ValueError, match=f"console {next(iter(settings))}: expected an origin such as") as e:
            ConsoleSettings(**settings)
        assert repr(value) in str(e.value)
    for fine in ("", "https://ads.example.org", "http://[::1]:8080"):
        ConsoleSettings(beside=fine)


def test_a_neighbour_needs_the_console(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["serve", "--bundle=b", "--index=i", f"--console-beside={BESIDE}"])
    assert exit_.value.code == 2
    assert "--console with --console-beside" in capsys.readouterr().err


def test_a_value_nested_too_deeply_is_an_error_of_the_request(warm_scorer: Scorer) -> None:
    value: object = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(RequestError, match="nested too deeply"):
        warm_scorer.encode([{"user": value}])
