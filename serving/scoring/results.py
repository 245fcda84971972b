"""What goes into a `serving.scorer.Scorer`, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from serving.eligibility.conditions import ConditionArrays, Conditions
from serving.index.ad_columns import AdId
from serving.scoring.top_k import TopK
from tt_jax.schema import PAD_ID


@dataclass(slots=True)
class ScoredAd:
    """An ad of an answer.

    Attributes:
      id: of the ad.
      score: its utility, the higher the better.
      probabilities: of the tasks with a head, by name.
      propensity: of an answer that explores: the probability, over the draws of `serving.scoring.explore`, that this ad
        is in the answer to this request; of others None.
    """

    id: AdId
    score: float
    probabilities: dict[str, float]
    propensity: float | None = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded requests, `len` of them: `ids` int32 `[n, S]`, `floats` float32 `[n, F]`. Concatenate them to batch.

    `conditions`: of the ads of one version of an index, on which alone they may be ranked.
    """

    ids: np.ndarray
    floats: np.ndarray
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def concatenate(parts: Sequence[Encoded]) -> Encoded:
        """All requests of several."""
        ids, floats = np.concatenate([p.ids for p in parts]), np.concatenate([p.floats for p in parts])
        return Encoded(ids, floats, Conditions.concatenate([p.conditions for p in parts]))

    def at(self, rows: list[int]) -> Encoded:
        """Some of the requests."""
        return Encoded(self.ids[rows], self.floats[rows], self.conditions.at(rows))

    def without_exclusions(self) -> Encoded:
        """The same; the ads that they exclude are excluded otherwise."""
        nothing = [np.zeros(0, np.int64)] * len(self)
        return replace(self, conditions=replace(self.conditions, excluded=nothing))

    def padded(self, queries: int) -> tuple[np.ndarray, np.ndarray, ConditionArrays]:
        """What a program of that many queries takes."""
        return *_pad(self.ids, self.floats, queries), self.conditions.padded(queries)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Calls in progress for some requests. Made by `Scorer.start`."""

    _calls: Sequence[tuple[list[int], Running]]
    _ks: Sequence[int]
    _ads: Callable[..., list[ScoredAd]]  # of positions, utilities, probabilities, and perhaps propensities
    _explored: Mapping[int, tuple[np.ndarray, ...]] = field(default_factory=dict)  # request -> what its answer is

    def wait(self) -> None:
        """Returns when the results are there."""
        for _, call in self._calls:
            call.wait()

    def best(self) -> list[tuple[np.ndarray, ...]]:
        """Of each request the positions of its n ads, their utilities `[n]` and probabilities `[T, n]`. Waits.

        Of one that explores also the propensities `[n]`.

        An ad that may not be returned has the utility -inf, so it comes last.
        """
        none = np.empty(0, np.int32), np.empty(0, np.float32), np.empty((0, 0), np.float32)
        best: list[tuple[np.ndarray, ...]] = [self._explored.get(row, none) for row in range(len(self._ks))]
        for rows, call in self._calls:
            top: Any = call.result()  # NumPy's, declared as JAX's
            for b, row in enumerate(rows):
                n = int(np.count_nonzero(top.utility_Bk[b, : self._ks[row]] > -np.inf))
                best[row] = top.positions_Bk[b, :n], top.utility_Bk[b, :n], top.probabilities_TBk[:, b, :n]
        return best

    def answers(self) -> list[list[ScoredAd]]:
        """The ads of each request. Waits."""
        return [self._ads(*best) for best in self.best()]


@dataclass(frozen=True)
class Running:
    """A call that was started for some queries. XLA computes while Python goes on."""

    _top_k: TopK
    _queries: int

    def wait(self) -> None:
        """Returns when the results are there."""
        jax.block_until_ready(self._top_k)

    def result(self) -> TopK:
        """NumPy arrays, without the padding. Waits."""
        # NumPy sees what a CPU has where it is; from elsewhere it copies, one array after the other. `jax.device_get`
        # copies all at once, but takes 0.14 ms more on a CPU. These are results: no later call is given their memory.
        top: Any = jax.tree.map(np.asarray, self._top_k)
        n = self._queries
        return TopK(top.positions_Bk[:n], top.utility_Bk[:n], top.probabilities_TBk[:, :n])


def _pad(ids: np.ndarray, floats: np.ndarray, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """`ids` int32 `[n, S]` and `floats` float32 `[n, F]` with empty rows up to that many queries."""
    if len(ids) == queries:
        return ids, floats
    spare = ((0, queries - len(ids)), (0, 0))
    return np.pad(ids, spare, constant_values=PAD_ID), np.pad(floats, spare)
