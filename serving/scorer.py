"""Ranks ads for requests: a bundle and an ad index in memory, behind compiled programs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from serving.eligibility.condition_encoder import ConditionEncoder
from serving.eligibility.conditions import Condition, ConditionError, conditions_of
from serving.eligibility.explain import broken_rules
from serving.index.ad_columns import AdId
from serving.index.ad_index import AdIndex, require_fit
from serving.index.ad_table import AdIdError, AdTable
from serving.scoring.calls import distinct, start_calls
from serving.scoring.explore import Explore
from serving.scoring.explored_calls import Drawing, explored
from serving.scoring.jitted import Shape
from serving.scoring.programs import Programs
from serving.scoring.results import Encoded, Ranking, ScoredAd
from tt_jax.bundle.reader import Bundle
from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoder
from tt_jax.models.scenario import covered_scenarios

_SHOWN = 300  # characters of an error: a client may have sent anything


class RequestError(ValueError):
    """A request that cannot be answered: which feature or key, its value, what was expected. For the client to read."""


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
      conditions: their encoder.
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
        require_fit(index, bundle)
        if max_k < 1 or max_candidates < 1:
            raise ValueError(f"expected max_k and max_candidates >= 1, got {max_k} and {max_candidates}")
        self.bundle, self.schema, self.fingerprint = bundle.manifest, bundle.schema, bundle.fingerprint
        self.max_k, self.max_candidates = max_k, max_candidates
        self.utility = bundle.manifest.utility
        self.examples = tuple(row.query for row in bundle.golden)
        self._encoder, self._trained_on = Encoder(bundle.schema), bundle.config.data.scenarios
        self.conditions = ConditionEncoder(bundle.schema)
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
        given = conditions or [Condition()] * len(queries)
        try:
            encoded = self.conditions.encode(given, self.ads.attributes, self.ads.ids.find, first)
        except ConditionError as e:
            raise _error(str(e)) from None
        return Encoded(arrays["query_ids"], arrays["query_floats"], encoded)

    def top_k(
        self,
        queries: Sequence[Mapping[str, Any]],
        k: int,
        candidates: Sequence[Sequence[AdId]] | None = None,
        *,
        context: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        where: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        exclude: Sequence[AdId] | Sequence[Sequence[AdId]] = (),
        explore: Explore | None = None,
    ) -> list[list[ScoredAd]]:
        """`encode`, then `rank`.

        Args:
          queries, k, candidates: as of `encode` and `rank`.
          context: values that ads target, `now` in Unix seconds (else the clock's), and request values.
          where: attribute -> `{"any": [...]}`, `{"all": [...]}`, `{"none": [...]}`, `{"min": x, "max": y}` or a flag.
          exclude: ids of ads; one of no ad is ignored. Each of the three is for all queries, or a list, one for each.
          explore: gives some slots to other eligible ads; see `serving.scoring.explore`.
        """
        encoded = self.encode(queries, 0, _conditions(queries, context, where, exclude))
        return self.rank(encoded, k, candidates, explore)

    def explain(self, ad_id: AdId, condition: Condition) -> list[str]:
        """Why an ad may not serve a request with this condition: a sentence for each rule; none if it may.

        Raises `RequestError` for a wrong condition, or an id of no ad.
        """
        self.encode([{}], 0, [condition])
        (places,) = self._positions([[ad_id]], 1, "ad_ids")
        place = int(places[0])
        found = [] if self.ads.valid[place] else ["eligible: the ad may not be returned at all"]
        found += broken_rules(condition, self.ads.attributes, place, int(time.time()))
        return found + (["exclude: the request excludes the ad"] if ad_id in condition.exclude else [])

    def rank(
        self,
        encoded: Encoded,
        k: int,
        candidates: Sequence[Sequence[AdId]] | None = None,
        explore: Explore | None = None,
    ) -> list[list[ScoredAd]]:
        """The best eligible ads for each request, best first.

        Equal ads stand in order of their position in the index, or in the list. There are fewer than `k` if fewer are
        eligible, or if the utility of one is -inf or not a number (`log(click - 1)`).

        Args:
          encoded: of `encode`.
          k: ads per request, 1..max_k.
          candidates: a list of ad ids for each request, ranked instead of all ads; an id again is ignored.
          explore: as of `top_k`; the answers are in the order of slots then.

        Raises `RequestError` for another `k`, an unknown id, or too long a list.
        """
        self._check_k(k, explore)
        lists = None if candidates is None else self.candidate_lists(candidates, len(encoded))
        drawings = [explore and (explore, row) for row in range(len(encoded))]
        return self.start(encoded, [k] * len(encoded), lists, drawings).answers()

    def batch_key(self, k: int, candidates: Sequence[Sequence[AdId]] | None, explore: Explore | None = None) -> Shape:
        """What requests must have in common to be ranked by one call. Raises `RequestError` for a wrong `k`."""
        self._check_k(k, explore)
        return self._programs.batch_key(k, None if candidates is None else max(map(len, candidates), default=0))

    def candidate_lists(self, candidates: Sequence[Sequence[AdId]], queries: int, first: int = 0) -> list[np.ndarray]:
        """Positions in the index of the ads of each query's list, each once. Raises `RequestError`, as `encode`."""
        return [distinct(positions) for positions in self._positions(candidates, queries, "candidates", first)]

    def start(
        self,
        encoded: Encoded,
        ks: Sequence[int],
        lists: Sequence[np.ndarray] | None,
        drawings: Sequence[Drawing | None] = (),
    ) -> Ranking:
        """Starts to rank the ads for requests of `ks` ads each, checked by `batch_key`, and does not wait.

        `lists`: of `candidate_lists`; None ranks all ads. `drawings`: of the requests; those that explore are ranked at
        once.
        """
        draws = {row: drawing for row, drawing in enumerate(drawings) if drawing}
        if not draws:
            return Ranking(start_calls(self._programs, encoded, ks, lists), ks, self._ads)

        def of(rows: list[int]) -> tuple[Encoded, list[int], list[np.ndarray] | None]:
            return encoded.at(rows), [ks[row] for row in rows], None if lists is None else [lists[row] for row in rows]

        answers = explored(self._programs, *of(list(draws)), list(draws.values()))
        others = [row for row in range(len(encoded)) if row not in draws]
        started = start_calls(self._programs, *of(others)) if others else []
        calls = [([others[i] for i in rows], call) for rows, call in started]
        return Ranking(calls, ks, self._ads, dict(zip(draws, answers, strict=True)))

    def _check_k(self, k: int, explore: Explore | None) -> None:
        most = self.max_k if explore is None else min(self.max_k, self.max_candidates)
        if type(k) is not int or not 1 <= k <= most:
            raise _error(f"k: expected an integer within 1..{most}, got {k!r}")

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
        encoded, answers = self.encode(queries, 0, _conditions(queries, context)), []
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
        return self._programs.utilities(Encoded(ids, floats, self.conditions.none(len(ids))), positions)

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

    def _ads(
        self, positions: np.ndarray, utility: np.ndarray, probabilities_Tn: np.ndarray, *propensity: np.ndarray
    ) -> list[ScoredAd]:
        names = self.schema.heads
        # No `strict`: of a hundred ads it would take a third of the time.
        probabilities = [dict(zip(names, p)) for p in probabilities_Tn.T.tolist()]  # noqa: B905
        return list(
            map(
                ScoredAd, self.ads.ids.at(positions), utility.tolist(), probabilities, *(p.tolist() for p in propensity)
            )
        )


def _conditions(queries: Sequence[Any], *parts: Any) -> list[Condition] | None:
    try:
        return conditions_of(len(queries), *parts)
    except ConditionError as e:
        raise _error(str(e)) from None


def _error(message: str) -> RequestError:
    return RequestError(message if len(message) <= _SHOWN else message[:_SHOWN] + "...")
