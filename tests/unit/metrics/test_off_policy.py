from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import t

from tt_jax.metrics.off_policy import (
    Candidates,
    OffPolicyError,
    best_of_each,
    doubly_robust,
    self_normalised_ips,
)


def candidates(requests: int = 50, each: int = 6, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    n = requests * each
    outcome = np.where(rng.random(n) < 0.5, rng.random(n), np.nan)
    request = rng.permutation(np.repeat(np.arange(requests), each))
    return Candidates(request, rng.random(n), rng.uniform(0.05, 1, n), outcome, rng.random(n))


def reference(c: Candidates, doubly: bool) -> tuple[float, float]:
    """Value and standard error, row by row in Python."""
    above: dict[int, float] = {}
    below: dict[int, float] = {}
    for request, target, p, outcome, predicted in zip(*dataclasses.astuple(c), strict=True):
        weight = 0.0 if np.isnan(outcome) else target / p
        a = target * predicted + (weight * (outcome - predicted) if weight else 0.0) if doubly else 0.0
        if not doubly and weight:
            a = weight * outcome
        above[request] = above.get(request, 0.0) + a
        below[request] = below.get(request, 0.0) + (target if doubly else weight)
    value = sum(above.values()) / sum(below.values())
    squares = sum((above[r] - value * below[r]) ** 2 for r in above)
    return value, (squares * len(above) / (len(above) - 1)) ** 0.5 / sum(below.values())


@pytest.mark.parametrize("doubly", [False, True])
def test_both_are_the_ratios_that_they_say_they_are(doubly: bool):
    c = candidates()
    found = (doubly_robust if doubly else self_normalised_ips)(c)
    value, error = reference(c, doubly)
    reach = t.ppf(0.975, 49) * error
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.interval == pytest.approx([value - reach, value + reach], rel=1e-12)
    assert found.requests == 50


def test_closed_forms():
    one = np.ones(8)
    request, outcome = np.arange(8), np.array([0.0, 1, 0, 0, 1, 0, 0, 0])
    c = Candidates(request, one, one, outcome, np.full(8, 0.3))
    ips, robust = self_normalised_ips(c), doubly_robust(c)
    reach = t.ppf(0.975, 7) * outcome.std(ddof=1) / np.sqrt(8)  # the t interval of a mean
    for found in (ips, robust):
        assert found.value == pytest.approx(0.25)
        assert found.interval == pytest.approx([0.25 - reach, 0.25 + reach])
        assert found.effective_rows == 8
    two = Candidates(
        np.array([0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.5, 0.9, 0.25]), np.array([1.0, 1, 0]), one[:3]
    )
    assert self_normalised_ips(two).value == pytest.approx(2 / 6)
    assert self_normalised_ips(two).effective_rows == pytest.approx(36 / 20)
    assert doubly_robust(two).value == pytest.approx((1 + 2 * 0 + 1 + 4 * -1) / 2)


def test_a_perfect_model_leaves_only_the_variance_between_requests():
    c = candidates()
    exact = dataclasses.replace(c, outcome=np.where(c.served, c.predicted, np.nan))
    a = np.bincount(c.request, c.target * c.predicted)
    assert doubly_robust(exact).value == pytest.approx(a.sum() / c.target.sum(), rel=1e-12)


def test_one_row_no_row_and_rows_that_weigh_nothing():
    one = Candidates(*(np.array([x]) for x in (7, 1.0, 0.5, 1.0, 0.25)))
    for estimate in (self_normalised_ips, doubly_robust):
        assert estimate(one).interval is None
        assert estimate(one).effective_rows == 1
    assert self_normalised_ips(one).value == 1
    assert doubly_robust(one).value == pytest.approx(0.25 + 2 * 0.75)
    none = Candidates(*(np.zeros(0, dtype) for dtype in (np.int64, *[np.float64] * 4)))
    c = candidates()
    no_target = dataclasses.replace(c, target=np.zeros(300))
    unserved = dataclasses.replace(c, outcome=np.full(300, np.nan))
    for estimate in (self_normalised_ips, doubly_robust):
        assert estimate(none).value is None
        assert estimate(no_target).value is None
        assert estimate(no_target).interval is None
    assert self_normalised_ips(unserved).value is None
    assert doubly_robust(unserved).value == pytest.approx((c.target * c.predicted).sum() / c.target.sum())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("propensity", 0.0, "row 3: propensity: expected a probability above 0 and at most 1, got 0.0"),
        ("propensity", 1.5, "row 3: propensity"),
        ("propensity", np.nan, "row 3: propensity"),
        ("target", -0.1, "row 3: target: expected a probability within 0..1, got -0.1"),
        ("outcome", np.inf, "row 3: outcome"),
        ("predicted", np.nan, "row 3: predicted"),
    ],
)
def test_a_wrong_row_is_named(name: str, value: float, message: str):
    c = dataclasses.replace(candidates(), outcome=np.ones(300))
    values = getattr(c, name).copy()
    values[3] = value
    with pytest.raises(OffPolicyError, match=message):
        dataclasses.replace(c, **{name: values})


def test_the_propensity_of_what_was_not_served_is_not_read():
    c = candidates()
    other = dataclasses.replace(c, propensity=np.where(c.served, c.propensity, 0.0))
    assert doubly_robust(other) == doubly_robust(c)
    assert self_normalised_ips(other) == self_normalised_ips(c)


def test_the_best_of_each_request():
    request, score = np.array([5, 2, 5, 5, 2]), np.array([0.1, 0.4, 0.9, 0.9, 0.5])
    np.testing.assert_array_equal(best_of_each(request, score, 1), [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(best_of_each(request, score, 2), [0, 1, 1, 1, 1])
    assert best_of_each(request[:0], score[:0], 2).size == 0
