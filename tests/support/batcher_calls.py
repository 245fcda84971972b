"""A batcher in an event loop, and what it must answer."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.batching.batcher import Batcher, Ranked
from serving.batching.request import Work
from serving.limits import ServiceLimits
from serving.scorer import Scorer

MAX_K = 20  # of `warm_scorer`


def counts(batcher: Batcher, name: str) -> dict[str, float]:
    """Samples of a metric by their last label, zeros left out."""
    samples = (s for metric in batcher._metrics.registry.collect() for s in metric.samples if s.name == name)
    return {next(iter(s.labels.values()), ""): s.value for s in samples if s.value}


def run(scorer: Scorer, test: Callable[[Batcher], Awaitable[None]], **load: Any) -> None:
    """Runs a test in an event loop with a batcher, which is closed at its end."""
    batcher = Batcher(scorer, limits=ServiceLimits(**load))
    try:
        asyncio.run(asyncio.wait_for(test(batcher), 60))  # type: ignore[arg-type]
    finally:
        batcher.close()


@asynccontextmanager
async def held(batcher: Batcher) -> AsyncIterator[None]:
    """Nothing is ranked inside: the thread is busy with a change that changes nothing."""
    begun, over = threading.Event(), threading.Event()

    def change(scorer: Scorer) -> tuple[Scorer, bool]:
        begun.set()
        return scorer, over.wait(60)

    changed = asyncio.ensure_future(batcher.between(change))
    await asyncio.to_thread(begun.wait, 60)
    try:
        yield
    finally:
        over.set()
        assert await changed


def work(query: dict[str, Any], k: int = 5, candidates: list[Any] | None = None) -> Work:
    return Work([query], k, None if candidates is None else [candidates])


def same(found: Ranked, work: Work, scorer: Scorer) -> None:
    """The answer is what the scorer gives for this request alone, up to rounding.

    A call for 32 queries sums the products of a query in another order than a call for one, so the last bits differ.
    """
    assert (found.bundle, found.index) == (scorer.fingerprint, scorer.index_id)
    alone = scorer.top_k(work.queries, work.k, work.candidates)
    assert [[ad.id for ad in ads] for ads in found.ads] == [[ad.id for ad in ads] for ads in alone]
    for ads, expected in zip(found.ads, alone, strict=True):
        for ad, other in zip(ads, expected, strict=True):
            assert math.isclose(ad.score, other.score, rel_tol=1e-5)
            assert ad.probabilities == pytest.approx(other.probabilities, rel=1e-5)
