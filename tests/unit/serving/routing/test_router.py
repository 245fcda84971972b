"""Which pair ranks a request: by name, by scenario, and by a split that is stable and has the shares that it should."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serving.batching.request import Work
from serving.routing.router import Router, Routes, position
from serving.scorer import RequestError, Scorer
from tt_jax.metrics.experiment import binomial_interval

SPLIT = {"shopping": {"shopping.1": 70.0, "shopping.2": 30.0}}


@pytest.fixture(scope="module")
def scorers(scenario_pairs: Path) -> dict[str, Scorer]:
    folders = {"standard": "standard", "shopping.1": "shopping", "shopping.2": "better"}
    return {
        pair: Scorer.load(scenario_pairs / name / "bundle", scenario_pairs / name / "index", max_k=20, warm=False)
        for pair, name in folders.items()
    }


def router(scorers: dict[str, Scorer], by: str = "scenario", split_by: str = "user") -> Router:
    return Router(Routes({"standard": {"standard": 1.0}, **SPLIT}, by=by, split_by=split_by), scorers)


def pair_of(router: Router, *queries: Any, model: str = "", request_id: str = "r") -> str:
    return router.routed(Work(list(queries), 3, None, model), request_id).model


def users(n: int) -> list[dict[str, Any]]:
    return [{"scenario": "shopping", "user": f"u{i}"} for i in range(n)]


def test_a_request_goes_where_it_says(scorers: dict[str, Scorer]) -> None:
    routes = router(scorers, by="")
    assert pair_of(routes, {}, model="standard") == "standard"
    assert pair_of(routes, {}, model="shopping.2") == "shopping.2"
    assert pair_of(routes, {"user": "u1"}, model="shopping") in ("shopping.1", "shopping.2")
    with pytest.raises(RequestError, match=r"model: expected one of 'standard', 'shopping', got 'moon'"):
        pair_of(routes, {}, model="moon")
    with pytest.raises(RequestError, match=r"model: expected one of 'standard', 'shopping', got none"):
        pair_of(routes, {})


def test_a_lone_model_need_not_be_named(scorers: dict[str, Scorer]) -> None:
    alone = {"standard": scorers["standard"]}
    routes = Router(Routes.of(alone), alone)
    assert pair_of(routes, {}) == pair_of(routes, {}, model="standard") == "standard"


def test_the_scenario_finds_the_model(scorers: dict[str, Scorer]) -> None:
    routes = router(scorers)
    assert pair_of(routes, {"scenario": "standard"}, {"scenario": "standard"}) == "standard"
    assert routes.model_of[pair_of(routes, {"scenario": "shopping"})] == "shopping"
    assert pair_of(routes, {"scenario": "shopping"}, model="standard") == "standard"  # a name goes first
    for query, got in (({}, "none"), ({"scenario": "video"}, "'video'"), ({"scenario": ["x"]}, r"\['x'\]")):
        expected = r"query 0: feature 'scenario': expected one of 'standard', 'shopping', which models cover.*"
        with pytest.raises(RequestError, match=f"{expected}, got {got}"):
            pair_of(routes, query)
    with pytest.raises(
        RequestError, match="query 1: feature 'scenario': expected queries of one model, got 'shopping'"
    ):
        pair_of(routes, {"scenario": "standard"}, {"scenario": "shopping"})


def test_what_no_model_covers_is_refused(scorers: dict[str, Scorer]) -> None:
    alone = {"a": scorers["standard"]}
    routes = Router(Routes({"a": {"a": 1.0}}, by="scenario"), alone)
    with pytest.raises(RequestError, match=r"expected one of 'standard', which models cover.*, got 'shopping'"):
        pair_of(routes, {"scenario": "shopping"})


def test_models_must_not_overlap(scorers: dict[str, Scorer], warm_scorer: Scorer) -> None:
    two = {"a": scorers["shopping.1"], "b": scorers["shopping.2"]}
    with pytest.raises(ValueError, match="two models for the scenario 'shopping': a and b"):
        Router(Routes({"a": {"a": 1.0}, "b": {"b": 1.0}}, by="scenario"), two)
    named = {"standard": two["a"], "shopping": two["b"]}  # given as a scenario, as `tt-jax abtest` has it
    routes = Router(Routes({name: {name: 1.0} for name in named}, by="scenario"), named)
    assert pair_of(routes, {"scenario": "standard"}) == "standard"
    with pytest.raises(ValueError, match="two models for the scenario 'shopping': a and b"):
        Router(Routes({"a": {"a": 1.0}, "b": {"b": 1.0}}, by="scenario"), {**two, "a": scorers["standard"]}).check(
            "a", two["a"]
        )
    with pytest.raises(ValueError, match="route: expected the scenario, 'scenario', as a feature of a query of tiny"):
        Router(Routes({"tiny": {"tiny": 1.0}}, by="scenario"), {"tiny": warm_scorer})
    with pytest.raises(ValueError, match="split_by: expected a feature of a query of told, got 'moon'"):
        router(scorers, split_by="moon")


def test_the_split_is_stable_and_has_its_shares(scorers: dict[str, Scorer]) -> None:
    routes, again = router(scorers), router(scorers)
    found = [pair_of(routes, query, request_id=str(i)) for i, query in enumerate(users(4000))]
    assert found == [pair_of(again, query) for query in users(4000)]
    low, high = binomial_interval(Counter(found)["shopping.2"], 4000)
    assert low <= 0.3 <= high
    other = [position("other", query["user"].encode()) < 0.3 for query in users(4000)]
    both = sum(a == "shopping.2" and b for a, b in zip(found, other, strict=True))
    assert abs(both - 360) < 4 * 18  # another salt splits independently: 0.3 * 0.3 of them, within 4 deviations


def test_other_weights_move_the_difference_and_nobody_else(scorers: dict[str, Scorer]) -> None:
    routes = router(scorers)
    before = [pair_of(routes, query) for query in users(2000)]
    routes.set_weights("shopping", {"shopping.1": 90.0, "shopping.2": 10.0})
    after = [pair_of(routes, query) for query in users(2000)]
    assert {(a, b) for a, b in zip(before, after, strict=True) if a != b} == {("shopping.2", "shopping.1")}
    low, high = binomial_interval(after.count("shopping.2"), 2000)
    assert low <= 0.1 <= high
    routes.set_weights("shopping", {"shopping.1": 0.0, "shopping.2": 1.0})
    assert {pair_of(routes, query) for query in users(50)} == {"shopping.2"}
    for first, second in ((0.0, 0.0), (-1.0, 2.0), (float("nan"), 2.0)):
        with pytest.raises(RequestError, match="weights: expected numbers >= 0, one above 0"):
            routes.set_weights("shopping", {"shopping.1": first, "shopping.2": second})
    with pytest.raises(RequestError, match=r"weights: expected those of shopping\.1, shopping\.2"):
        routes.set_weights("shopping", {"shopping.1": 1.0})
    assert routes.weights("shopping") == {"shopping.1": 0.0, "shopping.2": 1.0}


def test_without_a_user_the_request_decides(scorers: dict[str, Scorer]) -> None:
    for split_by, query in (("user", {}), ("user", {"user": None}), ("", {"user": "u1"})):  # user_id is no feature
        routes = router(scorers, by="", split_by=split_by)
        found = [pair_of(routes, query, model="shopping", request_id=str(i)) for i in range(1000)]
        low, high = binomial_interval(found.count("shopping.2"), 1000)
        assert low <= 0.3 <= high
