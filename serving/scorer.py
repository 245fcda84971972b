"""Ranks ads for requests: a bundle and an ad index in memory, behind compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.index import AdId, AdIndex
from serving.programs import QUERIES, Programs, Running, Shape
from tt_jax.bundle import Bundle
from tt_jax.columns import EncodeError
from tt_jax.features import Encoder
from tt_jax.utility import Utility

_SHOWN = 300  # characters of an error: a client may have sent anything


class RequestError(ValueError):
    """A request that cannot be answered: which feature or key, its value, what was expected. For the client to read."""


class IndexMismatchError(ValueError):
    """An index that another bundle made. The message names both fingerprints."""


@dataclass(slots=True)
class ScoredAd:
    """An ad of an answer.

    Attributes:
      id: of the ad.
      score: its utility, the higher the better.
      probabilities: of the tasks with a head, by name.
    """

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
        """All requests of several."""
        return Encoded(np.concatenate([p.ids for p in parts]), np.concatenate([p.floats for p in parts]))


@dataclass(frozen=True, eq=False)
class Ranking:
    """Calls in progress for some requests. Made by `Scorer.start`."""

    _calls: Sequence[tuple[list[int], Running]]
    _ks: Sequence[int]
    _ads: Callable[..., list[ScoredAd]]  # of positions, utilities and probabilities

    def wait(self) -> None:
        """Returns when the results are there."""
        for _, call in self._calls:
            call.wait()

    def answers(self) -> list[list[ScoredAd]]:
        """The ads of each request. Waits. An ad that may not be returned has the utility -inf, so it comes last."""
        answers: list[list[ScoredAd]] = [[] for _ in self._ks]
        for rows, call in self._calls:
            found = call.result()
            for b, row in enumerate(rows):
                n = int(np.count_nonzero(found.utility_Bk[b, : self._ks[row]] > -np.inf))
                best = found.positions_Bk[b, :n], found.utility_Bk[b, :n], found.probabilities_TBk[:, b, :n]
                answers[row] = self._ads(*best)
        return answers


class Scorer:
    """Ranks and scores the ads of an index with the model of a bundle. Safe in threads.

    Attributes:
      schema: of the bundle.
      bundle: its manifest.
      fingerprint: of the bundle.
      index_id: of the index.
      index_size, eligible: ads in the index, and those of them that may be returned.
      utility: the expression that ads are ranked by.
      max_k, max_candidates: largest `k`, longest list of candidates.
    """

    def __init__(
        self, bundle: Bundle, index: AdIndex, *, max_k: int = 1000, max_candidates: int = 16_384, warm: bool = True
    ) -> None:
        """See `load`. Does not replay the golden rows."""
        if index.fingerprint != bundle.fingerprint:
            raise IndexMismatchError(
                f"the index was made by the bundle {index.fingerprint}, but this bundle is {bundle.fingerprint}; "
                "build the index again with this bundle"
            )
        if max_k < 1 or max_candidates < 1:
            raise ValueError(f"expected max_k and max_candidates >= 1, got {max_k} and {max_candidates}")
        self.bundle, self.schema, self.fingerprint = bundle.manifest, bundle.schema, bundle.fingerprint
        self.index_id, self.index_size, self.eligible = index.index_id, len(index.ids), int(index.valid.sum())
        self.max_k, self.max_candidates = max_k, max_candidates
        utility = Utility.parse(bundle.manifest.utility, bundle.schema.heads)
        self.utility = utility.expression
        self._encoder = Encoder(bundle.schema)
        self._ids = _AdIds(index.ids)
        self._programs = Programs(
            bundle.model, bundle.params, bundle.tables, index, utility, max_k, max_candidates, bundle.calibration
        )
        if warm:
            self.warm_up()

    @staticmethod
    def load(
        bundle: str | Path, index: str | Path, *, max_k: int = 1000, max_candidates: int = 16_384, warm: bool = True
    ) -> Scorer:
        """Reads and verifies a bundle and an index, and replays the golden rows of the bundle.

        `warm` compiles every program now, which takes seconds; else each is compiled when it is first needed. Raises
        `BundleError`, `AdIndexError` or `IndexMismatchError`.
        """
        read, ads = Bundle.load(bundle), AdIndex.load(index)
        read.replay_golden()
        return Scorer(read, ads, max_k=max_k, max_candidates=max_candidates, warm=warm)

    def warm_up(self) -> None:
        """Compiles all that requests can need."""
        self._programs.warm_up()

    def encode(self, queries: Sequence[Mapping[str, Any]]) -> Encoded:
        """Encodes requests, each feature name -> value; an absent feature is missing, as None or NaN is.

        Raises `RequestError` naming the query and the feature that is unknown or has a wrong value.
        """
        for i, query in enumerate(queries):
            if not isinstance(query, Mapping) or not all(type(name) is str for name in query):
                raise _error(f"query {i}: expected an object of features, got {query!r}")
        try:
            arrays = self._encoder.encode_queries(queries).arrays
        except EncodeError as e:
            raise _error(f"query {e.row or 0}: feature {e.column!r}: {e.reason}") from None
        return Encoded(arrays["query_ids"], arrays["query_floats"])

    def top_k(
        self, queries: Sequence[Mapping[str, Any]], k: int, candidates: Sequence[Sequence[AdId]] | None = None
    ) -> list[list[ScoredAd]]:
        """`encode`, then `rank`."""
        return self.rank(self.encode(queries), k, candidates)

    def rank(
        self, encoded: Encoded, k: int, candidates: Sequence[Sequence[AdId]] | None = None
    ) -> list[list[ScoredAd]]:
        """The best eligible ads for each request, best first.

        Equal ads stand in order of their position in the index, or in the list. There are fewer than `k` if fewer are
        eligible, or if the utility of one is -inf or not a number (`log(click - 1)`).

        Args:
          encoded: of `encode`.
          k: ads per request, 1..max_k.
          candidates: a list of ad ids for each request, ranked instead of all ads; an id again is ignored.

        Raises `RequestError` for another `k`, an unknown id, or too long a list.
        """
        self._check_k(k)
        lists = None if candidates is None else self.candidate_lists(candidates, len(encoded))
        return self.start(encoded, [k] * len(encoded), lists).answers()

    def lane(self, k: int, candidates: Sequence[Sequence[AdId]] | None) -> Shape:
        """What requests must have in common to be ranked by one call. Raises `RequestError` for a wrong `k`."""
        self._check_k(k)
        return self._programs.lane(k, None if candidates is None else max(map(len, candidates), default=0))

    def candidate_lists(self, candidates: Sequence[Sequence[AdId]], queries: int) -> list[np.ndarray]:
        """Positions in the index of the ads of each query's list, each once. Raises `RequestError`."""
        return [_distinct(found) for found in self._positions(candidates, queries, "candidates")]

    def start(self, encoded: Encoded, ks: Sequence[int], lists: Sequence[np.ndarray] | None) -> Ranking:
        """Starts to rank the ads for requests of `ks` ads each, checked by `lane`, and does not wait.

        `lists`: of `candidate_lists`; None ranks all ads.
        """
        calls: list[tuple[list[int], Running]] = []
        if lists is None:
            for rows in _batches(range(len(encoded)), QUERIES[-1]):
                largest = max(ks[row] for row in rows)
                calls.append((rows, self._programs.best(encoded.ids[rows], encoded.floats[rows], largest)))
        else:
            for rows in self._candidate_batches(lists):
                of_rows = [lists[row] for row in rows]
                calls.append((rows, self._programs.best_candidates(encoded.ids[rows], encoded.floats[rows], of_rows)))
        return Ranking(calls, ks, self._ads)

    def _check_k(self, k: int) -> None:
        if type(k) is not int or not 1 <= k <= self.max_k:
            raise _error(f"k: expected an integer within 1..{self.max_k}, got {k!r}")

    def score(self, queries: Sequence[Mapping[str, Any]], ad_ids: Sequence[Sequence[AdId]]) -> list[list[ScoredAd]]:
        """Scores a list of ads for each request, in the order given; also ads that are not eligible.

        Raises `RequestError` for a wrong feature, an unknown id or too long a list.
        """
        encoded, answers = self.encode(queries), []
        for i, positions in enumerate(self._positions(ad_ids, len(encoded), "ad_ids")):
            utility, probabilities = self._programs.scores(encoded.ids[i : i + 1], encoded.floats[i : i + 1], positions)
            answers.append(self._ads(positions, utility, probabilities))
        return answers

    def utilities(self, encoded: Encoded, positions: np.ndarray) -> np.ndarray:
        """`score` in bulk, for replays: utilities float32 `[n, C]` of C ads for each of n requests.

        `positions`: int32 `[n, C]`, of the ads in the index. Compiles a program for each shape.
        """
        return self._programs.utilities(encoded.ids, encoded.floats, positions)

    def _positions(self, lists: Sequence[Sequence[AdId]], queries: int, key: str) -> list[np.ndarray]:
        if len(lists) != queries:
            raise _error(f"{key}: expected a list for each of {queries} queries, got {len(lists)}")
        found = []
        for i, ids in enumerate(lists):
            if not isinstance(ids, list | tuple):
                raise _error(f"{key} of query {i}: expected a list of ids, got {ids!r}")
            if len(ids) > self.max_candidates:
                raise _error(f"{key} of query {i}: expected at most {self.max_candidates} ids, got {len(ids)}")
            found.append(self._ids.positions(ids, f"{key} of query {i}"))
        return found

    def _candidate_batches(self, lists: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Requests that go together. Those without a candidate go nowhere."""
        by_size: dict[int, list[int]] = {}
        for i, positions in enumerate(lists):
            if len(positions):
                by_size.setdefault(self._programs.queries_at_once(len(positions)), []).append(i)
        for at_once, rows in by_size.items():
            yield from _batches(rows, at_once)

    def _ads(self, positions: np.ndarray, utility: np.ndarray, probabilities_Tn: np.ndarray) -> list[ScoredAd]:
        names = self.schema.heads
        # No `strict`: of a hundred ads it would take a third of the time.
        probabilities = [dict(zip(names, p)) for p in probabilities_Tn.T.tolist()]  # noqa: B905
        return list(map(ScoredAd, self._ids.at(positions), utility.tolist(), probabilities))


class _AdIds:
    """Ids <-> positions in the index."""

    def __init__(self, ids: np.ndarray | list[str]) -> None:
        self._ids = ids
        if isinstance(ids, list):
            self._index: dict[Any, int] = {name: i for i, name in enumerate(ids)}
        else:
            self._order = np.argsort(ids)
            self._sorted = ids[self._order]

    def at(self, positions: np.ndarray) -> list[Any]:
        """The ids at these positions."""
        if isinstance(self._ids, list):
            return [self._ids[p] for p in positions.tolist()]
        return self._ids[positions].tolist()

    def positions(self, ids: Sequence[AdId], where: str) -> np.ndarray:
        """int `[n]`. Raises `RequestError` naming ids of a wrong type, and some of those that are not there."""
        wanted = str if isinstance(self._ids, list) else int
        for value in ids:
            if type(value) is not wanted:
                raise _error(f"{where}: expected {'a string' if wanted is str else 'an integer'}, got {value!r}")
        if isinstance(self._ids, list):
            found = np.fromiter((self._index.get(value, -1) for value in ids), np.int64, len(ids))
        else:
            found = self._search(ids)
        unknown = np.flatnonzero(found < 0)
        if len(unknown):
            some = ", ".join(repr(ids[i])[:50] for i in unknown[:3])
            raise _error(f"{where}: {len(unknown)} unknown ad ids: {some}{', ...' if len(unknown) > 3 else ''}")
        return found

    def _search(self, ids: Sequence[Any]) -> np.ndarray:
        """Positions of integers, -1 for an unknown one."""
        try:
            values = np.array(ids, np.int64)
        except OverflowError:  # an id of more than 64 bits
            inside = [v if -(2**63) <= v < 2**63 else None for v in ids]
            return np.array([-1 if v is None else int(self._search([v])[0]) for v in inside])
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        return np.where(self._sorted[at] == values, self._order[at], -1)


def _batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), size):
        yield list(rows[first : first + size])


def _distinct(positions: np.ndarray) -> np.ndarray:
    """Each once, in order of first appearance."""
    first = np.unique(positions, return_index=True)[1]
    return positions[np.sort(first)]


def _error(message: str) -> RequestError:
    return RequestError(message if len(message) <= _SHOWN else message[:_SHOWN] + "...")
