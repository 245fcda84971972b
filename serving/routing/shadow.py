"""A share of the requests of a model, also ranked by another pair, to see how its answers differ. Nobody gets those.

They are ranked when nothing else waits, and dropped under load. What is compared is compared in a thread of its own.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.batching.batcher import Batcher, OverloadError, Ranked
from serving.batching.queue_metrics import SECONDS
from serving.batching.request import Work
from serving.scorer import ScoredAd

NEWEST = 1000  # queries whose means are shown
FIGURES = {
    "overlap": "Of the ads of an answer, the share that the shadow has too.",
    "rank_correlation": "Spearman's, of the ads that both have.",
    "score_difference": "Shadow - model, the mean of the ads that both have.",
}


class ShadowFigures(Struct):
    """Means of the newest compared queries, None without one; and requests, by what became of them.

    `seconds`: from the request to the shadow's answer.
    """

    pair: str
    overlap: float | None
    rank_correlation: float | None
    score_difference: float | None
    seconds: float | None
    requests: dict[str, int]


class _Shadow:
    """Of one model."""

    def __init__(self, pair: str, share: float) -> None:
        self.pair, self.share = pair, share
        self.newest = {figure: deque[float](maxlen=NEWEST) for figure in (*FIGURES, "seconds")}
        self.requests = {"compared": 0, "dropped": 0, "failed": 0}

    def mean(self, figure: str) -> float:
        """NaN without one."""
        values = list(self.newest[figure])
        return sum(values) / len(values) if values else math.nan


class Shadows:
    """Those of one service. Close it. `shadows`: model -> pair and share."""

    def __init__(self, shadows: Mapping[str, tuple[str, float]], batcher: Batcher, registry: CollectorRegistry) -> None:
        self._batcher, self._random = batcher, random.Random()
        self._shadows = {model: _Shadow(*shadow) for model, shadow in shadows.items()}
        what = "Requests drawn for a shadow, by what became of them."
        self._requests = Counter("tt_jax_shadow_requests", what, ("model", "outcome"), registry=registry)
        what = "From the request to the answer of the shadow."
        self._seconds = Histogram("tt_jax_shadow_seconds", what, ("model",), registry=registry, buckets=SECONDS)
        for figure, what in FIGURES.items():
            about = f"{what} Mean of the newest {NEWEST} compared queries; NaN = none."
            gauge = Gauge(f"tt_jax_shadow_{figure}", about, ("model",), registry=registry)
            for model, shadow in self._shadows.items():
                gauge.labels(model).set_function(partial(shadow.mean, figure))
        for model in self._shadows:
            for outcome in ("compared", "dropped", "failed"):
                self._requests.labels(model, outcome)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadows")

    def offer(self, model: str, work: Work, ranked: Ranked) -> None:
        """Draws, and has the shadow of the model rank a request that was answered. Never waits, never raises."""
        shadow = self._shadows.get(model)
        if shadow is None or work.model == shadow.pair or self._random.random() >= shadow.share:
            return
        start = time.perf_counter()
        try:
            answer = self._batcher.submit_spare(replace(work, model=shadow.pair))
        except Exception:  # another schema may not take this request, and the thread that ranks may have ended
            self._count(model, "failed")
            return
        if answer is None:
            self._count(model, "dropped")
        else:
            answer.add_done_callback(partial(self._ranked, model, ranked, start))

    def figures(self, model: str) -> ShadowFigures | None:
        """For who looks at it; None for a model without a shadow."""
        if (shadow := self._shadows.get(model)) is None:
            return None
        means = {figure: None if math.isnan(mean := shadow.mean(figure)) else mean for figure in shadow.newest}
        return ShadowFigures(shadow.pair, **means, requests=dict(shadow.requests))

    def close(self) -> None:
        """Does not wait for what is in progress."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ranked(self, model: str, served: Ranked, start: float, answer: asyncio.Future[Ranked]) -> None:
        if answer.cancelled() or isinstance(answer.exception(), OverloadError):
            self._count(model, "dropped")
        elif answer.exception():
            self._count(model, "failed")
        else:
            seconds = time.perf_counter() - start
            self._seconds.labels(model).observe(seconds)
            self._shadows[model].newest["seconds"].append(seconds)
            self._thread.submit(self._compare, model, served, answer.result())

    def _compare(self, model: str, served: Ranked, other: Ranked) -> None:
        try:
            for ours, theirs in zip(served.ads, other.ads, strict=True):
                for figure, value in compare(ours, theirs).items():
                    self._shadows[model].newest[figure].append(value)
            self._count(model, "compared")
        except Exception:  # a utility that is infinite has no number in an answer
            self._count(model, "failed")

    def _count(self, model: str, outcome: str) -> None:
        self._requests.labels(model, outcome).inc()
        self._shadows[model].requests[outcome] += 1


def compare(ours: list[ScoredAd], theirs: list[ScoredAd]) -> dict[str, float]:
    """The figures of one query that have a value: none without ads, no correlation with fewer than two in common."""
    if not ours:
        return {}
    from scipy.stats import spearmanr

    places = {ad.id: (place, ad.score) for place, ad in enumerate(theirs)}
    common = [(place, ad.score, *places[ad.id]) for place, ad in enumerate(ours) if ad.id in places]
    found = {"overlap": len(common) / len(ours)}
    if common:
        rank, score, other_rank, other_score = np.array(common, np.float64).T
        found["score_difference"] = float((other_score - score).mean())
        if len(common) > 1:
            correlation: Any = spearmanr(rank, other_rank)
            found["rank_correlation"] = float(correlation.statistic)
    return found
