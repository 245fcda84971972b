"""Ranks ads for requests: a bundle and an ad index in memory, behind compiled programs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from serving.eligibility.conditions import MAX_EXCLUDED, Condition, ConditionEncoder, ConditionError, Conditions
from serving.index.ad_columns import AdId
from serving.index.ad_index import AdIndex
from serving.index.ad_table import AdIdError, AdTable
from serving.scoring.jitted import QUERIES, Shape
from serving.scoring.programs import Programs
from serving.scoring.results import Encoded, Ranking, Running, ScoredAd
from tt_jax.bundle.reader import Bundle
from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoder
from tt_jax.models.scenario import covered_scenarios

_SHOWN = 300  # characters of an error: a client may have sent anything


class RequestError(ValueError):
    """A request that cannot be answered: which feature or key, its value, what was expected. For the client to read."""


class IndexMismatchError(ValueError):
    """An index that another bundle made. The message names both fingerprints."""


class Scorer:
    """Ranks and scores the ads of an index with the model of a bundle. Safe in threads, but see
    `serving.scorer_updates`.

    Attributes:
      schema: of the bundle.
      bundle: its manifest.
      fingerprint: of the bundle.
      ads: those of the index, by position.
      index_id: version of the index, as text: its id, and after changes what they lead to.
      index_size, eligible: ads in the index, and those of them that may be returned.
      utility: the expression that ads are ranked by.
      examples: the queries of the bundle's golden rows, raw.
      max_k, max_candidates: largest `k`, longest list of candidates.
    """

    def __init__(
        self,
        bundle: Bundle,
        index: AdIndex,
        *,
        max_k: int = 1000,
        max_candidates: int = 16_384,
        warm: bool = True,
        headroom: float = 0.0,
        like: Scorer | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """See `load`. Does not replay the golden rows."""
        if index.fingerprint != bundle.fingerprint:
            raise IndexMismatchError(
                f"the index was made by the bundle {index.fingerprint}, but this bundle is {bundle.fingerprint}; "
                "build the index again with this bundle"
            )
        if index.attributes.schema != bundle.schema.attributes:
            expected, got = (
                ", ".join(a.name for a in schema) or "none"
                for schema in (bundle.schema.attributes, index.attributes.schema)
            )
            raise IndexMismatchError(f"expected an index with the attributes of the schema, {expected}; got {got}")
        if max_k < 1 or max_candidates < 1:
            raise ValueError(f"expected max_k and max_candidates >= 1, got {max_k} and {max_candidates}")
        self.bundle, self.schema, self.fingerprint = bundle.manifest, bundle.schema, bundle.fingerprint
        self.max_k, self.max_candidates = max_k, max_candidates
        self.utility = bundle.manifest.utility
        self.examples = tuple(row.query for row in bundle.golden)
        self._encoder, self._trained_on = Encoder(bundle.schema), bundle.config.data.scenarios
        self._conditions = ConditionEncoder(bundle.schema)
        self._set_ads(AdTable.of(index))
        places = math.ceil(len(index.ids) * (1 + headroom))
        share = None if like is None else like._programs
        self._programs = Programs(bundle, index, max_k, max_candidates, places, share, mesh)
        if warm:
            self.warm_up()

    @staticmethod
    def load(
        bundle: str | Path,
        index: str | Path,
        *,
        max_k: int = 1000,
        max_candidates: int = 16_384,
        warm: bool = True,
        headroom: float = 0.0,
        like: Scorer | None = None,
        mesh: Mesh | None = None,
    ) -> Scorer:
        """Reads and verifies a bundle and an index, and replays the golden rows of the bundle.

        Args:
          bundle, index: directories.
          max_k, max_candidates: largest `k`, longest list of candidates.
          warm: compile every program that ranks at once, which takes seconds; others, and else all, when first needed.
          headroom: free places for new ads, as a share of the ads. Every scan reads those too.
          like: a scorer whose compiled programs are used where they fit.
          mesh: of devices of this process, over which the ads are split; None = that of `like`, or the first device.

        Raises `BundleError`, `AdIndexError` or `IndexMismatchError`.
        """
        with ThreadPoolExecutor(1) as pool:  # hashes one while the golden rows of the other compile
            reading = pool.submit(AdIndex.load, index)
            read = Bundle.load(bundle)
            read.replay_golden()
            ads = reading.result()
        return Scorer(
            read, ads, max_k=max_k, max_candidates=max_candidates, warm=warm, headroom=headroom, like=like, mesh=mesh
        )

    def warm_up(self, changes: bool = False) -> None:
        """Compiles all that ranking can need; with `changes`, what most changes of ads need too."""
        self._programs.warm_up(changes)

    def encode(
        self, queries: Sequence[Mapping[str, Any]], first: int = 0, conditions: Sequence[Condition] | None = None
    ) -> Encoded:
        """Encodes requests, each feature name -> value; an absent feature is missing, as None or NaN is.

        `conditions`: of each request; to be ranked with the ads as they are.

        Raises `RequestError` naming the query, of which the first has the number `first`, and the feature or condition
        that is unknown or has a wrong value.
        """
        for i, query in enumerate(queries, first):
            if not isinstance(query, Mapping) or not all(type(name) is str for name in query):
                raise _error(f"query {i}: expected an object of features, got {query!r}")
        try:
            arrays = self._encoder.encode_queries(queries).arrays
        except EncodeError as e:
            raise _error(f"query {first + (e.row or 0)}: feature {e.column!r}: {e.reason}") from None
        except RecursionError:  # from the repr of a value in the encoder's own error
            raise RequestError("a feature value is nested too deeply") from None
        encoded = self._encode_conditions(conditions, len(queries), first)
        return Encoded(arrays["query_ids"], arrays["query_floats"], encoded)

    def _encode_conditions(self, conditions: Sequence[Condition] | None, queries: int, first: int) -> Conditions:
        if not conditions:
            return self._conditions.none(queries)
        parts: list[Conditions] = []
        for i, condition in enumerate(conditions, first):
            try:
                excluded = np.unique(self.ads.ids.find(_excluded(condition.exclude)))
                encoded, _ = self._conditions.encode([condition], self.ads.attributes, [excluded[excluded >= 0]])
            except AdIdError as e:
                raise _error(f"exclude of query {i}: {e}") from None
            except ConditionError as e:
                raise _error(f"query {i}: {e}") from None
            parts.append(encoded)
        return Conditions.concatenate(parts)

    def top_k(
        self,
        queries: Sequence[Mapping[str, Any]],
        k: int,
        candidates: Sequence[Sequence[AdId]] | None = None,
        *,
        context: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        where: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        exclude: Sequence[AdId] | Sequence[Sequence[AdId]] = (),
    ) -> list[list[ScoredAd]]:
        """`encode`, then `rank`.

        Args:
          queries, k, candidates: as of `encode` and `rank`.
          context: values that ads target, `now` in Unix seconds (else the clock's), and request values.
          where: attribute -> `{"any": [...]}`, `{"all": [...]}`, `{"none": [...]}`, `{"min": x, "max": y}` or a flag.
          exclude: ids of ads; one of no ad is ignored. Each of the three is for all queries, or a list, one for each.
        """
        return self.rank(self.encode(queries, 0, conditions_of(len(queries), context, where, exclude)), k, candidates)

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

    def batch_key(self, k: int, candidates: Sequence[Sequence[AdId]] | None) -> Shape:
        """What requests must have in common to be ranked by one call. Raises `RequestError` for a wrong `k`."""
        self._check_k(k)
        return self._programs.batch_key(k, None if candidates is None else max(map(len, candidates), default=0))

    def candidate_lists(self, candidates: Sequence[Sequence[AdId]], queries: int, first: int = 0) -> list[np.ndarray]:
        """Positions in the index of the ads of each query's list, each once. Raises `RequestError`, as `encode`."""
        return [_distinct(positions) for positions in self._positions(candidates, queries, "candidates", first)]

    def start(self, encoded: Encoded, ks: Sequence[int], lists: Sequence[np.ndarray] | None) -> Ranking:
        """Starts to rank the ads for requests of `ks` ads each, checked by `batch_key`, and does not wait.

        `lists`: of `candidate_lists`; None ranks all ads.
        """
        calls: list[tuple[list[int], Running]] = []
        if lists is None:
            for rows in _call_rows(encoded.conditions.excluded):
                largest = max(ks[row] for row in rows)
                calls.append((rows, self._programs.best(encoded.at(rows), largest)))
        else:
            excluded = encoded.conditions.excluded
            lists = [some[~np.isin(some, out)] if len(out) else some for some, out in zip(lists, excluded, strict=True)]
            encoded = encoded.without_exclusions()
            for rows in self._candidate_batches(lists):
                of_rows = [lists[row] for row in rows]
                calls.append((rows, self._programs.best_candidates(encoded.at(rows), of_rows)))
        return Ranking(calls, ks, self._ads)

    def _check_k(self, k: int) -> None:
        if type(k) is not int or not 1 <= k <= self.max_k:
            raise _error(f"k: expected an integer within 1..{self.max_k}, got {k!r}")

    def score(
        self,
        queries: Sequence[Mapping[str, Any]],
        ad_ids: Sequence[Sequence[AdId]],
        context: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    ) -> list[list[ScoredAd]]:
        """Scores a list of ads for each request, in the order given; also ads that are not eligible.

        `context`: as of `top_k`, for the request values that the utility uses.

        Raises `RequestError` for a wrong feature, an unknown id or too long a list.
        """
        encoded, answers = self.encode(queries, 0, conditions_of(len(queries), context, (), ())), []
        for i, positions in enumerate(self._positions(ad_ids, len(encoded), "ad_ids")):
            utility, probabilities = self._programs.scores(encoded.at([i]), positions)
            answers.append(self._ads(positions, utility, probabilities))
        return answers

    def utilities(self, ids: np.ndarray, floats: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """`score` in bulk, for replays: utilities float32 `[n, C]` of C ads for each of n requests without a context.

        Args:
          ids, floats: int32 `[n, S]` and float32 `[n, F]` of the encoder.
          positions: int32 `[n, C]`, of the ads in the index. Compiles a program for each shape.
        """
        return self._programs.utilities(Encoded(ids, floats, self._conditions.none(len(ids))), positions)

    def with_ads(self, ads: AdTable, programs: Programs) -> Scorer:
        """The same, with other ads and the programs that hold them. For `serving.scorer_updates`."""
        other = copy.copy(self)
        other._programs = programs
        other._set_ads(ads)
        return other

    def _set_ads(self, ads: AdTable) -> None:
        self.ads, self.index_id = ads, str(ads.version)
        self.index_size, self.eligible = len(ads.ids), int(np.count_nonzero(ads.valid))

    def covers(self, given: str) -> tuple[str, ...]:
        """The scenarios that it answers for, if it is given as this; see `covered_scenarios`."""
        return covered_scenarios(self.schema, self._trained_on, given)

    @property
    def memory(self) -> int:
        """Bytes of its arrays: weights, tables and ads."""
        return self._programs.memory + self.ads.bids.nbytes + self.ads.valid.nbytes

    @property
    def programs(self) -> Programs:
        """The compiled programs, which hold the arrays."""
        return self._programs

    def _positions(self, lists: Sequence[Sequence[AdId]], queries: int, key: str, first: int = 0) -> list[np.ndarray]:
        if len(lists) != queries:
            raise _error(f"{key}: expected a list for each of {queries} queries, got {len(lists)}")
        positions = []
        for i, ids in enumerate(lists, first):
            if not isinstance(ids, list | tuple):
                raise _error(f"{key} of query {i}: expected a list of ids, got {ids!r}")
            if len(ids) > self.max_candidates:
                raise _error(f"{key} of query {i}: expected at most {self.max_candidates} ids, got {len(ids)}")
            try:
                positions.append(self.ads.ids.positions(ids))
            except AdIdError as e:
                raise _error(f"{key} of query {i}: {e}") from None
        return positions

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
        return list(map(ScoredAd, self.ads.ids.at(positions), utility.tolist(), probabilities))


def by_model(scorers: Scorer | Mapping[str, Scorer]) -> dict[str, Scorer]:
    """Model -> scorer, at least one; a lone scorer is that of the model that its schema names."""
    found = {scorers.schema.name: scorers} if isinstance(scorers, Scorer) else dict(scorers)
    if not found:
        raise ValueError("scorers: expected at least one, got none")
    return found


def conditions_of(queries: int, context: Any, where: Any, exclude: Any) -> list[Condition]:
    """The conditions of that many queries, of which each part is for all, or a list of one for each.

    Raises `RequestError` for a list of another length.
    """
    parts: list[list[Any]] = []
    for key, part, is_one in (
        ("context", context, isinstance(context, Mapping)),
        ("where", where, isinstance(where, Mapping)),
        ("exclude", exclude, not any(isinstance(some, list | tuple) for some in exclude)),
    ):
        if not is_one and part != () and len(part) != queries:
            raise _error(f"{key}: expected one for each of {queries} queries, got {len(part)}")
        empty = () if key == "exclude" else {}
        parts.append([part] * queries if is_one else list(part) or [empty] * queries)
    return [Condition(*of_query) for of_query in zip(*parts, strict=True)]


def _excluded(ids: Any) -> Sequence[AdId]:
    if not isinstance(ids, list | tuple):
        raise ConditionError(f"exclude: expected a list of ids, got {ids!r}")
    if len(ids) > MAX_EXCLUDED:
        raise ConditionError(f"exclude: expected at most {MAX_EXCLUDED} ids, got {len(ids)}")
    return ids


def _call_rows(excluded: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Requests that go together: as many as a call takes, and as they exclude ads for."""
    rows, count = list[int](), 0
    for row, places in enumerate(excluded):
        if rows and (len(rows) == QUERIES[-1] or count + len(places) > MAX_EXCLUDED):
            yield rows
            rows, count = [], 0
        rows.append(row)
        count += len(places)
    if rows:
        yield rows


def _batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), size):
        yield list(rows[first : first + size])


def _distinct(positions: np.ndarray) -> np.ndarray:
    """Each once, in order of first appearance."""
    first = np.unique(positions, return_index=True)[1]
    return positions[np.sort(first)]


def _error(message: str) -> RequestError:
    return RequestError(message if len(message) <= _SHOWN else message[:_SHOWN] + "...")
