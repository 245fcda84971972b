"""Experiments on AdWorld with known outcomes: identities, an oracle against chance, no effect where there is none."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from input_pipeline.adworld.funnel import take_inventory
from input_pipeline.adworld.simulate import AdWorldConfig, corpus, simulate
from input_pipeline.adworld.truth import Requests, click_logit, sigmoid
from input_pipeline.adworld.world import SCENARIOS
from tt_jax.evaluation.adworld.experiment import FIGURES, arm_of, count_significant, effects, groups, report, sums
from tt_jax.evaluation.adworld.replay import Morning, Outcomes, Ranker, Replay, replay, wake

WORLD = AdWorldConfig(seed=4, users=1500, advertisers=40, ads=600, days=3, requests_per_day=1500, new_ads_per_day=20)
HOW = Replay(requests=1300, candidates=60, passed=12, wanted=8, seed=1)


@cache
def morning() -> Morning:
    return wake(WORLD)


def by_chance(requests: Requests, _: pa.Table, ad: np.ndarray) -> np.ndarray:
    """No ranking at all, the same for the same request and ad."""
    return (requests.request_id[:, None] * 7919 + ad.astype(np.int64) * 104_729) % 10_007


def oracle(requests: Requests, _: pa.Table, ad: np.ndarray) -> np.ndarray:
    """Bid times the true probability of a click."""
    m = morning()
    inventory = take_inventory(m.world, m.day, requests.scenario, np.random.default_rng(0))
    exposures = m.memory.exposures(requests.user[:, None], ad)
    return m.world.ads.bid[ad] * sigmoid(click_logit(m.world, inventory.quality, requests, ad, exposures))


def both(*rankers: Ranker, how: Replay = HOW) -> Outcomes:
    return Outcomes.concatenate([replay(morning(), s, rankers, how) for s in range(len(SCENARIOS))])


def test_the_accounts_balance() -> None:
    found = both(by_chance, oracle)
    assert len(found.user) == 2 * HOW.requests
    for name, part in report(found, "paired").items():
        total, effect = part["sums"], part["effects"]
        for arm, which in enumerate(("control", "treatment")):
            for figure, (numerator, denominator) in FIGURES.items():
                assert effect[figure][which] == pytest.approx(total[numerator][arm] / total[denominator][arm]), name
            ctr, cpc = effect["ctr"][which], effect["cpc"][which]
            assert effect["revenue_per_request"][which] == pytest.approx(ctr * cpc * WORLD.slots)
            assert total["impressions"][arm] == WORLD.slots * total["requests"][arm]
    assert (found.clicks <= found.impressions).all()
    assert (found.long_clicks <= found.clicks).all()
    assert (found.conversions <= found.clicks).all()
    assert (found.recalled <= found.wanted).all()
    assert (found.wanted == HOW.wanted).all()
    assert ((found.revenue > 0) == (found.clicks > 0)).all()
    assert found.revenue.min() >= 0
    by_group = {name: rows.sum() for name, rows in groups(found).items()}
    assert by_group["all"] == by_group["standard"] + by_group["shopping"] == len(found.user)
    assert by_group["standard"] == sum(n for name, n in by_group.items() if name.startswith("standard/"))


def test_revenue_is_the_prices_of_the_clicks() -> None:
    """A request at a time, by a loop over what the replay drew for it."""
    from tt_jax.evaluation.adworld.replay import _chunks, _sell

    (chunk,) = _chunks(morning(), 0, Replay(requests=40, candidates=60, passed=12, seed=3))
    passed = np.zeros(chunk.ad.shape, bool)
    passed[:, ::4] = chunk.valid[:, ::4]
    found = _sell(chunk, passed, chunk.valid)
    for i in range(40):
        columns = np.flatnonzero(passed[i])
        score = morning().world.ads.bid[chunk.ad[i, columns]] * chunk.heavy[i, columns]
        ranked = columns[np.argsort(-score)]
        paid = clicks = 0.0
        for place, c in enumerate(ranked[: WORLD.slots]):
            if chunk.draws[i, c, 0] < sigmoid(chunk.logit[i, c]):
                clicks += 1
                paid += max(WORLD.reserve, np.sort(score)[::-1][place + 1] / chunk.heavy[i, c])
        assert found["clicks"][i] == clicks
        assert found["revenue"][i] == pytest.approx(paid, rel=1e-5)
        assert found["recalled"][i] == len(columns)


def test_knowing_the_truth_pays() -> None:
    found = effects(both(by_chance, oracle), "paired")
    for figure in ("ctr", "revenue_per_request", "recall", "conversions_per_request"):
        assert found[figure].significant, figure
        assert (found[figure].relative or 0) > 0.1, figure
    assert found["recall"].control == pytest.approx(HOW.passed / 47, abs=0.06)  # of some 47 that are no repetition
    assert (found["recall"].treatment or 0) > 0.9


def test_a_and_a_are_the_same_to_the_last_click() -> None:
    found = both(oracle, lambda *request: oracle(*request))  # not one ranker, which would be asked once
    for name in ("impressions", "clicks", "long_clicks", "conversions", "revenue", "recalled"):
        values = getattr(found, name)
        np.testing.assert_array_equal(values[:, 0], values[:, 1])
    for effect in effects(found, "paired").values():
        assert (effect.relative, effect.low, effect.high, effect.significant) == (0.0, 0.0, 0.0, False)


def test_a_ranker_does_not_see_what_another_does() -> None:
    together, alone = both(by_chance, oracle), both(oracle)
    np.testing.assert_array_equal(together.revenue[:, 1], alone.revenue[:, 0])
    np.testing.assert_array_equal(together.recalled[:, 1], alone.recalled[:, 0])


def test_split_experiments_of_equal_rankers_find_little() -> None:
    how = Replay(requests=350, candidates=20, passed=8, wanted=4)

    def once(seed: int) -> Outcomes:
        return replay(morning(), 0, [by_chance, by_chance], dataclasses.replace(how, seed=seed))

    found = count_significant(once, 200)
    for figure in ("ctr", "cpc", "revenue_per_request", "recall"):
        f = found[figure]
        assert f["experiments"] == 200
        assert f["rate"] == f["significant"] / 200
        assert binomtest(f["significant"], 200, 0.05).pvalue > 1e-3, found
        wilson = binomtest(f["significant"], 200).proportion_ci(method="wilson")
        assert (f["low"], f["high"]) == pytest.approx((wilson.low, wilson.high), abs=1e-6)
    assert sum(f["significant"] for f in found.values()) > 0


def test_split_experiments_find_what_is_there() -> None:
    outcomes = both(by_chance, oracle)
    arm = arm_of(outcomes.user, 3)
    total = sums(outcomes, "split", 3)
    assert total["clicks"].tolist() == [outcomes.clicks[arm == a, a].sum() for a in range(2)]
    found, paired = effects(outcomes, "split", 3), effects(outcomes, "paired")
    assert found["ctr"].significant
    for figure in ("ctr", "recall"):
        assert found[figure].relative == pytest.approx(paired[figure].relative, abs=0.25)


def test_users_are_spread_over_the_arms_anew_by_every_salt() -> None:
    users = np.arange(20_000)
    first, second = arm_of(users, 0), arm_of(users, 1)
    np.testing.assert_array_equal(arm_of(users[::-1], 0), first[::-1])
    for arm in (first, second, first ^ second, first ^ np.roll(first, 1)):
        assert binomtest(int(arm.sum()), 20_000, 0.5).pvalue > 1e-4


def test_the_morning_is_that_of_the_logs() -> None:
    """The users' columns are those of the last day's log, so a replay has the query features of the log."""
    last = next(b for b in simulate(WORLD, ("impressions",)) if b.day == WORLD.days - 1)
    users = morning().users
    row = last.table.column("user_id").to_numpy() - 1
    for name in users.schema.names:
        assert pa.chunked_array([users.column(name).take(pa.array(row))]).equals(last.table.column(name)), name
    assert corpus(WORLD).num_rows == len(morning().world.ads.bid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": 0}, "requests: expected >= 1, got 0"),
        ({"passed": 300}, "passed: expected at most candidates = 200, got 300"),
        ({"seed": -1}, "seed: expected >= 0, got -1"),
    ],
)
def test_a_wrong_replay_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Replay(**change)


def test_too_few_passed_or_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="passed: expected more than the world's slots = 4, got 4"):
        replay(morning(), 0, [oracle], Replay(passed=4))
    with pytest.raises(ValueError, match="expected >= 4 x candidates = 800, got 600"):
        replay(morning(), 0, [oracle], Replay())
    with pytest.raises(ValueError, match="a ranker: expected utilities"):
        replay(morning(), 0, [lambda r, q, ad: np.full(ad.shape, np.nan)], HOW)
