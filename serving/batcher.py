"""Between the event loop and JAX: one thread that holds the scorer, ranks with it and changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from serving.messages import Work
from serving.scorer import RequestError, ScoredAd, Scorer

R = TypeVar("R")


@dataclass(frozen=True)
class Ranked:
    """The ranked ads of each query of a request, and the fingerprints of the pair that ranked them all."""

    ads: list[list[ScoredAd]]
    bundle: str
    index: str


class Batcher:
    """Runs the scorer in one thread. All methods but `close` are for the event loop."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dispatcher")

    @property
    def scorer(self) -> Scorer:
        """The scorer that the next batch will use."""
        return self._scorer

    async def submit(self, work: Work) -> Ranked:
        """The ranked ads of each query. Raises `RequestError`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rank, work)

    async def between(self, change: Callable[[Scorer], tuple[Scorer, R]]) -> R:
        """Runs `change` of the scorer in the thread, between two batches.

        The scorer that it returns, which may be the one it was given, serves from then on. If it raises, nothing
        changes and the error is raised here.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._change, change)

    def _rank(self, work: Work) -> Ranked:
        scorer = self._scorer
        try:
            encoded = scorer.encode(work.queries)
        except RecursionError:  # from the repr of a value in the encoder's own error
            raise RequestError("a feature value is nested too deeply") from None
        return Ranked(scorer.rank(encoded, work.k, work.candidates), scorer.fingerprint, scorer.index_id)

    def _change(self, change: Callable[[Scorer], tuple[Scorer, R]]) -> R:
        self._scorer, result = change(self._scorer)
        return result

    def close(self) -> None:
        """Waits for the request in progress and ends the thread."""
        self._thread.shutdown(cancel_futures=True)
