"""A batch: requests, or parts of large ones, that are encoded and ranked by one call; who gets what of the result."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from serving.batching.request import Work
from serving.eligibility.conditions import Condition
from serving.index.ad_columns import AdId
from serving.scorer import Encoded, Ranking, ScoredAd, Scorer
from serving.scoring.programs import Shape

_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(list[ScoredAd])
MOST_ADS = 8192  # of the answers of one call, whose JSON takes 4 ms: those who came meanwhile wait for it
Outcome = tuple[asyncio.Future[Any], Any]  # what a future is to get: a result, or an exception


class OverloadError(Exception):
    """A request that is not taken, since it would wait too long. The client may try again after `retry_after` s."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def retry_after_header(self) -> str:
        """Value of `Retry-After`, which HTTP has in whole seconds."""
        return str(max(1, math.ceil(self.retry_after)))


class DeadlineError(Exception):
    """A request whose deadline passed before its answer was there: in the queue, or `while` it was ranked."""

    def __init__(self, ranked: bool) -> None:
        super().__init__(f"the deadline passed while the request was {'ranked' if ranked else 'queued'}")
        self.reason = "late" if ranked else "expired"


class DispatcherError(RuntimeError):
    """The thread that ranks has ended, or has not got on for a long time. Nothing is ranked any more."""


def awaitable(error: BaseException) -> Exception:
    """The error itself, if it may be raised to who awaits something; else one that tells of it. A future takes no
    StopIteration, and errors that are no Exception, such as SystemExit, would end the event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told


@dataclass(frozen=True)
class Ranked:
    """The ranked ads of each query of a request, as JSON, how many they are in all, and the fingerprints of the pair
    that ranked them."""

    json: list[bytes]
    ads_found: int
    bundle: str
    index: str

    @property
    def ads(self) -> list[list[ScoredAd]]:
        """The same as objects. Raises `msgspec.ValidationError` if a utility is infinite, for which JSON has null."""
        return [_DECODER.decode(ads) for ads in self.json]


@dataclass(eq=False, slots=True)
class Queued:
    """A request that waits for its answer.

    Attributes:
      work: that nobody else changes.
      batch_key: what it must have in common with others to be ranked by one call.
      deadline, arrived: of `time.perf_counter`.
      taken: of its queries, those that calls were started for.
      ads: JSON of the ads of the queries that were ranked.
      ads_found: how many these are.
      is_over: its outcome is known.
      ads_each: most ads that a query can get.
      at_once: most of its queries for one call.
      calls: how many it needs; a small one needs a part of one.
    """

    work: Work
    batch_key: Shape
    deadline: float
    arrived: float
    answer: asyncio.Future[Ranked]
    taken: int = 0
    ads: list[bytes] = field(default_factory=list)
    ads_found: int = 0
    is_over: bool = False
    ads_each: int = field(init=False)
    at_once: int = field(init=False)
    calls: float = field(init=False)

    def __post_init__(self) -> None:
        self.ads_each = min(self.work.k, self.batch_key.size)
        self.at_once = max(1, min(self.batch_key.queries, MOST_ADS // self.ads_each))
        self.calls = len(self.work.queries) / self.at_once

    @property
    def left(self) -> int:
        """Queries that no call was started for."""
        return len(self.work.queries) - self.taken

    def part(self, most: int) -> Part:
        """Its next queries, at most that many."""
        first = self.taken
        self.taken += min(most, self.left)
        return Part(self, first, self.taken)

    def fails(self, error: BaseException) -> Outcome:
        """What it gets if that went wrong. It is over then."""
        self.is_over = True
        return self.answer, awaitable(error)


@dataclass(eq=False, slots=True)
class Part:
    """The queries `first` to `end` of a request, for one call.

    `lists`: positions of the candidates of each, once they are looked up.
    """

    request: Queued
    first: int
    end: int
    lists: list[np.ndarray] | None = None

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.end - self.first


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Parts of requests whose ranking was started, by this scorer, at this time."""

    parts: list[Part]
    scorer: Scorer
    ranking: Ranking
    started: float

    def wait(self) -> None:
        """Waits until the device is done. Never raises: a failure is in `outcomes`."""
        with contextlib.suppress(Exception):
            self.ranking.wait()

    @property
    def model(self) -> str:
        """Whose scorer it is."""
        return self.parts[0].request.work.model

    @property
    def queries(self) -> int:
        """Number of queries."""
        return sum(part.queries for part in self.parts)

    def outcomes(self) -> list[Outcome]:
        """The answers to requests of which these are the last parts. Waits for them. Whoever has a deadline that passed
        meanwhile gets a `DeadlineError`."""
        try:
            best = iter(self.ranking.best())
            outcomes = [self._outcome(part, [next(best) for _ in range(part.queries)]) for part in self.parts]
            return [outcome for outcome in outcomes if outcome is not None]
        except BaseException as e:  # as in `start_batch`
            return all_fail(self.parts, e)

    def _outcome(self, part: Part, best: list[tuple[np.ndarray, ...]]) -> Outcome | None:
        request = part.request
        if request.is_over or request.answer.done():
            request.is_over = True
            return None
        if time.perf_counter() > request.deadline:
            return request.fails(DeadlineError(ranked=True))
        heads, ids = self.scorer.schema.heads, self.scorer.ads.ids
        request.ads += [ads_json(heads, ids.at(positions), *scores) for positions, *scores in best]
        request.ads_found += sum(len(positions) for positions, *_ in best)
        if part.end < len(request.work.queries):
            return None
        request.is_over = True
        return request.answer, Ranked(request.ads, request.ads_found, self.scorer.fingerprint, self.scorer.index_id)


def all_fail(parts: list[Part], error: BaseException) -> list[Outcome]:
    """The outcomes when a call for these went wrong."""
    return [part.request.fails(error) for part in parts]


def start_batch(scorer: Scorer, parts: list[Part], failed: list[Outcome]) -> Batch | None:
    """Encodes parts of one batch key and starts to rank them. Errors go to `failed`; None if all parts fail."""
    started = time.perf_counter()
    try:
        groups = _encode(scorer, _find_candidates(scorer, parts, failed), failed)
        fit = [part for some, _ in groups for part in some]
        if not fit:
            return None
        encoded = groups[0][1] if len(groups) == 1 else Encoded.concatenate([e for _, e in groups])
        ks = [part.request.work.k for part in fit for _ in range(part.queries)]
        lists = [positions for part in fit for positions in part.lists or ()]
        drawings = [
            part.request.work.explore and (part.request.work.explore, i)
            for part in fit
            for i in range(part.first, part.end)
        ]
        ranking = scorer.start(encoded, ks, None if fit[0].lists is None else lists, drawings)
        return Batch(fit, scorer, ranking, started)
    except BaseException as e:  # a fault of ours: these requests get it, and the thread goes on with the next batch
        failed[:] = all_fail(parts, e)
        return None


def _find_candidates(scorer: Scorer, parts: list[Part], failed: list[Outcome]) -> list[Part]:
    """Those whose candidates, if they list some, are all known."""
    fit = []
    for part in parts:
        candidates = part.request.work.candidates
        try:
            if candidates is not None:
                some = candidates[part.first : part.end]
                part.lists = scorer.candidate_lists(some, part.queries, part.first)
            fit.append(part)
        except Exception as e:
            failed.append(part.request.fails(e))
    return fit


def _encode(scorer: Scorer, parts: list[Part], failed: list[Outcome]) -> list[tuple[list[Part], Encoded]]:
    """All at once; if one of them is wrong, by halves, so that most of the others are still encoded together."""
    if not parts:
        return []
    try:
        queries = [query for part in parts for query in part.request.work.queries[part.first : part.end]]
        first = parts[0].first if len(parts) == 1 else 0
        return [(parts, scorer.encode(queries, first, _conditions(parts)))]
    except Exception as e:
        error = e
    if len(parts) == 1:
        failed.append(parts[0].request.fails(error))
        return []
    half = len(parts) // 2
    return _encode(scorer, parts[:half], failed) + _encode(scorer, parts[half:], failed)


def _conditions(parts: list[Part]) -> list[Condition] | None:
    """Of all queries of these parts; None if none of them says anything."""
    if all(part.request.work.conditions is None for part in parts):
        return None
    given: list[Condition] = []
    for part in parts:
        of_request = part.request.work.conditions
        given += [Condition()] * part.queries if of_request is None else of_request[part.first : part.end]
    return given


def ads_json(
    heads: Sequence[str],
    ids: list[AdId],
    utility_n: np.ndarray,
    probabilities_Tn: np.ndarray,
    propensity_n: np.ndarray | None = None,
) -> bytes:
    """What msgspec makes of a list of `ScoredAd`, byte for byte, but for a propensity of None.

    A hundred objects would cost three times as much.

    Args:
      heads: names of the T tasks, at least one.
      ids: of n ads.
      utility_n, probabilities_Tn: float32.
      propensity_n: float64, of an answer that explores.
    """
    n = len(ids)
    if not n:
        return b"[]"
    first, *rest = [_ENCODER.encode(name) for name in heads]
    keys = [b'}},{"id":', b',"score":', b',"probabilities":{%b:' % first, *(b",%b:" % name for name in rest)]
    numbers = _ENCODER.encode(utility_n.tolist() + probabilities_Tn.ravel().tolist())[1:-1].split(b",")
    columns = [list(map(_ENCODER.encode, ids)), *(numbers[i : i + n] for i in range(0, len(numbers), n))]
    end = b"}}]"
    if propensity_n is not None:
        keys[0], end = b',{"id":', b"]"
        keys.append(b'},"propensity":')
        columns.append([_ENCODER.encode(p) + b"}" for p in propensity_n.tolist()])
    step = 2 * len(keys)
    parts = [b""] * (step * n)
    for i, (key, column) in enumerate(zip(keys, columns, strict=True)):
        parts[2 * i :: step] = [key] * n
        parts[2 * i + 1 :: step] = column
    parts[0] = b'[{"id":'
    parts.append(end)
    return b"".join(parts)
