"""Off-policy estimates against AdWorld's truth: how often their intervals hold the value of another policy.

`python -m tests.integration.test_off_policy_truth` prints the table of docs/how-to/explore_and_evaluate.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from input_pipeline.adworld.funnel import retrieve, sample_requests, take_inventory
from input_pipeline.adworld.truth import click_logit, sigmoid
from input_pipeline.adworld.world import AdWorldConfig, build_world
from serving.scoring.explore import Explore, draw
from tt_jax.metrics.off_policy import Candidates, best_of_each, doubly_robust, self_normalised_ips

REQUESTS, K, CHOSEN, SHARE = 5_000, 8, 4, 0.2  # of a log; ads served; ads that the target policy chooses
POPULATION = 100_000
CONFIG = AdWorldConfig(seed=3, users=5_000, ads=2_000, requests_per_day=POPULATION, candidates=24)
ESTIMATES = {"ips": self_normalised_ips, "dr": doubly_robust}


@dataclass(frozen=True)
class Population:
    """Requests of a day with their candidates, `[N, C]`: which are valid, true logits, logits of two rankers."""

    valid: np.ndarray
    truth: np.ndarray
    logged: np.ndarray
    target: np.ndarray

    @property
    def value(self) -> float:
        """The true mean click probability of the target policy's choices, over all requests."""
        chosen = choices(self.valid, self.target)
        return float((chosen * sigmoid(self.truth)).sum() / chosen.sum())


def choices(valid: np.ndarray, score: np.ndarray) -> np.ndarray:
    request = np.repeat(np.arange(len(valid)), valid.shape[1])
    ranked = np.where(valid, score, -np.inf).ravel()
    return best_of_each(request, ranked, CHOSEN).reshape(valid.shape) * valid


@cache
def population() -> Population:
    rng, world = np.random.default_rng(0), build_world(CONFIG)
    inventory = take_inventory(world, 0, 0, rng)
    requests = sample_requests(world, 0, 0, 0, POPULATION, rng)
    ad, valid = retrieve(world, inventory, requests, rng)
    truth = click_logit(world, inventory.quality, requests, ad, np.zeros(ad.shape, np.float32))
    noise = [rng.normal(0, 1, ad.shape).astype(np.float32) for _ in range(2)]
    return Population(valid, truth, truth + noise[0], truth + 0.5 * noise[1])


def log(people: Population, seed: int) -> Candidates:
    """Requests drawn at random, ranked by the logging ranker, which explores; clicks on what was served."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(people.valid), REQUESTS)
    valid, truth = people.valid[rows], people.truth[rows]
    propensity = np.full(valid.shape, np.nan)
    for i, row in enumerate(rows):
        order = np.argsort(np.where(valid[i], -people.logged[row], np.inf), kind="stable")[: valid[i].sum()]
        ranked, others = order[:K], order[K:]
        found = draw(Explore(SHARE, seed), i, len(ranked), people.logged[row][others])
        kept = np.delete(ranked, found.slots)
        propensity[i, kept] = found.ranked_propensity
        propensity[i, others[found.others]] = found.propensities
    clicks = (rng.random(valid.shape) < sigmoid(truth)).astype(np.float64)
    outcome = np.where(np.isnan(propensity), np.nan, clicks)
    target = choices(valid, people.target[rows])
    request = np.broadcast_to(np.arange(REQUESTS)[:, None], valid.shape)
    predicted = sigmoid(people.target[rows] - 0.3)  # a model with an error, and a bias
    return Candidates(*(x[valid] for x in (request, target, propensity, outcome, predicted)))


def coverage(runs: int) -> dict[str, tuple[float, float, float]]:
    """Of each estimator: share of the runs whose interval holds the truth, mean value, mean width."""
    people = population()
    truth, found = people.value, {name: [] for name in ESTIMATES}
    for seed in range(runs):
        candidates = log(people, seed)
        for name, estimate in ESTIMATES.items():
            e = estimate(candidates)
            assert e.interval
            found[name].append((e.interval[0] <= truth <= e.interval[1], e.value, e.interval[1] - e.interval[0]))
    return {name: tuple(np.mean(rows, axis=0).tolist()) for name, rows in found.items()}


@pytest.mark.slow
def test_the_intervals_hold_the_truth_as_often_as_they_say():
    found, truth = coverage(200), population().value
    for name, (covered, mean, width) in found.items():
        assert 0.9 <= covered <= 0.98, name
        assert abs(mean - truth) < width / 4 * 4 / np.sqrt(200), name  # four standard errors of the mean of the runs


def test_a_few_logs_estimate_the_truth_and_not_what_was_logged():
    truth, found = population().value, coverage(8)
    candidates = log(population(), 0)
    naive = np.nanmean(candidates.outcome)
    for covered, mean, width in found.values():
        assert covered >= 6 / 8
        assert abs(mean - truth) < width / 2
        assert abs(naive - truth) > width / 2
    assert found["dr"][2] < found["ips"][2]


if __name__ == "__main__":
    print("truth", population().value)
    for name, figures in coverage(200).items():
        print(name, *figures)
