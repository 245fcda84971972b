"""Funnel metrics: what the heavy ranker loses because it gets only N candidates of the lightweight one. NumPy, float64.

The heavy ranker (the teacher) would pick its best K of all candidates of a request; behind the lightweight ranker (L1)
it picks its best K of the N that L1 ranks highest.

Shapes: n candidates, Q requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NO_REQUEST = -1  # a missing id, as the encoder writes it in `keys`
BEST = (1, 4, 16)  # K
PASSED = (4, 8, 16, 32, 64, 128, 256, 512)  # N


def funnel_metrics(
    scores: np.ndarray,
    teacher: np.ndarray,
    requests: np.ndarray,
    best: Sequence[int] = BEST,
    passed: Sequence[int] = PASSED,
) -> dict[str, Any]:
    """Recall, gain and loss for each K of `best` and N of `passed`, K <= N, N below the longest list of candidates.

    A request of at most N candidates passes all of them and loses nothing; it counts. One of fewer than K has as many
    best ones as candidates. Ties of L1 are broken against it, the teacher's worst first, so that a constant score earns
    nothing; all candidates that tie with the teacher's K-th count as its best, since it does not care which it gets.

    Args:
      scores: float `[n]`, what L1 ranks by; NaN ranks last.
      teacher: float `[n]`, utility that the teacher gives; a row without one (NaN) is no candidate.
      requests: int64 `[n]`; a row of `NO_REQUEST` is no candidate.

    Returns `requests` (Q), `candidates` (of them) and `at`, a list with, for each K and N:
      best, passed: K and N.
      recall: mean over requests of the share of the teacher's best K that L1 passes.
      gain: utility, the teacher's, of the K picked behind L1 / of its best K of all; None if that is 0, or one < 0.
      lost: mean over requests of the difference of these two sums, in units of the utility.
      whole: share of the requests that have at most N candidates, and so a recall of 1.
    """
    kept = ~np.isnan(teacher) & (requests != NO_REQUEST)
    lists = _Lists.of(scores[kept].astype(np.float64), teacher[kept].astype(np.float64), requests[kept])
    longest = int(lists.sizes_Q.max(initial=0))
    at = [lists.at(k, n) for k in best for n in passed if k <= n < longest]
    return {"requests": lists.sizes_Q.size, "candidates": lists.utility.size, "at": at}


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

    def at(self, k: int, n: int) -> dict[str, Any]:
        """Figures for one K and N."""
        passed = self.place < n
        best_Q = np.minimum(k, self.sizes_Q)
        threshold = np.repeat(self.utility[self.first_Q + best_Q - 1], self.sizes_Q)
        hits_Q = np.add.reduceat(passed & (self.utility >= threshold), self.first_Q, dtype=np.int64)
        recall_Q = np.minimum(hits_Q, best_Q) / best_Q
        passed_before = np.cumsum(passed) - passed
        picked = passed & (passed_before - np.repeat(passed_before[self.first_Q], self.sizes_Q) < k)
        got = float(self.utility[picked].sum())
        ideal = float(self.utility[self.rank < k].sum())
        return {
            "best": k,
            "passed": n,
            "recall": float(recall_Q.mean()),
            "gain": got / ideal if ideal > 0 and self.utility.min() >= 0 else None,
            "lost": (ideal - got) / recall_Q.size,
            "whole": float((self.sizes_Q <= n).mean()),
        }
