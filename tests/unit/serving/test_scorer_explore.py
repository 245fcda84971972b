"""Answers that explore: only what may serve, no ad twice, as often as the propensities say."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.eligibility.conditions import Condition
from serving.index.ad_index import index_table
from serving.scorer import Scorer
from serving.scoring.explore import Explore
from tests.support import targeting, tiny

N, K = 300, 12
CONTEXT = {"countries": "c1", "placements": [0, 1, 2], "now": targeting.NOW}


@pytest.fixture(scope="module")
def ads() -> tuple[pa.Table, list[dict[str, Any]]]:
    return targeting.ads(np.random.default_rng(2), N)


@pytest.fixture(scope="module")
def scorer(ads: tuple[pa.Table, Any], tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    bundle = targeting.bundle(tmp_path_factory.mktemp("explore") / "bundle")
    return Scorer(bundle, index_table(bundle, ads[0]), max_k=N, max_candidates=N)


@pytest.mark.parametrize("by", ["uniform", "softmax"])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("listed", [False, True])
def test_what_may_serve_takes_slots(scorer: Scorer, ads: tuple[pa.Table, Any], by: Any, batch: int, listed: bool):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        ids = ads[0].column("ad_id").to_pylist()
        queries, requests = tiny.queries(rng, batch), [targeting.request(rng, ids) for _ in range(batch)]
        said: Any = {key: [request[key] for request in requests] for key in ("context", "where", "exclude")}
        lists = [targeting.some(rng, ids, 200) for _ in queries] if listed else None
        eligible = scorer.top_k(queries, N, lists, **said)
        found = scorer.top_k(queries, K, lists, explore=Explore(0.5, seed, by), **said)
        assert found == scorer.top_k(queries, K, lists, explore=Explore(0.5, seed, by), **said)
        for all_ads, answer in zip(eligible, found, strict=True):
            known = {ad.id: ad for ad in all_ads}
            assert len({ad.id for ad in answer}) == len(answer) == min(K, len(all_ads))
            mean = min(K * 0.5, max(0, len(all_ads) - K))
            best = [ad.id for ad in all_ads[:K]]
            assert abs(sum(ad.id not in best for ad in answer) - mean) < 1
            for slot, ad in enumerate(answer):
                assert ad.score == pytest.approx(known[ad.id].score, rel=1e-5, abs=1e-6)
                assert ad.probabilities == pytest.approx(known[ad.id].probabilities, rel=1e-5)
                if ad.id in best:
                    assert ad.id == best[slot]
                    assert ad.propensity == pytest.approx(1 - mean / len(answer))
                elif by == "uniform":
                    assert ad.propensity == pytest.approx(mean / (len(all_ads) - K))


@pytest.mark.parametrize("by", ["uniform", "softmax"])
def test_ads_are_in_the_answer_as_often_as_they_say(scorer: Scorer, by: Any):
    (query,) = tiny.queries(np.random.default_rng(0), 1)
    ids, runs = [ad.id for ad in scorer.top_k([query], 20, context=CONTEXT)[0]], 2_000
    assert len(ids) == 20
    count: dict[Any, int] = defaultdict(int)
    stated: dict[Any, set[Any]] = defaultdict(set)
    for seed in range(runs // 20):
        for answer in scorer.top_k([query] * 20, 6, [ids] * 20, context=CONTEXT, explore=Explore(0.3, seed, by)):
            for ad in answer:
                count[ad.id] += 1
                stated[ad.id].add(ad.propensity)
    assert sum(next(iter(p)) for p in stated.values()) == pytest.approx(6)
    for ad, propensities in stated.items():
        (p,) = propensities
        assert abs(count[ad] / runs - p) < 4.5 * np.sqrt(max(p * (1 - p), 1e-4) / runs)


def test_without_a_share_it_is_the_ranking(scorer: Scorer):
    queries = tiny.queries(np.random.default_rng(0), 4)
    plain = scorer.top_k(queries, K, context=CONTEXT)
    found = scorer.top_k(queries, K, context=CONTEXT, explore=Explore(0.0, 1))
    assert [[ad.id for ad in answer] for answer in found] == [[ad.id for ad in answer] for answer in plain]
    assert {ad.propensity for answer in found for ad in answer} == {1.0}
    assert not any(ad.propensity for answer in plain for ad in answer)


def test_a_call_may_explore_for_some_of_its_requests(scorer: Scorer):
    queries = tiny.queries(np.random.default_rng(0), 3)
    encoded, explore = scorer.encode(queries, 0, [Condition(CONTEXT)] * 3), Explore(0.5, 4)
    found = scorer.start(encoded, [K] * 3, None, [None, (explore, 1), None]).answers()
    plain, explored = (
        scorer.top_k(queries, K, context=CONTEXT),
        scorer.top_k(queries, K, context=CONTEXT, explore=explore),
    )
    assert [(ad.id, ad.propensity) for ad in found[1]] == [(ad.id, ad.propensity) for ad in explored[1]]
    assert [[ad.id for ad in found[i]] for i in (0, 2)] == [[ad.id for ad in plain[i]] for i in (0, 2)]


def test_nothing_eligible_is_no_ad(scorer: Scorer):
    queries = tiny.queries(np.random.default_rng(0), 2)
    where = {"cost": {"max": -1.0}}
    assert scorer.top_k(queries, K, context=CONTEXT, where=where, explore=Explore(0.5, 4)) == [[], []]
