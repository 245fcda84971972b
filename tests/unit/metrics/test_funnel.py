"""Funnel metrics against a loop over requests, and their definitions of ties, short lists and missing values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from tt_jax.metrics.bootstrap import cluster_draws
from tt_jax.metrics.funnel import FIGURES, funnel_metrics


def slow(scores, teacher, requests, k, n):
    """One request at a time, one candidate at a time."""
    recalls, got, ideal, whole = [], 0.0, 0.0, 0
    for request in sorted(set(requests.tolist()) - {-1}):
        mine = [
            (float("-inf") if np.isnan(s) else float(s), float(u))
            for s, u, r in zip(scores, teacher, requests, strict=True)
            if r == request and not np.isnan(u)
        ]
        if not mine:
            continue
        passed = [u for _, u in sorted(mine, key=lambda c: (-c[0], c[1]))[:n]]
        best = sorted((u for _, u in mine), reverse=True)[:k]
        recalls.append(min(len(best), sum(u >= best[-1] for u in passed)) / len(best))
        got += sum(sorted(passed, reverse=True)[:k])
        ideal += sum(best)
        whole += len(mine) <= n
    return np.mean(recalls), got / ideal if ideal else None, (ideal - got) / len(recalls), whole / len(recalls)


def check(scores, teacher, requests, best=(1, 2, 3), passed=(1, 2, 3, 5)):
    found = funnel_metrics(scores, teacher, requests, best, passed)
    seen = ~np.isnan(teacher) & (requests != -1)
    sizes = np.unique(requests[seen], return_counts=True)[1]
    assert found["requests"] == sizes.size
    assert found["candidates"] == seen.sum()
    wanted = [(k, n) for k in best for n in passed if k <= n < sizes.max(initial=0)]
    assert [(a["best"], a["passed"]) for a in found["at"]] == wanted
    for a in found["at"]:
        recall, gain, lost, whole = slow(scores, teacher, requests, a["best"], a["passed"])
        assert (a["recall"], a["lost"], a["whole"]) == pytest.approx((recall, lost, whole), abs=1e-9)
        assert a["gain"] == (None if gain is None else pytest.approx(gain, abs=1e-9))


candidate = st.tuples(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan]),
    st.sampled_from([0.0, 0.1, 0.2, 0.7, np.nan]),
    st.integers(-1, 3),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(candidate, max_size=30))
def test_any_few_candidates(data):
    columns = np.array(data, np.float64).reshape(-1, 3).T
    check(columns[0], columns[1], columns[2].astype(np.int64))


def test_many_requests_in_any_order_of_rows():
    rng = np.random.default_rng(0)
    requests, teacher = rng.integers(0, 300, 6000), rng.random(6000)
    scores = (teacher + rng.normal(0, 0.3, 6000)).astype(np.float32)
    teacher[rng.random(6000) < 0.1] = np.nan
    check(scores, teacher, requests, (1, 4, 16), (4, 8, 16))
    shuffled = rng.permutation(6000)
    assert funnel_metrics(scores, teacher, requests) == funnel_metrics(
        scores[shuffled], teacher[shuffled], requests[shuffled]
    )


def test_the_teacher_itself_loses_nothing_and_its_reverse_the_most():
    rng = np.random.default_rng(1)
    requests, teacher = np.repeat(np.arange(50), 20), rng.random(1000)
    for a in funnel_metrics(teacher, teacher, requests)["at"]:
        assert (a["recall"], a["gain"], a["lost"], a["whole"]) == (1, 1, 0, 0)
    worst = funnel_metrics(-teacher, teacher, requests, (1,), (4, 19))["at"]
    assert [a["recall"] for a in worst] == [0, 0]
    by_request = np.sort(teacher.reshape(50, 20))
    assert worst[0]["lost"] == pytest.approx((by_request[:, -1] - by_request[:, 3]).mean())


def test_recall_of_a_random_order_is_the_share_that_passes():
    rng = np.random.default_rng(2)
    requests = np.repeat(np.arange(4000), 16)
    (a,) = funnel_metrics(rng.random(64_000), rng.random(64_000), requests, (4,), (8,))["at"]
    assert a["recall"] == pytest.approx(0.5, abs=0.01)
    # The best of 8 of 16 uniform numbers: order statistics; the best 4 of 8 sum to (8+7+6+5)/9, of 16 to 58/17.
    assert a["gain"] == pytest.approx((26 / 9) / (58 / 17), abs=0.005)


def test_a_constant_score_earns_nothing_and_ties_of_the_teacher_forgive():
    requests = np.zeros(4, np.int64)
    teacher = np.array([0.1, 0.9, 0.9, 0.2])
    (a,) = funnel_metrics(np.ones(4), teacher, requests, (1,), (2,))["at"]
    assert (a["recall"], a["gain"]) == (0, pytest.approx(0.2 / 0.9))
    (a,) = funnel_metrics(np.array([0.0, 0.0, 1.0, 0.5]), teacher, requests, (1,), (1,))["at"]
    assert (a["recall"], a["gain"], a["lost"]) == (1, 1, 0)


def test_nothing_to_rank_and_a_negative_utility():
    empty = funnel_metrics(np.zeros(3), np.full(3, np.nan), np.zeros(3, np.int64))
    assert empty == {"requests": 0, "candidates": 0, "at": []}
    (a,) = funnel_metrics(np.array([0.0, 1.0]), np.array([0.1, -0.5]), np.zeros(2, np.int64), (1,), (1,))["at"]
    assert (a["recall"], a["gain"], a["lost"]) == (0, None, pytest.approx(0.6))


def test_intervals_are_those_of_requests_that_are_really_repeated():
    rng = np.random.default_rng(3)
    requests = np.repeat(rng.permutation(40), rng.integers(1, 9, 40))
    teacher, scores = rng.random(requests.size), rng.random(requests.size).round(1)
    teacher[rng.random(requests.size) < 0.1] = np.nan
    found = funnel_metrics(scores, teacher, requests, (1, 2), (2, 4), replicates=25, seed=4)
    distinct = np.unique(requests[~np.isnan(teacher)])
    ((code, draws),) = cluster_draws(distinct, 25, 4)
    assert distinct.size == found["requests"]
    for a in found["at"]:
        replicated = []
        for times in draws[:, code].astype(int):
            copies = [np.flatnonzero(requests == r) for r in np.repeat(distinct, times)]
            rows, ids = np.concatenate(copies), np.repeat(np.arange(len(copies)), [len(c) for c in copies])
            replicated.append(slow(scores[rows], teacher[rows], ids, a["best"], a["passed"]))
        for name, values in zip(FIGURES, np.array(replicated).T, strict=True):
            expected = np.quantile(values, [0.025, 0.975], method="weibull")
            assert a["intervals"][name] == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_recall_is_that_of_scipy_and_none_is_given_where_nothing_is_defined():
    rng = np.random.default_rng(5)
    requests = np.repeat(np.arange(600), 6)
    teacher = rng.random(3600)
    scores = teacher + rng.normal(0, 0.3, 3600)
    (a,) = funnel_metrics(scores, teacher, requests, (1,), (2,), replicates=1000)["at"]
    best = scores.reshape(600, 6)[np.arange(600), teacher.reshape(600, 6).argmax(axis=1)]
    recall = ((scores.reshape(600, 6) > best[:, None]).sum(axis=1) < 2).astype(float)
    assert a["recall"] == pytest.approx(recall.mean())
    scipy = bootstrap((recall,), np.mean, n_resamples=2000, method="percentile", random_state=0).confidence_interval
    np.testing.assert_allclose(a["intervals"]["recall"], [scipy.low, scipy.high], atol=0.15 * (scipy.high - scipy.low))
    (one,) = funnel_metrics(np.arange(2.0), -np.arange(2.0), np.zeros(2, np.int64), (1,), (1,), replicates=50)["at"]
    assert one["intervals"] == dict.fromkeys(FIGURES)  # the only request is absent from a third of the replicates
