"""The metrics of one task, each against scikit-learn, a closed form or a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, rel_entr
from sklearn.metrics import log_loss, roc_auc_score

from tests.support.slow_metrics import slow_gauc
from tt_jax.metrics import METRICS, auc, gauc, task_metrics


def rows(seed: int, n: int = 2000, levels: int = 0, users: int = 60, weighted: bool = True):
    """Random probabilities, 0/1 labels, weights and users; with `levels`, so few distinct predictions that many tie."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 4, n)
    y = (rng.random(n) < p).astype(np.float32)
    p = np.round(p * levels) / levels if levels else p
    w = rng.exponential(1, n) if weighted else np.ones(n)
    return p.astype(np.float32), y, w.astype(np.float32), rng.integers(0, users, n)


def slow_ece(p, y, w, bins=20):
    """One group of ties at a time, into the bin that holds the middle of its weight."""
    gaps, before, total, y = np.zeros(bins), 0.0, w.sum(), y.astype(np.float64)
    for value in np.unique(p):
        tied = p == value
        weight = w[tied].sum()
        gaps[int((before + weight / 2) * bins / total)] += (w[tied] * (float(value) - y[tied])).sum()
        before += weight
    return np.abs(gaps).sum() / total


def ece(p, y, w):
    return task_metrics(p, y, w, None, soft=False)["ece"]


@pytest.mark.parametrize("levels", [0, 3, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_and_gauc_are_those_of_scikit_learn(levels, weighted):
    p, y, w, users = rows(levels, levels=levels, weighted=weighted)
    assert auc(p, y, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-9)
    assert gauc(p, y, w, users) == pytest.approx(slow_gauc(p, y, w, users), abs=1e-9)


row = st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(-2, 3))


@settings(deadline=None, max_examples=80)
@given(st.lists(row, min_size=1, max_size=40))
def test_auc_and_gauc_of_any_few_rows(data):
    p, y, w, users = (np.array(column) for column in zip(*data, strict=True))
    p, y, w = (p / 4).astype(np.float32), y.astype(np.float32), w.astype(np.float32)
    two_classes = len(set(y[w > 0])) == 2
    expected = roc_auc_score(y, p, sample_weight=w) if two_classes else None
    assert auc(p, y, w) == (None if expected is None else pytest.approx(expected, abs=1e-9))
    slow = slow_gauc(p, y, w, users)
    assert gauc(p, y, w, users) == (None if slow is None else pytest.approx(slow, abs=1e-9))


def test_auc_by_counting_pairs():
    p, y, w, _ = rows(1, n=150, levels=8)
    positive, negative = y == 1, y == 0
    pairs = np.outer(w[positive], w[negative]).astype(np.float64)
    wins = np.sign(p[positive][:, None] - p[negative][None, :]) / 2 + 0.5
    assert auc(p, y, w) == pytest.approx((wins * pairs).sum() / pairs.sum(), abs=1e-9)


def test_auc_of_constant_predictions_is_a_half():
    _, y, w, users = rows(2)
    p = np.full(y.size, 0.2, np.float32)
    assert auc(p, y, w) == pytest.approx(0.5, abs=1e-12)
    assert gauc(p, y, w, users) == pytest.approx(0.5, abs=1e-12)


def test_users_with_one_class_leave_gauc_alone_and_users_weigh_by_impressions():
    users = np.array([7, 7, 8, 8, 8, 9, 9, 3], np.int64)
    y = np.array([1, 0, 1, 0, 0, 1, 1, 0], np.float32)
    p = np.array([0.9, 0.1, 0.2, 0.8, 0.1, 0.5, 0.6, 0.9], np.float32)
    w = np.ones(8, np.float32)
    assert gauc(p, y, w, users) == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    assert gauc(p[5:], y[5:], w[5:], users[5:]) is None
    anonymous = np.where(users == 8, -1, users)
    assert gauc(p, y, w, anonymous) == 1.0
    for of_users, expected in ((users, 5), (anonymous, 2), (np.full(8, 7), 8), (np.arange(8), None)):
        found = task_metrics(p, y, w, of_users, soft=False)
        assert found["gauc_rows"] == expected, "rows of users with both labels"
        assert (found["gauc"] is None) == (expected is None)
    assert gauc(p, y, w, np.full(8, -1, np.int64)) is None


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_entropy_and_calibration(weighted):
    p, y, w, users = rows(3, weighted=weighted)
    got = task_metrics(p, y, w, users, soft=False)
    assert list(got) == list(METRICS)
    p64, w64 = p.astype(np.float64), w.astype(np.float64)
    base = np.average(y, weights=w64)
    assert got["logloss"] == pytest.approx(log_loss(y, p64, sample_weight=w64), rel=1e-6)
    constant = log_loss(y, np.full(y.size, base), sample_weight=w64)
    assert got["ne"] == pytest.approx(log_loss(y, p64, sample_weight=w64) / constant, rel=1e-6)
    assert got["calibration"] == pytest.approx((w64 * p64).sum() / (w64 * y).sum(), rel=1e-9)
    assert (got["rows"], got["positives"]) == (2000, int(y.sum()))
    assert type(got["positives"]) is int
    assert got["kl"] is None
    assert got["logmae"] is None


def test_log_loss_of_a_certain_and_wrong_prediction_is_finite():
    got = task_metrics(
        np.array([0, 1], np.float32), np.array([1, 0], np.float32), np.ones(2, np.float32), None, soft=False
    )
    assert got["logloss"] == pytest.approx(-np.log(1e-7), rel=1e-6)


def test_ece_by_sorting_into_equal_bins():
    rng = np.random.default_rng(4)
    p = rng.permutation(np.linspace(0.01, 0.99, 2000)).astype(np.float32)
    y = (rng.random(2000) < p).astype(np.float32)  # calibrated, so that the gaps of the bins differ in sign
    order = np.argsort(p)
    gaps = (p.astype(np.float64) - y)[order].reshape(20, 100).mean(axis=1)
    assert ece(p, y, np.ones(2000)) == pytest.approx(np.abs(gaps).mean(), abs=1e-9)


@pytest.mark.parametrize("levels", [0, 7])
def test_ece_one_group_of_ties_at_a_time(levels):
    p, y, w, _ = rows(12, n=500, levels=levels)
    assert ece(p, y, w) == pytest.approx(slow_ece(p, y, w.astype(np.float64)), abs=1e-9)


def test_ece_counts_a_row_of_weight_two_as_two_rows():
    p, y, _, _ = rows(5, n=400, levels=50)
    w = np.random.default_rng(5).integers(0, 4, 400)
    repeated = ece(np.repeat(p, w), np.repeat(y, w), np.ones(w.sum()))
    assert ece(p, y, w.astype(np.float32)) == pytest.approx(repeated, abs=1e-9)


def test_ece_of_ties_does_not_depend_on_row_order():
    p, y, w, _ = rows(6, levels=5)
    shuffled = np.random.default_rng(6).permutation(p.size)
    expected = ece(p, y, w)
    assert ece(p[shuffled], y[shuffled], w[shuffled]) == pytest.approx(expected, abs=1e-9)
    constant = np.full(p.size, 0.3, np.float32)
    gap = abs(float(constant[0]) - np.average(y, weights=w.astype(np.float64)))
    assert ece(constant, y, w) == pytest.approx(gap, abs=1e-9)


def test_soft_labels_have_kl_and_logmae_and_no_auc():
    rng = np.random.default_rng(7)
    teacher = rng.beta(2, 5, 500).astype(np.float32)
    p = expit(np.log(teacher / (1 - teacher)) + rng.normal(0, 0.5, 500)).astype(np.float32)
    w = rng.exponential(1, 500).astype(np.float32)
    got = task_metrics(p, teacher, w, np.arange(500) % 9, soft=True)
    p64, t64 = p.astype(np.float64), teacher.astype(np.float64)
    kl = rel_entr(t64, p64) + rel_entr(1 - t64, 1 - p64)
    assert got["kl"] == pytest.approx(np.average(kl, weights=w), rel=1e-6)
    assert got["logmae"] == pytest.approx(np.average(np.abs(np.log(p64 / t64)), weights=w), rel=1e-6)
    assert got["auc"] is None
    assert got["gauc"] is None
    assert got["positives"] == pytest.approx(t64.sum(), rel=1e-6)


def test_a_model_equal_to_its_teacher_has_no_kl():
    teacher = np.random.default_rng(8).random(300).astype(np.float32)
    got = task_metrics(teacher, teacher, np.ones(300, np.float32), None, soft=True)
    assert got["kl"] == pytest.approx(0, abs=1e-12)
    assert got["logmae"] == 0
    assert got["calibration"] == 1


def test_soft_labels_that_are_all_0_or_1_have_an_auc():
    p, y, w, users = rows(9)
    hard, soft = (task_metrics(p, y, w, users, soft=s) for s in (False, True))
    assert soft["auc"] == hard["auc"]
    assert soft["gauc"] == hard["gauc"] is not None
    assert soft["kl"] == pytest.approx(hard["logloss"])


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_leaves_undefined_metrics_none(label):
    p, _, w, users = rows(10, n=50)
    got = task_metrics(p, np.full(50, label, np.float32), w, users, soft=False)
    assert got["auc"] is None
    assert got["gauc"] is None
    assert got["ne"] is None
    assert (got["calibration"] is None) == (label == 0.0)
    assert got["ece"] == pytest.approx(abs(np.average(p, weights=w) - label), abs=1e-6)


@pytest.mark.parametrize(("label", "weight", "count"), [(np.nan, 1.0, 0), (1.0, 0.0, 5)])
def test_rows_without_label_or_without_weight_define_nothing_but_counts(label, weight, count):
    p, y, w = np.full(5, 0.5, np.float32), np.full(5, label, np.float32), np.full(5, weight, np.float32)
    expected = dict.fromkeys(METRICS) | {"rows": count, "positives": count}
    assert task_metrics(p, y, w, np.arange(5), soft=False) == expected


def test_no_rows_at_all():
    empty = np.zeros(0, np.float32)
    expected = dict.fromkeys(METRICS) | {"rows": 0, "positives": 0}
    assert task_metrics(empty, empty, empty, np.zeros(0, np.int64), soft=True) == expected


def test_unlabelled_rows_change_nothing():
    p, y, w, users = rows(11)
    masked = np.random.default_rng(11).random(y.size) < 0.4
    labels, wild, weights = y.copy(), p.copy(), w.copy()
    labels[masked], wild[masked], weights[masked] = np.nan, np.nan, np.nan
    kept = ~masked
    assert task_metrics(wild, labels, weights, users, soft=False) == task_metrics(
        p[kept], y[kept], w[kept], users[kept], soft=False
    )


@pytest.mark.parametrize(
    ("column", "value", "soft", "message"),
    [
        ("p", np.nan, False, "probability of row 2 is nan; expected 0..1"),
        ("p", 1.5, False, "probability of row 2 is 1.5"),
        ("y", 0.5, False, "label of row 2 is 0.5; expected 0 or 1 of a hard label"),
        ("y", -0.5, True, "label of row 2 is -0.5; expected 0..1"),
        ("w", -1.0, False, "weight of row 2 is -1.0; expected a finite number >= 0"),
        ("w", np.inf, False, "weight of row 2 is inf"),
    ],
)
def test_values_out_of_range_are_named(column, value, soft, message):
    arrays = {"p": np.full(4, 0.5, np.float32), "y": np.array([0, 1, 0, 1], np.float32), "w": np.ones(4, np.float32)}
    arrays[column][2] = value
    with pytest.raises(ValueError, match=message):
        task_metrics(arrays["p"], arrays["y"], arrays["w"], None, soft=soft)
