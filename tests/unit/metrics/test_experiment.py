"""Differences of two arms, paired and split, against closed forms and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from tt_jax.metrics.experiment import Effect, paired_effects, split_effects

RATIO = {"ctr": ("clicks", "impressions")}


def traffic(rng: np.random.Generator, users: int, lift: float = 0.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Clicks and impressions `[n, 2]`, and users: a user's requests share a propensity, the arms share their noise."""
    requests = 1 + rng.poisson(2, users)
    user = np.repeat(np.arange(users), requests)
    rate = np.repeat(rng.beta(2, 18, users), requests)
    impressions = rng.integers(1, 6, len(user))
    draws = rng.random((len(user), 6))
    shown = np.arange(6) < impressions[:, None]
    arms = [(shown & (draws < (rate * (1 + x))[:, None])).sum(axis=1) for x in (0.0, lift)]
    both = np.stack([impressions, impressions], 1).astype(np.float64)
    return {"clicks": np.stack(arms, 1).astype(np.float64), "impressions": both}, user


def test_a_split_difference_against_the_textbook() -> None:
    """With one row a user and impressions of 1, the log of a mean has the variance s^2 / (n mean^2)."""
    rng = np.random.default_rng(0)
    x = rng.random(400)
    arm = (rng.random(400) < 0.3).astype(np.int64)
    sums = {"clicks": x, "impressions": np.ones(400)}
    e = split_effects(sums, RATIO, np.arange(400), arm)["ctr"]
    a, b = x[arm == 0], x[arm == 1]
    assert (e.control, e.treatment) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert e.relative == pytest.approx(b.mean() / a.mean() - 1)
    width = norm.ppf(0.975) * np.sqrt(sum(v.var(ddof=1) / len(v) / v.mean() ** 2 for v in (a, b)))
    log_ratio = np.log(b.mean() / a.mean())
    assert e.low == pytest.approx(np.expm1(log_ratio - width), rel=1e-6)
    assert e.high == pytest.approx(np.expm1(log_ratio + width), rel=1e-6)
    # Rows of one user count together: a row cut into four changes nothing.
    four = {name: np.repeat(values / 4, 4) for name, values in sums.items()}
    again = split_effects(four, RATIO, np.repeat(np.arange(400), 4), np.repeat(arm, 4))["ctr"]
    assert (again.low, again.high) == (pytest.approx(e.low), pytest.approx(e.high))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Both designs, users of several correlated rows, a lift of 20 % that the arms' shared noise makes exact."""
    held = {"paired": 0, "split": 0}
    width = {"paired": 0.0, "split": 0.0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sums, user = traffic(rng, 400, lift=0.2)
        arm = rng.integers(0, 2, 400)[user]
        own = {name: values[np.arange(len(user)), arm] for name, values in sums.items()}
        found = {
            "paired": paired_effects(sums, RATIO, user, replicates=300, seed=seed)["ctr"],
            "split": split_effects(own, RATIO, user, arm)["ctr"],
        }
        for design, e in found.items():
            assert e.low is not None
            assert e.high is not None
            held[design] += e.low <= 0.2 <= e.high
            width[design] += e.high - e.low
    for count in held.values():
        assert binomtest(count, 200, 0.95).pvalue > 1e-3, held
    assert width["paired"] < 0.6 * width["split"]


def test_equal_arms_differ_by_nothing() -> None:
    sums, user = traffic(np.random.default_rng(1), 50)
    e = paired_effects(sums, RATIO, user, replicates=100)["ctr"]
    assert (e.relative, e.low, e.high, e.significant) == (0.0, 0.0, 0.0, False)
    assert e.control == e.treatment == sums["clicks"][:, 0].sum() / sums["impressions"][:, 0].sum()


def test_what_is_undefined_is_none() -> None:
    user, arm = np.arange(6), np.array([0, 0, 0, 1, 1, 1])
    none, one = np.zeros(6), np.ones(6)
    nothing = Effect(0.0, 0.0, None, None, None)
    assert split_effects({"clicks": none, "impressions": one}, RATIO, user, arm)["ctr"] == nothing
    both = {"clicks": np.zeros((6, 2)), "impressions": np.ones((6, 2))}
    assert paired_effects(both, RATIO, user, replicates=20)["ctr"] == nothing
    undefined = Effect(None, None, None, None, None)
    assert split_effects({"clicks": none, "impressions": none}, RATIO, user, arm)["ctr"] == undefined
    # A treatment without a click is a known loss of all, of unknown width.
    lost = split_effects({"clicks": 1.0 - arm, "impressions": one}, RATIO, user, arm)["ctr"]
    assert (lost.relative, lost.low, lost.significant) == (-1.0, None, False)


def test_a_user_in_both_arms_is_named() -> None:
    ones = {"clicks": np.ones(3), "impressions": np.ones(3)}
    with pytest.raises(ValueError, match="user 7: expected one arm, found both"):
        split_effects(ones, RATIO, np.array([5, 7, 7]), np.array([0, 0, 1]))
