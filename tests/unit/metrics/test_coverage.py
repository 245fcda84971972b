"""How often the 95 % intervals hold the truth: simulated worlds whose truth is known. Slow; `python -m
tests.unit.metrics.test_coverage` prints the table of docs/reference/metrics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, binomtest
from sklearn.metrics import log_loss, roc_auc_score

from tt_jax.metrics.bootstrap import cluster_draws, difference_intervals, metric_intervals
from tt_jax.metrics.experiment import binomial_interval, paired_effects, split_effects
from tt_jax.metrics.funnel import funnel_metrics
from tt_jax.metrics.ranking import gauc, user_codes
from tt_jax.metrics.table import with_interval
from tt_jax.metrics.task_rows import TaskRows

WORLDS, REPLICATES, USERS, REQUESTS, LIFT = 300, 200, 200, 1000, 0.2
HARD = ("logloss", "ne", "auc", "gauc", "calibration")
SOFT = ("logloss", "ne", "calibration", "kl", "logmae")
FUNNEL = ("recall", "gain", "lost", "whole")
RATIOS = {"CTR": ("clicks", "impressions"), "clicks per request": ("clicks", "requests")}
_TRUTH_USERS, _TRUTH_REQUESTS = 150_000, 60_000  # so many that their own noise is a few percent of an interval


@dataclass(frozen=True)
class Log:
    """Rows of users, several each, who differ in how likely they click; and what two models predict for them."""

    users: np.ndarray
    y: np.ndarray
    teacher: np.ndarray
    weights: np.ndarray
    p: tuple[np.ndarray, np.ndarray]

    @staticmethod
    def of(rng: np.random.Generator, users: int) -> Log:
        user = np.repeat(np.arange(users), 2 + rng.poisson(12, users))
        seen, unseen = rng.normal(size=user.size), rng.normal(0, 0.6, users)[user]
        truth = expit(seen + unseen - 1.5)
        noise = rng.normal(0, 0.3, (3, user.size))
        models = (expit(0.8 * seen - 1.3 + noise[0]), expit(0.9 * seen - 1.3 + noise[1]))
        teacher = expit(seen + unseen - 1.5 + noise[2])
        y = rng.random(user.size) < truth
        weights = rng.choice([0.5, 1.0, 2.0], user.size)
        return Log(
            user, *(a.astype(np.float32) for a in (y, teacher, weights)), tuple(m.astype(np.float32) for m in models)
        )

    def rows(self, model: int, soft: bool) -> TaskRows:
        return TaskRows.of(
            self.p[model], self.teacher if soft else self.y, self.weights, user_codes(self.users), soft=soft
        )

    def truth(self, model: int) -> dict[str, float]:
        """Of so many rows that they are the population; by scikit-learn and closed forms, `gauc` apart."""
        p, w, y = (a.astype(np.float64) for a in (self.p[model], self.weights, self.y))
        t, rate, prediction = self.teacher.astype(np.float64), np.average(y, weights=w), np.average(p, weights=w)
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        loss = log_loss(y, p, sample_weight=w)
        rate_t, loss_t = np.average(t, weights=w), np.average(-t * np.log(p) - (1 - t) * np.log1p(-p), weights=w)
        entropy_t = -(rate_t * np.log(rate_t) + (1 - rate_t) * np.log(1 - rate_t))
        own_t = np.average(-t * np.log(t) - (1 - t) * np.log1p(-t), weights=w)
        of_users = gauc(self.p[model], self.y, self.weights, self.users)
        assert of_users is not None
        return {
            "logloss": float(loss), "ne": float(loss / entropy), "gauc": of_users,
            "auc": float(roc_auc_score(y, p, sample_weight=w)), "calibration": float(prediction / rate),
            "soft logloss": float(loss_t), "soft ne": float(loss_t / entropy_t), "soft kl": float(loss_t - own_t),
            "soft calibration": float(prediction / rate_t),
            "soft logmae": float(np.average(np.abs(np.log(p) - np.log(t)), weights=w)),
        }  # fmt: skip


def metric_worlds() -> Iterator[tuple[str, float, list[float] | None]]:
    """By world and metric: name, truth, interval; of hard and soft labels, alone and as paired differences."""
    population = Log.of(np.random.default_rng(10**6), _TRUTH_USERS)
    truth = [population.truth(model) for model in (0, 1)]
    for seed in range(WORLDS):
        log = Log.of(np.random.default_rng([seed, 1]), USERS)
        for prefix, names, soft in (("", HARD, False), ("soft ", SOFT, True)):
            a, b = (log.rows(model, soft) for model in (0, 1))
            alone = metric_intervals(a, log.users, replicates=REPLICATES)
            paired = difference_intervals(a, b, log.users, replicates=REPLICATES)
            for name in names:
                key = prefix + name
                yield key, truth[0][key], alone[name]
                yield f"difference in {key}", truth[0][key] - truth[1][key], paired[name]


def calibration_error_worlds() -> Iterator[tuple[str, float, list[float] | None]]:
    """The two intervals of ECE that a bootstrap offers, as `metric_worlds`; why the project gives neither."""
    truth = Log.of(np.random.default_rng(10**6), _TRUTH_USERS).rows(0, soft=False).metrics()["ece"]
    assert truth is not None
    for seed in range(WORLDS):
        log = Log.of(np.random.default_rng([seed, 1]), USERS)
        ((code, draws),) = cluster_draws(log.users, REPLICATES, 0)
        codes = user_codes(log.users)

        def ece(weights: np.ndarray, log: Log = log, codes: np.ndarray = codes) -> float:
            found = TaskRows.of(log.p[0], log.y, weights, codes, soft=False).metrics()["ece"]
            assert found is not None
            return found

        low, high = np.quantile([ece(log.weights * draw[code]) for draw in draws], [0.025, 0.975], method="weibull")
        estimate = ece(log.weights)
        yield "ECE, quantiles", truth, [low, high]
        yield "ECE, pivotal", truth, [2 * estimate - high, 2 * estimate - low]


def candidates(rng: np.random.Generator, requests: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, the teacher's utilities and requests of 4 to 16 candidates each."""
    request = np.repeat(np.arange(requests), rng.integers(4, 17, requests))
    quality = rng.normal(size=request.size) + rng.normal(size=requests)[request]
    return expit(quality + rng.normal(0, 1.0, request.size)), expit(quality - 2), request


def funnel_worlds() -> Iterator[tuple[str, float, list[float] | None]]:
    """Of the best 4 among 8 passed on, as `metric_worlds`."""
    (truth,) = funnel_metrics(*candidates(np.random.default_rng(10**6), _TRUTH_REQUESTS), (4,), (8,))["at"]
    for seed in range(WORLDS):
        found = funnel_metrics(
            *candidates(np.random.default_rng([seed, 1]), REQUESTS), (4,), (8,), replicates=REPLICATES
        )
        for name in FUNNEL:
            yield f"funnel {name}", truth[name], found["at"][0]["intervals"][name]


def experiment_worlds() -> Iterator[tuple[str, float, list[float] | None]]:
    """Both designs of an A/B test with a lift that is exact, as `metric_worlds`."""
    for seed in range(WORLDS):
        rng = np.random.default_rng([seed, 1])
        user = np.repeat(np.arange(400), 1 + rng.poisson(2, 400))
        rate = rng.beta(2, 18, 400)[user]
        shown, draws = rng.integers(1, 6, user.size), rng.random((user.size, 6))
        seen = np.arange(6) < shown[:, None]
        clicks = [(seen & (draws < (rate * (1 + lift))[:, None])).sum(axis=1) for lift in (0.0, LIFT)]
        both = {
            "clicks": np.stack(clicks, 1),
            "impressions": np.stack([shown] * 2, 1),
            "requests": np.ones((user.size, 2)),
        }
        both = {name: values.astype(np.float64) for name, values in both.items()}
        arm = rng.integers(0, 2, 400)[user]
        own = {name: values[np.arange(user.size), arm] for name, values in both.items()}
        found = {
            "paired": paired_effects(both, RATIOS, user, replicates=REPLICATES),
            "split": split_effects(own, RATIOS, user, arm),
        }
        for design, effects in found.items():
            for name, e in effects.items():
                yield f"A/B {design}, {name}", LIFT, None if e.low is None or e.high is None else [e.low, e.high]


def coverage(worlds: Iterator[tuple[str, float, list[float] | None]]) -> dict[str, int]:
    """In how many worlds the interval of each figure holds its truth."""
    held: Counter[str] = Counter()
    for name, truth, interval in worlds:
        assert interval is not None, name
        held[name] += interval[0] <= truth <= interval[1]
    return dict(held)


SOURCES = (metric_worlds, funnel_worlds, experiment_worlds)


def test_every_metric_with_an_interval_is_simulated() -> None:
    assert set(with_interval()) == {*HARD, *SOFT}


@pytest.mark.slow
@pytest.mark.parametrize("worlds", SOURCES)
def test_intervals_hold_the_truth_19_times_in_20(worlds) -> None:
    for name, held in coverage(worlds()).items():
        # A bootstrap of 200 clusters covers half a percent less than it says; the rest is the worlds' own chance.
        assert binomtest(held, WORLDS, 0.945).pvalue > 1e-3, f"{name}: {held} of {WORLDS}"


@pytest.mark.slow
def test_no_interval_of_the_calibration_error_does() -> None:
    for name, held in coverage(calibration_error_worlds()).items():
        assert held < 0.90 * WORLDS, f"{name}: {held} of {WORLDS}; should it be given after all?"


def wilson_coverage(trials: int, rates: np.ndarray) -> float:
    """Mean over rates of the exact probability that the interval holds the rate."""
    low, high = np.array([binomial_interval(k, trials) for k in range(trials + 1)]).T
    held = (low[:, None] <= rates) & (rates <= high[:, None])
    return float((binom.pmf(np.arange(trials + 1)[:, None], trials, rates) * held).sum(axis=0).mean())


@pytest.mark.parametrize("trials", [20, 200, 2000])
def test_the_interval_of_a_share_covers_by_its_exact_probability(trials: int) -> None:
    assert wilson_coverage(trials, np.linspace(0.01, 0.5, 400)) == pytest.approx(0.95, abs=0.01)


if __name__ == "__main__":
    for source in (*SOURCES, calibration_error_worlds):
        for figure, count in coverage(source()).items():
            print(f"| {figure} | {count / WORLDS:.3f} |", flush=True)
    print(f"| share of 200 (Wilson), exact | {wilson_coverage(200, np.linspace(0.01, 0.5, 400)):.3f} |")
