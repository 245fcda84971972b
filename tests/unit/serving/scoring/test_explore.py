from __future__ import annotations

import numpy as np
import pytest

from serving.scoring.explore import Explore, ExploreError, draw, softmax_inclusion, systematic

RUNS = 4_000


@pytest.mark.parametrize("by", ["uniform", "softmax"])
@pytest.mark.parametrize(
    ("share", "ranked", "others"), [(0.1, 5, 7), (0.6, 4, 9), (1.0, 6, 3), (0.5, 8, 3), (1.0, 3, 3)]
)
def test_ads_are_drawn_as_often_as_their_propensities_say(by: str, share: float, ranked: int, others: int):
    utilities = np.random.default_rng(1).normal(size=others)
    kept, chosen = np.zeros(ranked), np.zeros(others)
    stated = np.full(others, np.nan)
    for seed in range(RUNS):
        found = draw(Explore(share, seed, by), 0, ranked, utilities)  # pyright: ignore[reportArgumentType]
        assert len(set(found.others)) == len(found.others) == len(set(found.slots)) <= ranked
        mean = min(share * ranked, others)
        assert int(mean) <= len(found.others) <= np.ceil(mean)
        kept += ~np.isin(np.arange(ranked), found.slots)
        chosen[found.others] += 1
        seen = stated[found.others]
        np.testing.assert_array_equal(seen[~np.isnan(seen)], found.propensities[~np.isnan(seen)])
        stated[found.others] = found.propensities
        kept_stated = found.ranked_propensity
    np.testing.assert_array_less(abs(kept / RUNS - kept_stated), 4.5 * np.sqrt(0.25 / RUNS))
    np.testing.assert_array_less(abs(chosen / RUNS - stated), 4.5 * np.sqrt(0.25 / RUNS))
    if by == "uniform":
        np.testing.assert_allclose(stated, min(share * ranked, others) / others)


def test_probabilities_of_the_softmax_add_up_and_are_at_most_one():
    utilities = np.array([0.0, 1, 2, 50, 3])
    p = softmax_inclusion(utilities, 2.5, 1.0)
    assert p.sum() == pytest.approx(2.5)
    assert p.max() == 1
    rest = np.exp(np.array([0.0, 1, 2, 3]))
    low = softmax_inclusion(utilities[[0, 1, 2, 4]], 0.5, 1.0)
    np.testing.assert_allclose(low, rest / rest.sum() * 0.5)
    np.testing.assert_allclose(softmax_inclusion(utilities, 2.5, 1e9), 0.5)
    assert (softmax_inclusion(np.array([-1e6, 0.0]), 0.5, 1.0) > 0).all()
    np.testing.assert_array_equal(softmax_inclusion(utilities, 5.0, 1.0), 1)


def test_whole_numbers_are_drawn_whole():
    for seed in range(200):
        assert len(systematic(np.full(10, 0.3), np.random.default_rng(seed))) == 3


def test_a_million_ads():
    found = draw(Explore(0.02, 3, "softmax"), 0, 100, np.random.default_rng(0).normal(size=10**6))
    assert len(found.others) == 2
    assert (found.propensities > 0).all()


def test_one_seed_one_draw():
    a, b, c = (draw(Explore(0.5, 9), query, 10, np.zeros(30)) for query in (0, 0, 1))
    np.testing.assert_array_equal(a.others, b.others)
    np.testing.assert_array_equal(a.slots, b.slots)
    assert a.others.tolist() != c.others.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.1, "seed": 0}, "explore.share: expected a number within 0..1, got 1.1"),
        ({"share": "1", "seed": 0}, "explore.share"),
        ({"share": float("nan"), "seed": 0}, "explore.share"),
        ({"share": 0.1, "seed": -1}, "explore.seed"),
        ({"share": 0.1, "seed": True}, "explore.seed"),
        ({"share": 0.1, "seed": 0, "by": "x"}, "explore.by: expected 'uniform' or 'softmax', got 'x'"),
        ({"share": 0.1, "seed": 0, "temperature": 0}, "explore.temperature"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str):
    with pytest.raises(ExploreError, match=message):
        Explore(**settings)
