"""The Poisson bootstrap against explicit resampling, SciPy and the coverage it promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from tt_jax.metrics import task_metrics
from tt_jax.metrics.bootstrap import cluster_draws, difference_intervals, metric_intervals
from tt_jax.metrics.ranking import user_codes
from tt_jax.metrics.table import with_interval
from tt_jax.metrics.task_rows import TaskRows


def rows(seed: int, n: int = 600, soft: bool = False, levels: int = 0):
    """Probabilities, labels (some missing), weights, users (some missing), clusters (some missing)."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, n)
    y = np.clip(p + rng.normal(0, 0.1, n), 0, 1) if soft else (rng.random(n) < p).astype(np.float64)
    y = np.where(rng.random(n) < 0.2, np.nan, y).astype(np.float32)
    p = np.round(p * levels) / levels if levels else p
    w = rng.choice([0.0, 0.5, 1.0, 2.0], n).astype(np.float32)
    return p.astype(np.float32), y, w, rng.integers(-1, 30, n), rng.integers(-1, 60, n)


def task_rows(p, y, w, users, soft):
    return TaskRows.of(p, y, w, None if users is None else user_codes(users), soft=soft)


def intervals(p, y, w, users, clusters, *, soft, **options):
    return metric_intervals(task_rows(p, y, w, users, soft), clusters, **options)


def difference(a, b, y, w, users, clusters, *, soft, **options):
    return difference_intervals(*(task_rows(p, y, w, users, soft) for p in (a, b)), clusters, **options)


def resampled(p, y, w, users, clusters, soft, replicates, seed):
    """Each replicate as rows that are really repeated: list of `task_metrics`."""
    labelled = ~np.isnan(y)
    p, y, w, users, clusters = (a[labelled] for a in (p, y, w, users, clusters))
    out = []
    for code, draws in cluster_draws(clusters, replicates, seed):
        for draw in draws:
            times = draw[code].astype(np.int64)
            out.append(task_metrics(*(np.repeat(a, times) for a in (p, y, w, users)), soft=soft))
    return out


def quantiles(values):
    return np.quantile(np.array(values, np.float64), [0.025, 0.975], method="weibull")


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("levels", [0, 7])
def test_intervals_are_those_of_rows_that_are_really_repeated(soft, levels):
    p, y, w, users, clusters = rows(levels, soft=soft, levels=levels)
    found = intervals(p, y, w, users, clusters, soft=soft, replicates=50, seed=3)
    replicates = resampled(p, y, w, users, clusters, soft, 50, 3)
    estimate = task_metrics(p, y, w, users, soft=soft)
    assert tuple(found) == with_interval()
    for name in with_interval():
        if estimate[name] is None:
            assert found[name] is None
            continue
        expected = quantiles([r[name] for r in replicates])
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-9)
    assert (found["auc"] is None) == (found["gauc"] is None) == soft
    assert (found["kl"] is None) == (found["logmae"] is None) == (not soft)


def test_differences_are_those_of_rows_that_are_really_repeated():
    p, y, w, users, clusters = rows(1)
    other = np.clip(p + np.random.default_rng(2).normal(0, 0.05, p.size), 0, 1).astype(np.float32)
    found = difference(p, other, y, w, users, clusters, soft=False, replicates=50, seed=4)
    pairs = zip(*(resampled(q, y, w, users, clusters, False, 50, 4) for q in (p, other)), strict=True)
    differences = [{name: a[name] - b[name] for name in with_interval()[:5]} for a, b in pairs]
    for name in with_interval()[:5]:
        expected = quantiles([d[name] for d in differences])
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-9)


def test_the_interval_of_a_mean_is_that_of_scipy():
    p, y, _, _, _ = rows(5, n=2000)
    kept = ~np.isnan(y)
    p, y = p[kept].astype(np.float64), y[kept]
    losses = -(y * np.log(np.clip(p, 1e-7, 1)) + (1 - y) * np.log1p(-np.clip(p, 0, 1 - 1e-7)))
    scipy = bootstrap((losses,), np.mean, n_resamples=4000, method="percentile", random_state=0).confidence_interval
    ones, own = np.ones(p.size, np.float32), np.arange(p.size)
    p32 = p.astype(np.float32)
    found = intervals(p32, y, ones, None, own, soft=False, replicates=2000)["logloss"]
    assert found is not None
    np.testing.assert_allclose(found, [scipy.low, scipy.high], atol=0.1 * (scipy.high - scipy.low))


def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100():
    """Users differ in their rate, so the rows of one are alike: resampling rows instead covers far too rarely.

    Every interval: `tests/unit/metrics/test_coverage.py`.
    """
    clusters, rows_each, worlds = 150, 20, 100
    by_user, by_row = 0, 0
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        rate = rng.beta(2, 6, clusters)
        users = np.repeat(np.arange(clusters), rows_each)
        y = (rng.random(users.size) < rate[users]).astype(np.float32)
        p = np.full(y.size, 0.25, np.float32)  # the mean of beta(2, 6): truly calibrated over all users
        ones = np.ones(y.size, np.float32)
        for own, unit in ((False, users), (True, np.arange(y.size))):
            low, high = intervals(p, y, ones, None, unit, soft=False, replicates=80, seed=seed)["calibration"]
            if own:
                by_row += low <= 1 <= high
            else:
                by_user += low <= 1 <= high
    assert 0.89 <= by_user / worlds <= 0.99
    assert by_row / worlds < 0.80


def test_a_calibration_error_has_no_interval():
    arguments = rows(8)
    assert task_metrics(*arguments[:4], soft=False)["ece"] > 0
    assert "ece" not in intervals(*arguments, soft=False, replicates=5)
    assert "ece" not in difference(arguments[0], *arguments, soft=False, replicates=5)


def test_a_predictor_does_not_differ_from_itself_and_pairs_are_narrower():
    p, y, w, users, clusters = rows(6)
    same = difference(p, p, y, w, users, clusters, soft=False, replicates=20)
    assert all(same[name] == [0.0, 0.0] for name in with_interval()[:5])
    assert same["kl"] is None
    near = np.clip(p * np.float32(1.02), 0, 1)
    ab, ba = (difference(a, b, y, w, users, clusters, soft=False, replicates=50)["logloss"]
              for a, b in ((p, near), (near, p)))  # fmt: skip
    np.testing.assert_allclose(ab, [-ba[1], -ba[0]])
    alone = intervals(p, y, w, users, clusters, soft=False, replicates=50)["logloss"]
    assert ab[1] - ab[0] < 0.3 * (alone[1] - alone[0])


def test_the_same_seed_gives_the_same_intervals():
    arguments = rows(7)
    first, again, other = (intervals(*arguments, soft=False, replicates=20, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_what_is_undefined_has_no_interval():
    ones = np.ones(50, np.float32)
    p, own = np.full(50, 0.3, np.float32), np.arange(50)
    nothing = dict.fromkeys(with_interval())
    assert intervals(p, ones * np.float32(np.nan), ones, own, own, soft=False, replicates=5) == nothing
    assert intervals(p, ones, ones * np.float32(0), own, own, soft=True, replicates=5) == nothing
    found = intervals(p, ones, ones, own, own, soft=False, replicates=5)
    assert (found["auc"], found["gauc"], found["ne"]) == (None, None, None)
    assert found["calibration"] == pytest.approx([0.3, 0.3])
    one_user = intervals(p, (own < 1).astype(np.float32), ones, None, own, soft=False, replicates=200)
    assert one_user["auc"] is None  # the only positive is absent from a third of the replicates
    with pytest.raises(ValueError, match="at least one replicate, got 0"):
        intervals(p, ones, ones, None, own, soft=False, replicates=0)


def test_draws_count_clusters_and_rows_of_none_stand_alone():
    clusters = np.array([5, -1, 5, -1, 9])
    ((code, draws),) = cluster_draws(clusters, 3000, 0)
    assert code.tolist() == [0, 2, 0, 3, 1]
    assert draws.shape == (3000, 4)
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(draws.var(axis=0), 1, atol=0.15)
    assert abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.1
