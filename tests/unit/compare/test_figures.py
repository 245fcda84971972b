"""Figures of a comparison against scikit-learn and slow loops: over seeds, replicates, differences, speed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from tests.support.slow_metrics import slow_gauc
from tt_jax.compare.figures import curves_of, differences, metrics_over_seeds, over_seeds, replicates_over_seeds
from tt_jax.compare.speed import Curve, reach, target_loss, to_quality
from tt_jax.metrics.bootstrap import cluster_draws
from tt_jax.metrics.table import with_interval
from tt_jax.metrics.task_rows import TaskRows


def test_replicates_against_rows_written_out() -> None:
    """In each replicate a cluster's rows are there as often as it was drawn; scikit-learn and loops do the rest."""
    rng = np.random.default_rng(0)
    n, replicates = 300, 12
    labels = (rng.random(n) < 0.3).astype(np.float32)
    labels[rng.random(n) < 0.1] = np.nan
    weights, users = rng.uniform(0.5, 2, n).astype(np.float32), rng.integers(-1, 40, n)
    predicted = [rng.uniform(0.05, 0.95, n).astype(np.float32).round(2) for _ in range(2)]
    rows = [TaskRows.of(p, labels, weights, users, soft=False) for p in predicted]
    found = replicates_over_seeds(rows, users, replicates)
    has = ~np.isnan(labels)
    (code, draws), *more = cluster_draws(users[has], replicates, seed=0)
    assert not more
    for r, times in enumerate(draws[:, code].astype(int)):
        y, w = np.repeat(labels[has], times), np.repeat(weights[has], times).astype(np.float64)
        u, rate = np.repeat(users[has], times), np.average(y, weights=w)
        ps = [np.repeat(p[has], times) for p in predicted]
        losses = [log_loss(y, p, sample_weight=w) for p in ps]
        wants = {
            "logloss": np.mean(losses),
            "ne": np.mean(losses) / log_loss(y, np.full(y.size, rate), sample_weight=w),
            "auc": np.mean([roc_auc_score(y, p, sample_weight=w) for p in ps]),
            "gauc": np.mean([slow_gauc(p, y, w, u) for p in ps]),
            "calibration": np.mean([w @ p / (w @ y) for p in ps]),
        }
        assert {name: found[name][r] for name in wants} == pytest.approx(wants, rel=1e-6)
    assert np.isnan([found["kl"], found["logmae"]]).all()


def test_replicates_of_soft_labels() -> None:
    rng = np.random.default_rng(1)
    n = 200
    labels, p = rng.beta(1, 4, n).astype(np.float32), rng.beta(1, 4, n).astype(np.float32)
    rows = TaskRows.of(p, labels, np.ones(n, np.float32), None, soft=True)
    found = replicates_over_seeds([rows], np.arange(n), 20)
    ((_, draws),) = cluster_draws(np.arange(n), 20, seed=0)
    y, q = labels.astype(np.float64), p.astype(np.float64)
    kl = y * np.log(y / q) + (1 - y) * np.log((1 - y) / (1 - q))
    assert found["kl"] == pytest.approx(draws @ kl / draws.sum(1), rel=1e-4)
    assert found["logmae"] == pytest.approx(draws @ np.abs(np.log(q / y)) / draws.sum(1), rel=1e-4)
    assert np.isnan(found["auc"]).all()


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(2)
    of_b = {name: rng.uniform(0.4, 0.6, 50) for name in with_interval()}
    of_a = {name: values * 1.1 for name, values in of_b.items()}
    a, b = ({name: {"mean": mean} for name in with_interval()} for mean in (0.56, 0.5))
    found = differences(a, b, of_a, of_b)
    assert list(found) == list(with_interval())
    low, high = np.quantile(of_b["gauc"] * 0.1, [0.025, 0.975], method="weibull")
    assert found["gauc"]["absolute_interval"] == pytest.approx([low, high])
    assert found["gauc"]["relative_interval"] == pytest.approx([0.1, 0.1])
    a["kl"]["mean"] = None
    of_a["ne"][:6] = np.nan
    found = differences(a, b, of_a, of_b)
    assert "kl" not in found
    assert found["ne"]["absolute_interval"] is None


def test_rows_without_a_label_or_a_class_have_no_figures() -> None:
    n, half = 8, np.full(8, 0.5, np.float32)
    none = TaskRows.of(half, np.full(n, np.nan, np.float32), np.ones(n), None, soft=False)
    assert metrics_over_seeds([none, none])["logloss"] == {"mean": None, "spread": None, "seeds": [None] * 2}
    assert np.isnan(replicates_over_seeds([none], np.arange(n), 5)["logloss"]).all()
    zeros = TaskRows.of(half, np.zeros(n, np.float32), np.ones(n), None, soft=False)
    metrics, found = metrics_over_seeds([zeros]), replicates_over_seeds([zeros], np.arange(n), 5)
    compared = differences(metrics, metrics, found, found)
    assert "logloss" in compared
    assert not {"ne", "auc", "gauc", "kl"} & compared.keys()  # undefined without a positive row
    assert curves_of(zeros)["roc"] is None


def test_mean_and_spread() -> None:
    assert over_seeds([1.0, 3.0]) == {"mean": 2.0, "spread": pytest.approx(2**0.5), "seeds": [1.0, 3.0]}
    assert over_seeds([2]) == {"mean": 2.0, "spread": None, "seeds": [2.0]}
    assert over_seeds([2.0, None])["mean"] is None


# ---- speed -----------------------------------------------------------------------------------------------------------


def curve(*logloss: float, speed: float = 10.0) -> Curve:
    steps = range(1, len(logloss) + 1)
    return Curve("run", tuple(100 * s for s in steps), tuple(100 * s / speed for s in steps), logloss)


def test_where_a_curve_reaches_a_loss() -> None:
    found = reach(curve(0.8, 0.6, 0.4, 0.5), 0.45)
    assert found is not None
    assert (found.examples, found.seconds) == (pytest.approx(275), pytest.approx(27.5))
    assert reach(curve(0.8, 0.6), 0.5) is None
    first = reach(curve(0.4, 0.3), 0.5)
    assert first is not None
    assert (first.examples, first.seconds) == (100, 10)
    assert target_loss([curve(0.5, 0.3), curve(0.5, 0.2, 0.4)]) == 0.4


def test_seconds_to_the_quality_of_the_reference() -> None:
    reference = {"a": {"t": [curve(0.8, 0.6), curve(0.7, 0.5)]}, "b": {"t": [curve(0.9, 0.8), curve(0.9, 0.8)]}}
    ours = {"a": {"t": [curve(0.6, 0.4)] * 2}, "b": {"t": [curve(1.0, 0.6, speed=20.0)] * 2}}
    one_model = to_quality(ours, reference, "t", adds_up=False)
    assert one_model["a"]["target"] == 0.6
    assert one_model["a"]["seconds"]["mean"] == 10
    assert one_model["b"]["seconds"]["mean"] == pytest.approx(7.5)
    assert one_model["overall"]["seconds"]["mean"] == 10
    assert to_quality(ours, reference, "t", adds_up=True)["overall"]["seconds"]["mean"] == pytest.approx(17.5)
    itself = to_quality(reference, reference, "t", adds_up=False)
    assert itself["overall"]["examples"]["seeds"] == [200, 200]
    worse = {**ours, "b": {"t": [curve(1.0, 0.9)] * 2}}
    assert to_quality(worse, reference, "t", adds_up=False)["overall"]["seconds"]["mean"] is None
