"""Figures of `tt-jax compare` against references, and iteration speed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from tt_jax.compare.figures import TaskRows, differences, over_seeds
from tt_jax.compare.speed import Curve, reach, target_loss, to_quality
from tt_jax.metrics import task_metrics
from tt_jax.metrics.bootstrap import cluster_draws


def test_replicates_against_rows_written_out() -> None:
    """In each replicate the rows of a cluster are there as often as it was drawn; scikit-learn does the rest."""
    rng = np.random.default_rng(0)
    n = 300
    labels = (rng.random(n) < 0.3).astype(np.float32)
    labels[rng.random(n) < 0.1] = np.nan
    weights, clusters = rng.uniform(0.5, 2, n).astype(np.float32), rng.integers(-1, 40, n)
    predicted = [rng.uniform(0.05, 0.95, n).astype(np.float32).round(2) for _ in range(2)]
    rows = TaskRows(labels, weights, clusters, clusters, soft=False, replicates=30)
    found = rows.replicates(predicted)
    has = ~np.isnan(labels)
    (code, draws), *more = cluster_draws(clusters[has], 30, seed=0)
    assert not more
    for r, times in enumerate(draws[:, code].astype(int)):
        y, w = np.repeat(labels[has], times), np.repeat(weights[has], times)
        ps = [np.repeat(p[has], times) for p in predicted]
        assert found["logloss"][r] == pytest.approx(np.mean([log_loss(y, p, sample_weight=w) for p in ps]), rel=1e-6)
        assert found["auc"][r] == pytest.approx(np.mean([roc_auc_score(y, p, sample_weight=w) for p in ps]), rel=1e-9)


def test_replicates_of_soft_labels() -> None:
    rng = np.random.default_rng(1)
    n = 200
    labels, p = rng.beta(1, 4, n).astype(np.float32), rng.beta(1, 4, n).astype(np.float32)
    rows = TaskRows(labels, np.ones(n, np.float32), None, np.arange(n), soft=True, replicates=20)
    found = rows.replicates([p])
    ((_, draws),) = cluster_draws(np.arange(n), 20, seed=0)
    y, q = labels.astype(np.float64), p.astype(np.float64)
    kl = y * np.log(y / q) + (1 - y) * np.log((1 - y) / (1 - q))
    assert found["kl"] == pytest.approx(draws @ kl / draws.sum(1), rel=1e-4)
    assert "auc" not in found
    intervals = differences({"kl": found["kl"] * 1.1}, {"kl": found["kl"]})
    assert intervals["kl"]["relative"] == pytest.approx([0.1, 0.1])


def test_rows_without_a_label_or_a_class_have_no_figures() -> None:
    n = 8
    none = TaskRows(np.full(n, np.nan, np.float32), np.ones(n), None, np.arange(n), soft=False, replicates=5)
    assert none.replicates([np.full(n, 0.5, np.float32)]) == {}
    assert none.metrics([np.full(n, 0.5, np.float32)] * 2)["logloss"] == {
        "mean": None,
        "spread": None,
        "seeds": [None] * 2,
    }
    zeros = TaskRows(np.zeros(n, np.float32), np.ones(n), None, np.arange(n), soft=False, replicates=5)
    found = zeros.replicates([np.full(n, 0.5, np.float32)])
    assert differences(found, found)["auc"] == {"absolute": None, "relative": None}


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


def test_losses_are_those_of_all_metrics() -> None:
    rng = np.random.default_rng(2)
    labels, weights = rng.beta(1, 4, 200).astype(np.float32), rng.uniform(0.5, 2, 200).astype(np.float32)
    labels[:40] = np.nan
    predicted = [rng.beta(1, 4, 200).astype(np.float32) for _ in range(2)]
    rows = TaskRows(labels, weights, None, np.arange(200), soft=True, replicates=2)
    found = rows.losses(predicted)
    whole = [task_metrics(p, labels, weights, None, soft=True) for p in predicted]
    assert found["kl"]["seeds"] == [m["kl"] for m in whole]
    assert found == {name: over_seeds([m[name] for m in whole]) for name in found}
    assert not {"auc", "gauc", "rows"} & found.keys()
    weightless = TaskRows(labels, 0 * weights, None, np.arange(200), soft=True, replicates=2)
    assert weightless.losses(predicted) == {}
