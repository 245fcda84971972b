"""Ranks ads for requests: a bundle and an ad index, in memory, behind compiled programs of fixed shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.index import AdIndex, AdId
from tt_jax.bundle import Bundle


class RequestError(ValueError):
    """A request that cannot be answered. The message is for the client: which feature or key, its value, what was expected."""


class IndexMismatchError(ValueError):
    """An index made by another bundle. The message names both fingerprints."""


@dataclass(frozen=True)
class ScoredAd:
    """An ad of an answer: its id, its utility (the higher the better) and the probability of each task."""

    id: AdId
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded requests, `len` of them: `ids` int32 `[n, S]`, `floats` float32 `[n, F]`. Concatenate them to batch."""

    ids: np.ndarray
    floats: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def concatenate(parts: Sequence[Encoded]) -> Encoded:
        """One of several."""
        return Encoded(np.concatenate([p.ids for p in parts]), np.concatenate([p.floats for p in parts]))


class Scorer:
    """Skeleton: being written."""

    def __init__(
        self, bundle: Bundle, index: AdIndex, *, max_k: int = 1000, max_candidates: int = 16384, warm: bool = True
    ) -> None:
        self.bundle, self.schema, self.fingerprint = bundle.manifest, bundle.schema, bundle.fingerprint
        self.index_id, self.index_size, self.eligible = index.index_id, len(index.ids), int(index.valid.sum())
        self.utility: str = bundle.manifest.utility
        self.max_k, self.max_candidates = max_k, max_candidates

    @staticmethod
    def load(
        bundle: str | Path, index: str | Path, *, max_k: int = 1000, max_candidates: int = 16384, warm: bool = True
    ) -> Scorer:
        raise NotImplementedError

    def warm_up(self) -> None:
        raise NotImplementedError

    def encode(self, queries: Sequence[Mapping[str, Any]]) -> Encoded:
        raise NotImplementedError

    def rank(
        self, encoded: Encoded, k: int, candidates: Sequence[Sequence[AdId]] | None = None
    ) -> list[list[ScoredAd]]:
        raise NotImplementedError

    def top_k(
        self, queries: Sequence[Mapping[str, Any]], k: int, candidates: Sequence[Sequence[AdId]] | None = None
    ) -> list[list[ScoredAd]]:
        return self.rank(self.encode(queries), k, candidates)

    def score(self, queries: Sequence[Mapping[str, Any]], ad_ids: Sequence[Sequence[AdId]]) -> list[list[ScoredAd]]:
        raise NotImplementedError
