"""Requests that explore, by HTTP: the answers, the log, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient

from serving.parity.request_log import LogSettings, read_log
from serving.scorer import Scorer
from serving.scoring.explore import Explore
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support.service_calls import error_of, post, some_queries

EXPLORE = {"share": 0.3, "seed": 7}


def test_answers_and_log_carry_propensities(tiny_bundle: Path, tiny_index: Path, tmp_path: Path):
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    path = tmp_path / "log.jsonl"
    queries = some_queries(3, seed=8)
    config = ServiceConfig(log=LogSettings(path, fraction=1.0))
    with TestClient(create_app(scorer, config)) as client:
        several = post(client, {"queries": queries, "k": 5, "explore": EXPLORE})["results"]
        soft = post(client, {"query": queries[0], "k": 5, "explore": {**EXPLORE, "by": "softmax"}})["ads"]
        plain = post(client, {"query": queries[0], "k": 5})["ads"]
    expected = scorer.top_k(queries, 5, explore=Explore(**EXPLORE))
    assert [[(ad["id"], ad["propensity"]) for ad in answer["ads"]] for answer in several] == [
        [(ad.id, ad.propensity) for ad in answer] for answer in expected
    ]
    assert all(0 < ad["propensity"] <= 1 for ad in soft)
    assert not any("propensity" in ad for ad in plain)
    logged = [query for _, query in read_log(path)]
    assert [query.explore.get("query") for query in logged] == [0, 1, 2, 0, None]
    assert logged[1].request == logged[0].request[:-1] + "1"
    assert [ad.propensity for ad in logged[0].ads] == [ad.propensity for ad in expected[0]]
    assert Explore.of({k: v for k, v in logged[0].explore.items() if k != "query"}) == Explore(**EXPLORE)
    assert logged[4].request not in ("", logged[3].request)
    assert not any(ad.propensity for ad in logged[4].ads)


@pytest.mark.parametrize(
    ("explore", "message"),
    [
        ({"share": 2, "seed": 1}, "explore.share: expected a number within 0..1, got 2"),
        ({"share": 0.1}, "explore.seed: expected a number, got none"),
        ({"share": 0.1, "seed": 1, "bye": "x"}, "explore: unknown key 'bye'; did you mean 'by'?"),
        ({"share": 0.1, "seed": 1, "by": "chance"}, "explore.by: expected 'uniform' or 'softmax', got 'chance'"),
    ],
)
def test_wrong_settings_are_refused(tiny_bundle: Path, tiny_index: Path, explore: Any, message: str):
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    with TestClient(create_app(scorer)) as client:
        answer = client.post("/v1/rank", json={"query": some_queries(1)[0], "explore": explore})
        assert message in error_of(answer, 400)
