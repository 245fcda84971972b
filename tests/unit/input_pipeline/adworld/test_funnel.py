from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest

from input_pipeline.adworld.funnel import Memory, auction, sample_requests, take_inventory
from input_pipeline.adworld.simulate import AdWorldConfig, simulate
from input_pipeline.adworld.truth import click_logit_parts
from input_pipeline.adworld.world import SCENARIOS, SURFACES, build_world

SMALL = AdWorldConfig(seed=3, users=1500, advertisers=40, ads=400, days=4, requests_per_day=5000, new_ads_per_day=20)


def test_auction_matches_a_loop() -> None:
    rng = np.random.default_rng(0)
    bid = np.maximum(rng.lognormal(size=(200, 7)), 0.05).astype(np.float32)
    p = rng.uniform(0.01, 0.3, (200, 7)).astype(np.float32)
    valid = rng.random((200, 7)) < 0.7
    valid[0] = False
    sold = auction(bid, p, valid, 3, 0.05)
    for i in range(200):
        ranking = sorted(np.flatnonzero(valid[i]), key=lambda j: -float(bid[i, j] * p[i, j]))
        assert sold.winners[i, sold.shown[i]].tolist() == ranking[:3]
        for k, j in enumerate(ranking[:3]):
            runner_up = bid[i, ranking[k + 1]] * p[i, ranking[k + 1]] if k + 1 < len(ranking) else 0.0
            assert sold.price[i, k] == pytest.approx(max(0.05, runner_up / p[i, j]), rel=1e-5)
            assert sold.price[i, k] <= bid[i, j]


def test_winners_are_the_best_by_bid_times_heavy_ranker() -> None:
    # With every candidate logged, the auction can be replayed from the logs.
    config = dataclasses.replace(SMALL, requests_per_day=500, logged_candidates=SMALL.candidates)
    shown, offered = islice(simulate(config), 2)
    names = ("request_id", "ad_id", "bid", "teacher_click")
    request, ad, offered_bid, offered_p = (offered.table.column(c).to_numpy() for c in names)
    score = offered_bid * offered_p
    won = shown.table.column("ad_id").to_numpy().reshape(-1, config.slots)
    price, bid = (shown.table.column(c).to_numpy().reshape(-1, config.slots) for c in ("price", "bid"))
    p = shown.table.column("teacher_click").to_numpy().reshape(-1, config.slots)
    assert (price <= bid).all()
    assert (price >= np.float32(config.reserve)).all()
    for i, r in enumerate(np.unique(request)):
        rows = np.flatnonzero(request == r)
        assert len(set(ad[rows])) == len(rows) > config.slots
        rows = rows[np.argsort(-score[rows])]
        assert ad[rows[: config.slots]].tolist() == won[i].tolist()
        second = np.clip(score[rows[1 : config.slots + 1]] / p[i], config.reserve, bid[i])
        np.testing.assert_allclose(price[i], second, rtol=1e-5)
    position = offered.table.column("position").drop_null().to_numpy()
    assert len(position) == won.size
    assert offered.table.column("click").null_count == len(ad) - won.size


def test_memory_counts_recent_impressions_of_an_advertiser() -> None:
    world = build_world(SMALL)
    memory, ads = Memory(world), world.ads
    same = np.flatnonzero(ads.advertiser == ads.advertiser[0])[:2]
    other = int(np.flatnonzero(ads.advertiser != ads.advertiser[0])[0])
    shown = np.array([same[0], same[0], same[1], other])
    memory.record(np.arange(4), np.full(4, 3), shown, np.array([True, False, True, False]))
    assert memory.exposures(np.array([3]), same[:1]).tolist() == [0.0]
    memory.midnight()
    assert memory.exposures(np.array([3, 3, 3, 4]), np.array([*same, other, same[0]])).tolist() == [3.0, 3.0, 1.0, 0.0]
    assert memory.shown[3] == 4
    assert memory.clicked[3, -2:].tolist() == same.tolist()
    memory.midnight()
    assert memory.exposures(np.array([3]), same[:1]) == pytest.approx([2.1])


@pytest.mark.parametrize("share", [0.0, 0.08, 0.5])
def test_interaction_has_its_share_of_the_variance_and_no_main_effect(share: float) -> None:
    config = dataclasses.replace(SMALL, interaction_share=share, users=4000, ads=4000)
    world = build_world(config)
    rng = np.random.default_rng(0)
    for scenario in range(len(SCENARIOS)):
        inventory = take_inventory(world, 2, scenario, rng)
        requests = sample_requests(world, 2, scenario, 0, 4096, rng)
        uniform = dataclasses.replace(requests, user=rng.integers(0, config.users, 4096))
        ad = rng.choice(np.flatnonzero(world.ads.scenario == scenario), (4096, 64))
        parts = click_logit_parts(world, inventory.quality, uniform, ad)
        interaction = parts.interaction.astype(np.float64)
        total = parts.two_tower + interaction
        assert total.var() == pytest.approx(config.logit_std**2, rel=0.06)
        assert interaction.var() / total.var() == pytest.approx(share, abs=0.02)
        assert abs(np.mean(parts.two_tower * interaction)) < 0.02 * config.logit_std**2
    spectrum = np.linalg.svd(world.interaction, compute_uv=False)
    np.testing.assert_allclose(spectrum[:-1], spectrum[0], rtol=1e-4)
    assert spectrum[-1] < 1e-3 * spectrum[0]
    assert np.abs(world.interaction.mean(axis=0)).max() < 1e-5 > np.abs(world.interaction.mean(axis=1)).max()


def test_scenarios_want_different_interests() -> None:
    w = build_world(SMALL).click_weights
    assert w[0] @ w[1] / np.linalg.norm(w[0]) / np.linalg.norm(w[1]) < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"days": 2}, "days: expected >= 3, got 2"),
        ({"candidates": 4}, "candidates: expected >= 5, got 4"),
        ({"logged_candidates": 33}, "logged_candidates: expected < 33, got 33"),
        ({"interaction_share": 1.5}, "interaction_share: expected a number in 0..1, got 1.5"),
        ({"heavy_noise": float("nan")}, "heavy_noise: expected a number >= 0, got nan"),
        ({"ads": 100}, "ads: expected >= 4 x candidates = 128, got 100"),
        ({"seed": -1}, "seed: expected >= 0, got -1"),
    ],
)
def test_bad_config_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdWorldConfig(**change)


def test_surfaces_follow_their_shares() -> None:
    world = build_world(SMALL)
    for scenario, home in ((0, 0.6), (1, 0.3)):
        requests = sample_requests(world, 0, scenario, 0, 5000, np.random.default_rng(0))
        assert np.mean(requests.surface == SURFACES.index("home_feed")) == pytest.approx(home, abs=0.03)
