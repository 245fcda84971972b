"""The service over HTTP, around a real model: answers, errors, health, metrics, documents."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from serving.limits import ServiceLimits
from serving.scorer import Scorer
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.service_calls import FORM, error_of, plain, post, some_queries
from tt_jax.features.encoder import Encoder

MAX_K, MAX_BODY, MAX_QUERIES = 20, 20_000, 8
Client = TestClient[Litestar]


@pytest.fixture(scope="module")
def scorer(warm_scorer: Scorer) -> Scorer:
    return warm_scorer


@pytest.fixture
def client(scorer: Scorer) -> Iterator[Client]:
    with TestClient(create_app(scorer, ServiceConfig(max_body=MAX_BODY, max_queries=MAX_QUERIES))) as client:
        yield client


def test_a_query_is_answered_as_the_scorer_answers(client: Client, scorer: Scorer) -> None:
    for query in some_queries(5):
        answer = post(client, {"query": query, "k": 7})
        assert answer["ads"] == plain(scorer.top_k([query], 7)[0])
        assert len(answer["ads"]) == 7
        assert (answer["bundle"], answer["index"]) == (scorer.fingerprint, scorer.index_id)
    assert post(client, {"query": query})["ads"] == plain(scorer.top_k([query], 10)[0])  # the default k


def test_several_queries_are_answered_in_order(client: Client, scorer: Scorer) -> None:
    queries = some_queries(MAX_QUERIES, seed=1)
    answer = post(client, {"queries": queries, "k": 3})
    assert [r["ads"] for r in answer["results"]] == [plain(ads) for ads in scorer.top_k(queries, 3)]
    assert (answer["bundle"], answer["index"]) == (scorer.fingerprint, scorer.index_id)
    assert len({json.dumps(r) for r in answer["results"]}) > 1


def test_only_candidates_are_ranked(client: Client, scorer: Scorer) -> None:
    query, other = some_queries(2, seed=2)
    ids = [ad.id for ad in scorer.top_k([query], MAX_K)[0]]
    chosen, rest = ids[1::3], ids[::2]
    answer = post(client, {"query": query, "k": 20, "candidates": chosen})
    assert sorted(ad["id"] for ad in answer["ads"]) == sorted(chosen)
    assert answer["ads"] == plain(scorer.top_k([query], 20, [chosen])[0])
    answer = post(client, {"queries": [query, other], "k": 20, "candidates": [chosen, rest]})
    assert [{ad["id"] for ad in r["ads"]} for r in answer["results"]] == [set(chosen), set(rest)]


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_the_body_is_json_whatever_the_content_type(client: Client, scorer: Scorer, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = client.post("/v1/rank", content=b'{"query": {"age": 30}, "k": 1}', headers=headers)
    assert answer.json()["ads"] == plain(scorer.top_k([{"age": 30}], 1)[0])


BAD = {
    "empty": (b"", ["empty body"]),
    "blank": (b" \n", ["empty body"]),
    "not json": (b"query=1", ["invalid JSON", "byte 0", "query=1"]),
    "truncated": (b'{"query": {"age": 3', ["invalid JSON", "truncated"]),
    "nan": (b'{"query": {"age": NaN}}', ["invalid JSON", '"age": NaN', "null"]),
    "infinity": (b'{"query": {"age": -Infinity}}', ["invalid JSON", '"age": -Infinity', "null"]),
    "float out of range": (b'{"queries": [{}, {"user": "a", "age": 1e999}]}', ["'age'", "1e999", "float64"]),
    "int out of range": (b'{"query": {"age": %s}}' % (b"9" * 5000), ["'age'", "9999...", "float64"]),
    "int beyond float64": (b'{"query": {"age": %s}}' % (b"9" * 400), ["'age'", "float64"]),
    "int beyond 64 bits": (b'{"query": {"history": [1, %d]}}' % 2**64, ["'history'", str(2**64), "64-bit"]),
    "not utf-8": (b'{"query": {"user": "\xff"}}', ["invalid JSON", "UTF-8"]),
    "lone surrogate": (b'{"query": {"user": "\\ud800, alone"}}', ["invalid JSON", "surrogate"]),
    "deep": (b'{"query": {"user": %s' % (b"[" * 15_000), ["nested too deeply"]),
    "a list": (b"[1, 2]", ["body", "expected object", "[1,2]"]),
    "null": (b"null", ["body", "expected object", "null"]),
    "unknown key": (b'{"query": {}, "kk": 3}', ["unknown key", '"kk"', "'k'"]),
    "odd key": (b'{"x` - at `$.k": 3}', ["unknown key", '"x` - at `$.k"', "valid names"]),
    "neither": (b'{"k": 3}', ["exactly one", "'query'", "'queries'", "neither"]),
    "both": (b'{"query": {}, "queries": [{}]}', ["exactly one", "both"]),
    "no query": (b'{"queries": []}', ["queries", "1 to 8", "got 0"]),
    "too many queries": (b'{"queries": [%s]}' % b",".join([b"{}"] * 9), ["queries", "1 to 8", "got 9"]),
    "query is a list": (b'{"query": [1]}', ["query", "object", "[1]"]),
    "a query is null": (b'{"queries": [{}, null]}', ["queries[1]", "object", "null"]),
    "k of the wrong type": (b'{"query": {}, "k": "ten"}', ["k:", "int", '"ten"']),
    "k a float": (b'{"query": {}, "k": 3.5}', ["k:", "int", "3.5"]),
    "k true": (b'{"query": {}, "k": true}', ["k:", "int", "true"]),
    "k zero": (b'{"query": {}, "k": 0}', ["k", "0", "20"]),
    "k negative": (b'{"query": {}, "k": -1}', ["k", "-1", "20"]),
    "k too large": (b'{"query": {}, "k": 21}', ["k", "21", "20"]),
    "k huge": (b'{"query": {}, "k": %d}' % 10**30, ["k", "20"]),
    "unknown feature": (b'{"query": {"contry": "de"}}', ["'contry'", "'country'"]),
    "an ad feature": (b'{"query": {"price": 3}}', ["'price'", "unknown"]),
    "string for a number": (b'{"query": {"age": "old"}}', ["'age'", "number", "'old'"]),
    "number for a string": (b'{"query": {"user": 7}}', ["'user'", "string", "7"]),
    "scalar for a list": (b'{"query": {"interests": "art"}}', ["'interests'", "list", "'art'"]),
    "wrong element": (b'{"query": {"history": [1, "x"]}}', ["'history'", "integer", "'x'"]),
    "wrong length": (b'{"query": {"query_embedding": [1, 2]}}', ["'query_embedding'", "3 numbers", "2"]),
    "object for a string": (b'{"query": {"user": {"a": 1}}}', ["'user'", "string"]),
    "long value": (b'{"query": {"age": "%s"}}' % (b"x" * 9000), ["'age'", "number", "xxx"]),
    "second query wrong": (b'{"queries": [{}, {"age": "old"}]}', ["'age'", "1", "'old'"]),
    "unknown candidate": (b'{"query": {}, "candidates": [123456789]}', ["123456789"]),
    "candidate of the wrong type": (b'{"query": {}, "candidates": ["x"]}', ["x"]),
    "candidate too large": (b'{"query": {}, "candidates": [%d]}' % 10**30, [str(10**30)]),
    "candidate true": (b'{"query": {}, "candidates": [true]}', ["candidates[0]", "int | str", "true"]),
    "candidates a number": (b'{"query": {}, "candidates": 3}', ["candidates", "array", "3"]),
    "nested candidates": (b'{"query": {}, "candidates": [[3]]}', ["candidates[0]", "'query'", "[3]"]),
    "flat candidates": (b'{"queries": [{}], "candidates": [3]}', ["candidates[0]", "'queries'", "3"]),
    "candidates of fewer queries": (b'{"queries": [{}, {}], "candidates": [[]]}', ["candidates", "2", "1"]),
    "wrong, then malformed": (b'{"k": "ten", "query": NaN}', ["k:", "int", "str"]),
    "wrong, then repeated": (b'{"candidates": [[2.5]], "candidates": 2}', ["candidates[0][0]", "float"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_told_what_is_wrong(client: Client, name: str) -> None:
    body, expected = BAD[name]
    error = error_of(client.post("/v1/rank", content=body, headers=FORM), 400)
    missing = [text for text in expected if text not in error]
    assert not missing, f"{missing} not in {error!r}"


@pytest.mark.parametrize("depth", [10, 300, 600, 900, 950, 975, 990, 1100])
def test_a_deep_value_is_the_clients_fault_at_any_depth(client: Client, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        body = '{"query": {"user": ' + opening * depth + "1" + closing * depth + "}}"
        error_of(client.post("/v1/rank", content=body), 400)


def test_random_bodies_never_crash_the_service(client: Client) -> None:
    rng = np.random.default_rng(3)
    seeds = [b for b, _ in BAD.values() if b]
    seeds += [json.dumps({"query": q, "k": 3}).encode() for q in some_queries(20, seed=3)]
    seen = set()
    for i in range(400):
        body = bytearray(seeds[int(rng.integers(len(seeds)))][:2000]) if i % 4 else bytearray(rng.bytes(50))
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(len(body) + 1))
            body[at : at + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
        answer = client.post("/v1/rank", content=bytes(body), headers=FORM)
        seen.add(answer.status_code)
        if answer.status_code != 200:
            error_of(answer, 400)
    assert seen == {200, 400}


def test_wrong_paths_methods_and_sizes(client: Client) -> None:
    assert "/v2/rank" in error_of(client.post("/v2/rank", content=b"{}"), 404)
    assert client.post("/v1/rank/", content=b'{"query": {}}').status_code == 200
    assert client.post("/v1//rank", content=b'{"query": {}, "k": 1}').status_code == 200  # as any other route
    wrong_method = client.get("/v1/rank")
    assert "POST" in error_of(wrong_method, 405)
    assert "POST" in wrong_method.headers["allow"]
    body = b'{"query": {}}'
    assert str(MAX_BODY) in error_of(client.post("/v1/rank", content=body.ljust(MAX_BODY + 1)), 413)
    chunks = iter([body, b" " * MAX_BODY])  # sent without a Content-Length
    assert str(MAX_BODY) in error_of(client.post("/v1/rank", content=chunks), 413)
    assert client.post("/v1/rank", content=body.ljust(MAX_BODY)).status_code == 200


def test_a_crash_is_logged_and_not_shown(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.app.state.service.batcher.close()  # as if its thread had died
    assert error_of(client.post("/v1/rank", content=b'{"query": {}}'), 500) == "internal error"
    assert "Traceback" in caplog.text
    assert "/v1/rank" in caplog.text


def test_the_event_loop_turns_while_the_scorer_works(client: Client) -> None:
    busy, answers = threading.Event(), []
    hold(client, busy)
    asking = threading.Thread(target=lambda: answers.append(post(client, {"query": {}, "k": 1})))
    asking.start()
    try:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200
        assert answers == []
    finally:
        busy.set()
        asking.join()
    assert len(answers[0]["ads"]) == 1


def hold(client: Client, until: threading.Event) -> None:
    """Keeps the batcher's thread busy with a change that changes nothing."""
    begun = threading.Event()

    def change(scorer: Scorer) -> tuple[Scorer, bool]:
        begun.set()
        return scorer, until.wait(60)

    client.blocking_portal.start_task_soon(client.app.state.service.batcher.between, change)
    assert begun.wait(60)


def test_a_full_queue_says_when_to_come_back(scorer: Scorer) -> None:
    with TestClient(create_app(scorer, ServiceConfig(limits=ServiceLimits(max_queue=1)))) as client:
        busy = threading.Event()
        hold(client, busy)
        asking = threading.Thread(target=lambda: post(client, {"query": {}, "k": 1}))
        asking.start()
        try:
            while "tt_jax_queue_queries 1.0" not in client.get("/metrics").text:
                time.sleep(0.01)
            full = client.post("/v1/rank", content=b'{"query": {}}')
            assert "1 queries wait" in error_of(full, 503)
            assert int(full.headers["retry-after"]) >= 1
        finally:
            busy.set()
            asking.join()
        assert len(post(client, {"query": {}, "k": 1})["ads"]) == 1
        assert 'tt_jax_shed_total{reason="full"} 1.0' in client.get("/metrics").text


def test_readiness_ends_when_the_service_drains(client: Client) -> None:
    assert client.get("/health/ready").status_code == 200
    client.app.state.service.ready = False
    assert "draining" in error_of(client.get("/health/ready"), 503)
    assert client.get("/health/live").status_code == 200


def test_metrics_count_what_was_asked(client: Client, scorer: Scorer) -> None:
    post(client, {"queries": [{"age": 3}, {"age": None, "user": "a"}, {}], "k": 4})
    post(client, {"query": {"user": "b"}, "k": 2})
    for body in (b"", b'{"query": {}, "k": 0}'):
        client.post("/v1/rank", content=body)
    for path in ("/one", "/two"):
        client.get(path)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert f'bundle="{scorer.fingerprint}"' in answer.text
    assert f'index="{scorer.index_id}"' in answer.text
    found = {k: float(v) for k, v in (line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")}
    expected = {
        'tt_jax_requests_total{route="/v1/rank",status="200"}': 2,
        'tt_jax_requests_total{route="/v1/rank",status="400"}': 2,
        'tt_jax_requests_total{route="unmatched",status="404"}': 2,
        'tt_jax_request_seconds_count{route="/v1/rank"}': 4,
        'tt_jax_queries_total{model="tiny"}': 4,
        'tt_jax_ads_ranked_total{model="tiny"}': 3 * 4 + 2,
        'tt_jax_feature_missing_total{feature="age",model="tiny"}': 3,
        'tt_jax_feature_missing_total{feature="user",model="tiny"}': 2,
        'tt_jax_feature_missing_total{feature="history",model="tiny"}': 4,
        'tt_jax_index_ads{model="tiny"}': scorer.index_size,
        'tt_jax_index_eligible_ads{model="tiny"}': scorer.eligible,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 'feature="price"' not in answer.text


def test_missing_is_counted_as_the_encoder_counts(client: Client) -> None:
    queries = [
        *some_queries(MAX_QUERIES - 2, seed=5),
        {"interests": [], "history": [None]},
        {"interests": [None, "art"]},
    ]
    post(client, {"queries": queries})
    found = re.findall(
        r'tt_jax_feature_missing_total\{feature="(\w+)",model="tiny"\} (\S+)', client.get("/metrics").text
    )
    expected = Encoder(tiny.SCHEMA).encode_queries(queries).missing
    assert {name: float(count) for name, count in found} == expected
    assert all(expected.values())


def test_the_model_describes_itself(client: Client, scorer: Scorer) -> None:
    model = client.get("/v1/model").json()
    assert (model["name"], model["tasks"]) == ("tiny", ["click", "conversion", "teacher"])
    assert (model["bundle"], model["index"]) == (scorer.fingerprint, scorer.index_id)
    assert (model["ads"], model["eligible_ads"]) == (scorer.index_size, scorer.eligible)
    assert model["utility"] == tiny.CONFIG.utility
    assert model["limits"] == {"k": MAX_K, "queries": MAX_QUERIES, "candidates": 16384, "body": MAX_BODY}
    assert model["versions"]["python"].startswith("3.")
    assert model["features"] == [
        {"name": "user", "kind": "categorical", "dtype": "string"},
        {"name": "country", "kind": "categorical", "dtype": "string", "default": "us"},
        {"name": "interests", "kind": "bag", "dtype": "string", "max_length": 3},
        {"name": "history", "kind": "sequence", "dtype": "int", "max_length": 4},
        {"name": "age", "kind": "numeric", "dtype": "float"},
        {"name": "query_embedding", "kind": "dense", "dtype": "float", "dim": 3},
    ]


def test_the_docs_need_no_network(client: Client) -> None:
    document = client.get("/schema/openapi.json").json()
    body = document["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {
        "query",
        "queries",
        "k",
        "candidates",
        "model",
        "context",
        "where",
        "exclude",
        "explore",
    }
    page = client.get("/schema")
    assert page.headers["content-type"].startswith("text/html")
    assert "/v1/rank" in page.text
    loaded = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        answer = client.get(path)
        assert (answer.status_code, len(answer.content) > 10_000) == (200, True)
        assert answer.headers["content-type"].startswith("text/css" if path.endswith("css") else "text/javascript")
    assert not re.search(r"""(src|href|url)=?\W{0,2}(https?:|//)""", page.text)
    for absent in ("/schema/assets/../docs.py", "/schema/assets/nothing.js", "/schema/oauth2-redirect.html"):
        assert client.get(absent).status_code == 404


def test_two_services_do_not_share_metrics(client: Client, scorer: Scorer) -> None:
    post(client, {"query": {}})
    with TestClient(create_app(scorer)) as other:
        assert 'tt_jax_queries_total{model="tiny"} 0.0' in other.get("/metrics").text
    assert 'tt_jax_queries_total{model="tiny"} 1.0' in client.get("/metrics").text
