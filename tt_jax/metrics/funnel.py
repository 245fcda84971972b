"""Funnel metrics: what the heavy ranker loses because it gets only N candidates of the lightweight one. NumPy, float64.

The heavy ranker (the teacher) would pick its best K of all candidates of a request; behind the lightweight ranker (L1)
it picks its best K of the N that L1 ranks highest.

Shapes: n candidates, Q requests, A pairs of K and N, R replicates, S sums
(requests, recall, utility got, the most there was to get, whole).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.metrics.bootstrap import cluster_draws, interval

NO_REQUEST = -1  # a missing id, as the encoder writes it in `keys`
BEST = (1, 4, 16)  # K
PASSED = (4, 8, 16, 32, 64, 128, 256, 512)  # N
FIGURES = ("recall", "gain", "lost", "whole")


def funnel_metrics(
    scores: np.ndarray,
    teacher: np.ndarray,
    requests: np.ndarray,
    best: Sequence[int] = BEST,
    passed: Sequence[int] = PASSED,
    *,
    replicates: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Recall, gain and loss for each K of `best` and N of `passed`, K <= N, N below the longest list of candidates.

    A request of at most N candidates passes all of them and loses nothing; it counts. One of fewer than K has as many
    best ones as candidates. Ties of L1 are broken against it, the teacher's worst first, so that a constant score earns
    nothing; all candidates that tie with the teacher's K-th count as its best, since it does not care which it gets.

    Args:
      scores: float `[n]`, what L1 ranks by; NaN ranks last.
      teacher: float `[n]`, utility that the teacher gives; a row without one (NaN) is no candidate.
      requests: int64 `[n]`; a row of `NO_REQUEST` is no candidate.
      replicates: of the bootstrap, which resamples requests; 0 = no intervals.
      seed: of its draws.

    Returns `requests` (Q), `candidates` (of them) and `at`, a list with, for each K and N:
      best, passed: K and N.
      recall: mean over requests of the share of the teacher's best K that L1 passes.
      gain: utility, the teacher's, of the K picked behind L1 / of its best K of all; None if that is 0, or one < 0.
      lost: mean over requests of the difference of these two sums, in units of the utility.
      whole: share of the requests that have at most N candidates, and so a recall of 1.
      intervals: with replicates, figure -> 95 % interval `[low, high]`; None where the figure is, or in a
        tenth of the replicates.
    """
    sums = funnel_sums(scores, teacher, requests, best, passed)
    at = sums.figures()
    if replicates:
        replicated = sums.replicates(replicates, seed)
        for a, one in enumerate(at):
            one["intervals"] = {name: interval(values_AR[a]) for name, values_AR in replicated.items()}
    return {"requests": sums.requests, "candidates": sums.candidates, "at": at}


def funnel_sums(
    scores: np.ndarray, teacher: np.ndarray, requests: np.ndarray, best: Sequence[int], passed: Sequence[int]
) -> FunnelSums:
    """What the figures of `funnel_metrics` are ratios of; arguments as there.

    Requests are those of the teacher and in order of their ids, so that the replicates of two rankers are pairs.
    """
    kept = ~np.isnan(teacher) & (requests != NO_REQUEST)
    lists = _Lists.of(scores[kept].astype(np.float64), teacher[kept].astype(np.float64), requests[kept])
    longest = int(lists.sizes_Q.max(initial=0))
    pairs = [(k, n) for k in best for n in passed if k <= n < longest]
    sums = [lists.sums(k, n) for k, n in pairs]
    sums_AQS = np.stack(sums) if sums else np.zeros((0, lists.sizes_Q.size, 5))
    return FunnelSums(lists.sizes_Q.size, lists.utility.size, pairs, sums_AQS, bool(lists.utility.min(initial=0) >= 0))


@dataclass(frozen=True)
class FunnelSums:
    """Sums over each request, for each pair of K and N.

    Attributes:
      requests, candidates: how many there are.
      pairs: A of (K, N).
      sums_AQS: float64 `[A, Q, S]`.
      gains: no utility is < 0.
    """

    requests: int
    candidates: int
    pairs: Sequence[tuple[int, int]]
    sums_AQS: np.ndarray
    gains: bool

    def figures(self) -> list[dict[str, Any]]:
        """`best`, `passed` and `FIGURES` by pair; None where one is undefined."""
        found_A = _figures(self.sums_AQS.sum(axis=1), self.gains)
        return [
            {"best": k, "passed": n, **{f: None if np.isnan(v[a]) else float(v[a]) for f, v in found_A.items()}}
            for a, (k, n) in enumerate(self.pairs)
        ]

    def replicates(self, replicates: int, seed: int = 0) -> dict[str, np.ndarray]:
        """`FIGURES` in each replicate, which resamples requests: float64 `[A, R]`, NaN where one is undefined."""
        draws = cluster_draws(np.arange(self.requests), replicates, seed)
        return _figures(np.concatenate([draws_rQ @ self.sums_AQS for _, draws_rQ in draws], axis=1), self.gains)


def _figures(sums: np.ndarray, gains: bool) -> dict[str, np.ndarray]:
    """`FIGURES` by their sums over requests, `[..., S]`, NaN where one is undefined; no utility < 0 if `gains`."""
    requests, recall, got, ideal, whole = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "recall": recall / requests,
            "gain": np.where((ideal > 0) & gains, got / ideal, np.nan),
            "lost": (ideal - got) / requests,
            "whole": whole / requests,
        }


@dataclass(frozen=True)
class _Lists:
    """The candidates of each request, best for the teacher first.

    Attributes:
      utility: float64 `[n]`, the teacher's.
      place: int64 `[n]`, L1's rank within the request, from 0.
      first_Q, sizes_Q: int64 `[Q]`, first row and rows of each request.
      rank: int64 `[n]`, the teacher's rank within the request, from 0.
    """

    utility: np.ndarray
    place: np.ndarray
    first_Q: np.ndarray
    sizes_Q: np.ndarray
    rank: np.ndarray

    @staticmethod
    def of(scores: np.ndarray, utility: np.ndarray, requests: np.ndarray) -> _Lists:
        order = np.lexsort((-utility, requests))
        scores, utility, requests = scores[order], utility[order], requests[order]
        first_Q = np.flatnonzero(np.concatenate([[True], requests[1:] != requests[:-1]])[: requests.size])
        sizes_Q = np.diff(first_Q, append=requests.size)
        rank = np.arange(requests.size) - np.repeat(first_Q, sizes_Q)
        by_score = np.lexsort((utility, -np.where(np.isnan(scores), -np.inf, scores), requests))
        place = np.empty(requests.size, np.int64)
        place[by_score] = rank
        return _Lists(utility, place, first_Q, sizes_Q, rank)

    def sums(self, k: int, n: int) -> np.ndarray:
        """What the figures for one K and N are ratios of, for each request: float64 `[Q, S]`."""
        passed = self.place < n
        best_Q = np.minimum(k, self.sizes_Q)
        threshold = np.repeat(self.utility[self.first_Q + best_Q - 1], self.sizes_Q)
        hits_Q = np.add.reduceat(passed & (self.utility >= threshold), self.first_Q, dtype=np.int64)
        recall_Q = np.minimum(hits_Q, best_Q) / best_Q
        passed_before = np.cumsum(passed) - passed
        picked = passed & (passed_before - np.repeat(passed_before[self.first_Q], self.sizes_Q) < k)
        got_Q = self._of_requests(np.where(picked, self.utility, 0.0))
        ideal_Q = self._of_requests(np.where(self.rank < k, self.utility, 0.0))
        return np.stack([np.ones(best_Q.size), recall_Q, got_Q, ideal_Q, self.sizes_Q <= n], axis=1)

    def _of_requests(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.first_Q)
