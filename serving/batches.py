"""A batch of requests: which go together, how they are encoded and ranked by one call, who gets what of the result."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from serving.ads_json import ads_json
from serving.messages import Work
from serving.programs import Shape
from serving.scorer import Encoded, Ranking, RequestError, ScoredAd, Scorer

_DECODER = msgspec.json.Decoder(list[ScoredAd])
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
    """A request whose deadline passed before its answer was there."""


@dataclass(frozen=True)
class Ranked:
    """The ranked ads of each query of a request, as JSON, how many they are in all, and the fingerprints of the pair
    that ranked them."""

    json: list[bytes]
    found: int
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
      lane: what it must have in common with others to be ranked by one call.
      deadline, arrived: of `time.perf_counter`.
      lists: positions of the candidates of each query, once they are looked up.
    """

    work: Work
    lane: Shape
    deadline: float
    arrived: float
    answer: asyncio.Future[Ranked]
    lists: list[np.ndarray] | None = None

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.work.queries)


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Requests whose ranking was started, by this scorer, at this time."""

    requests: list[Queued]
    scorer: Scorer
    ranking: Ranking
    started: float

    def wait(self) -> None:
        """Returns when the results are there; `outcomes` tells if they are not."""
        with contextlib.suppress(Exception):
            self.ranking.wait()

    @property
    def queries(self) -> int:
        """Number of queries."""
        return sum(request.queries for request in self.requests)

    def outcomes(self) -> list[Outcome]:
        """The answers. Waits for them. Whoever has a deadline that passed meanwhile gets a `DeadlineError`."""
        try:
            best = iter(self.ranking.best())
            return [self._outcome(r, [next(best) for _ in range(r.queries)]) for r in self.requests]
        except Exception as e:  # as in `start_batch`
            return [(request.answer, e) for request in self.requests]

    def _outcome(self, request: Queued, best: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Outcome:
        if time.perf_counter() > request.deadline:
            return request.answer, DeadlineError("the deadline passed while the request was ranked")
        heads, ids = self.scorer.schema.heads, self.scorer.ads.ids
        ads = [ads_json(heads, ids.at(positions), *scores) for positions, *scores in best]
        found = sum(len(positions) for positions, *_ in best)
        return request.answer, Ranked(ads, found, self.scorer.fingerprint, self.scorer.index_id)


def start_batch(scorer: Scorer, requests: list[Queued], failed: list[Outcome]) -> Batch | None:
    """Encodes requests of one lane and starts to rank them; errors of single ones go to `failed`. None if all do."""
    started = time.perf_counter()
    try:
        parts = _encode(scorer, _find_candidates(scorer, requests, failed), failed)
        fit = [request for some, _ in parts for request in some]
        if not fit:
            return None
        encoded = parts[0][1] if len(parts) == 1 else Encoded.concatenate([e for _, e in parts])
        ks = [request.work.k for request in fit for _ in range(request.queries)]
        lists = [positions for request in fit for positions in request.lists or ()]
        ranking = scorer.start(encoded, ks, None if fit[0].lists is None else lists)
        return Batch(fit, scorer, ranking, started)
    except Exception as e:  # a fault of ours: these requests get it, and the thread goes on with the next batch
        failed[:] = [(request.answer, e) for request in requests]
        return None


def _find_candidates(scorer: Scorer, requests: list[Queued], failed: list[Outcome]) -> list[Queued]:
    """The requests whose candidates, if they list some, are all known."""
    fit = []
    for request in requests:
        try:
            if request.work.candidates is not None:
                request.lists = scorer.candidate_lists(request.work.candidates, request.queries)
            fit.append(request)
        except RequestError as e:
            failed.append((request.answer, e))
    return fit


def _encode(scorer: Scorer, requests: list[Queued], failed: list[Outcome]) -> list[tuple[list[Queued], Encoded]]:
    """All at once; if one of them is wrong, by halves, so that most of the others are still encoded together."""
    if not requests:
        return []
    try:
        return [(requests, scorer.encode([query for request in requests for query in request.work.queries]))]
    except RequestError as e:
        error = e
    if len(requests) == 1:
        failed.append((requests[0].answer, error))
        return []
    half = len(requests) // 2
    return _encode(scorer, requests[:half], failed) + _encode(scorer, requests[half:], failed)


def deliver(outcomes: list[Outcome], sent: Callable[[float], None] | None = None) -> None:
    """Hands results and errors to the event loop that waits for them. For any thread.

    `sent` is told there, once all who wait have had their turn, how many seconds that took.
    """
    if outcomes:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            outcomes[0][0].get_loop().call_soon_threadsafe(_settle, outcomes, sent, time.perf_counter())


def _settle(outcomes: list[Outcome], sent: Callable[[float], None] | None, start: float) -> None:
    for future, result in outcomes:
        if future.done():  # cancelled
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
    if sent is not None:  # each result has put one who waits in the queue of the loop: this comes after them
        asyncio.get_running_loop().call_soon(lambda: sent(time.perf_counter() - start))
