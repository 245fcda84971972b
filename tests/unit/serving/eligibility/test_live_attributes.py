"""Attributes that change live: after every set of changes, what may serve is as in an index that was built so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.admin.messages import read_changes
from serving.eligibility.conditions import Condition
from serving.index.ad_index import index_table, now
from serving.index.change_set import ChangeError
from serving.index.compaction import Compacted, compact
from serving.index.delta import Delta
from serving.scorer import RequestError, Scorer
from serving.scorer_updates import prepare, prepare_delta, restore
from tests.support import targeting, tiny
from tt_jax.bundle.reader import Bundle

N = 150


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return targeting.bundle(tmp_path_factory.mktemp("targeting") / "bundle")


class Ads:
    """Ads as they should be, by id, and random changes of them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        table, _ = targeting.ads(self.rng, N)
        self.rows: dict[int, dict[str, Any]] = {row["ad_id"]: row for row in table.to_pylist()}
        self.types = table.schema

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(list(self.rows.values()), schema=self.types)

    def change(self, new: int) -> dict[str, Any]:
        """The body of a change, made here too."""
        rng, ids = self.rng, list(self.rows)
        some = [ids[i] for i in rng.permutation(len(ids))[:60]]
        removed, disabled, replaced = some[:10], some[10:20], some[20:25]
        sets: dict[str, list[Any]] = {}
        for a in targeting.ATTRIBUTES:
            for ad in some[25 : 25 + int(rng.integers(0, 30))]:
                self.rows[ad][a.name] = value = targeting.attributes(rng)[a.name]
                sets.setdefault(a.name, []).append([ad, value])
        for ad in removed:
            del self.rows[ad]
        for ad in disabled:
            self.rows[ad]["eligible"] = False
        fresh, _ = targeting.ads(rng, new + len(replaced))
        upsert = fresh.to_pylist()
        for i, row in enumerate(upsert):
            row["ad_id"] = replaced[i] if i < len(replaced) else 10**6 + int(rng.integers(10**9))
            self.rows[row["ad_id"]] = row
        return {"remove": removed, "disable": disabled, "set": sets, "upsert": upsert}


def answers(scorer: Scorer, requests: list[dict[str, Any]]) -> list[dict[int, float]]:
    queries = tiny.queries(np.random.default_rng(0), len(requests))
    said = {key: [request[key] for request in requests] for key in ("context", "where", "exclude")}
    return [{ad.id: ad.score for ad in ads} for ads in scorer.top_k(queries, 400, **said)]


def same(found: list[dict[int, float]], expected: list[dict[int, float]]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[ad] for ad in b], list(b.values()), rtol=1e-5, atol=1e-6)


def test_every_change_is_as_built_so(bundle: Bundle, tmp_path: Path) -> None:
    ads, size = Ads(1), {"max_k": 400, "max_candidates": 400}
    first = index_table(bundle, ads.table())
    scorer = Scorer(bundle, first, warm=False, **size)
    deltas: list[Delta] = []
    for step, new in enumerate((3, 200, 0)):  # the second one needs more places
        body = json.dumps(ads.change(new)).encode()
        change = prepare(scorer, read_changes(body, scorer), now(), warm=False)
        change.delta.save(tmp_path / str(step))
        scorer = change.apply(scorer)
        deltas.append(Delta.load(tmp_path / str(step)))
        requests = [targeting.request(ads.rng, list(ads.rows)) for _ in range(6)]
        built = Scorer(bundle, index_table(bundle, ads.table()), warm=False, **size)
        same(answers(scorer, requests), answers(built, requests))
    compact(None, deltas, scorer.ads).save(tmp_path / "compacted")
    again = restore(Scorer(bundle, first, warm=False, **size), Compacted.load(tmp_path / "compacted"))
    same(answers(again, requests), answers(built, requests))
    replayed = Scorer(bundle, first, warm=False, **size)
    for delta in deltas:
        replayed = prepare_delta(replayed, delta, warm=False).apply(replayed)
    assert replayed.index_id == scorer.index_id == again.index_id
    same(answers(replayed, requests), answers(built, requests))


def test_why_an_ad_may_not_serve(bundle: Bundle) -> None:
    ads = Ads(3)
    scorer = Scorer(bundle, index_table(bundle, ads.table()), warm=False)
    for _ in range(20):
        request = targeting.request(ads.rng, list(ads.rows))
        condition = Condition(**request)
        served = {ad.id for ad in scorer.top_k(tiny.queries(ads.rng, 1), 400, **request)[0]}
        for ad, row in ads.rows.items():
            rules = scorer.explain(ad, condition)
            assert (not rules) == (ad in served) == (row["eligible"] and targeting.may_serve(row, ad, request))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set": {"colour": [[1, 2]]}}, "set: unknown attribute 'colour'"),
        ({"set": {"cost": [[-5, 2]]}}, "set.cost[0]: expected the id of an ad in the index, got -5"),
        ({"set": {"cost": [["AD", "dear"]]}}, "set.cost, ad AD: expected a number, got 'dear'"),
        ({"set": {"cost": [["AD", None]]}}, "set.cost[0]: expected a value, got null"),
        ({"set": {"adult": [["AD", 1]]}}, "set.adult, ad AD: expected true or false, got 1"),
        ({"set": {"flight": [["AD", [5, 4]]]}}, "set.flight, ad AD: expected [start, end] in whole Unix seconds"),
        ({"set": {"countries": [["AD", [7]]]}}, "set.countries, ad AD: expected a string, got 7"),
        ({"set": {"countries": [["AD", [f"new{i}" for i in range(40)]]]}}, "attribute 'countries': 'new"),
        ({"set": {"brand": [["AD", [1, 2]]]}}, "set.brand, ad AD: a set of more than 512 values has at most one"),
        ({"set": {"cost": [["AD", 1], ["AD", 2]]}}, "set.cost[1]: column 'ad_id': expected distinct ids"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_whole(bundle: Bundle, change: Any, message: str) -> None:
    ads = Ads(4)
    scorer = Scorer(bundle, index_table(bundle, ads.table()), warm=False)
    ad = next(iter(ads.rows))
    body = json.dumps(change).replace('"AD"', str(ad))
    with pytest.raises(ChangeError) as error:
        prepare(scorer, read_changes(body.encode(), scorer), now(), warm=False)
    assert message.replace("AD", str(ad)) in str(error.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"context": {"country": "de"}}, "query 0: context.country: unknown; did you mean 'countries'?"),
        ({"context": {"countries": [1]}}, "query 0: context.countries: expected strings, got 1"),
        ({"context": {"now": 1.5}}, "query 0: context.now: expected whole Unix seconds, 0..4294967295, got 1.5"),
        ({"context": {"floor": "low"}}, "query 0: context.floor: expected a finite float32 number, got 'low'"),
        ({"where": {"colour": {"any": []}}}, "query 0: where.colour: unknown"),
        ({"where": {"category": {"of": []}}}, "query 0: where.category.of: unknown operator"),
        ({"where": {"category": {"any": "k1"}}}, "query 0: where.category.any: expected a list of values, got 'k1'"),
        ({"where": {"category": {}}}, "query 0: where.category: expected an object of any, all, none, got {}"),
        ({"where": {"cost": {"min": None}}}, "query 0: where.cost.min: expected a finite float32 number, got None"),
        ({"where": {"brand": {"all": [1]}}}, "query 0: where.brand.all: unknown operator"),
        ({"where": {"adult": 1}}, "query 0: where.adult: expected true or false, got 1"),
        ({"where": {"brand": {"any": list(range(400))}}}, "query 0: where: expected at most 256 values of sets"),
        ({"exclude": ["x"]}, "query 0: exclude: expected an integer, got 'x'"),
        ({"exclude": [1] * 16_385}, "query 0: exclude: expected at most 16384 ids, got 16385"),
        ({"where": [{}, {}]}, "where: expected one for each of 1 queries, got 2"),
    ],
)
def test_what_a_request_says_wrongly_is_named(bundle: Bundle, said: Any, message: str) -> None:
    scorer = Scorer(bundle, index_table(bundle, Ads(5).table()), warm=False)
    with pytest.raises(RequestError) as error:
        scorer.top_k([{}], 5, **said)
    assert str(error.value).startswith(message)
