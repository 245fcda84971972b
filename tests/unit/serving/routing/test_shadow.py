"""A shadow ranks what its model answered, is compared with it, and is dropped first."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from scipy.stats import spearmanr

from serving.batching.batcher import Batcher
from serving.batching.request import Work
from serving.routing.shadow import Shadows, compare
from serving.scorer import ScoredAd, Scorer
from tests.support.batcher_calls import held
from tests.support.service_calls import some_queries


def ads(**scores: float) -> list[ScoredAd]:
    return [ScoredAd(ad, score, {}) for ad, score in scores.items()]


def test_figures_of_two_answers() -> None:
    ours, theirs = ads(a=5, b=4, c=3, d=2), ads(c=6, a=5, x=3, b=2)
    found = compare(ours, theirs)
    assert found["overlap"] == 3 / 4
    assert found["rank_correlation"] == pytest.approx(spearmanr([0, 1, 2], [1, 3, 0]).statistic)
    assert found["score_difference"] == pytest.approx(((6 - 3) + (5 - 5) + (2 - 4)) / 3)
    assert compare(ours, ours) == {"overlap": 1.0, "rank_correlation": 1.0, "score_difference": 0.0}
    assert compare(ours, ads(a=1)) == {"overlap": 1 / 4, "score_difference": -4.0}
    assert compare(ours, ads(x=1)) == {"overlap": 0.0}
    assert compare([], ours) == {}


@pytest.fixture(scope="module")
def pair(scenario_pairs: Path) -> dict[str, Scorer]:
    return {
        name: Scorer.load(scenario_pairs / folder / "bundle", scenario_pairs / folder / "index", max_k=20, warm=False)
        for name, folder in (("m", "shopping"), ("m.shadow", "better"))
    }


def test_a_share_is_compared_and_dropped_under_load(pair: dict[str, Scorer]) -> None:
    registry = CollectorRegistry()

    async def test(batcher: Batcher, shadows: Shadows) -> None:
        work = Work(some_queries(2), 5, None, "m")
        served = await batcher.submit(work)
        shadows.offer("m", work, served)
        for _ in range(1000):
            found = shadows.figures("m")
            assert found is not None
            if found.requests["compared"]:
                break
            await asyncio.sleep(0.01)
        queries = [compare(*both) for both in zip(*(s.top_k(work.queries, 5) for s in pair.values()), strict=True)]
        assert found.requests == {"compared": 1, "dropped": 0, "failed": 0}
        assert found.overlap == pytest.approx(np.mean([q["overlap"] for q in queries]))
        assert found.score_difference == pytest.approx(np.mean([q["score_difference"] for q in queries]), rel=1e-4)
        assert found.seconds is not None
        assert 0 < found.seconds < 60

        async with held(batcher):
            waiting = batcher.submit(work)
            shadows.offer("m", work, served)  # something waits
        await waiting
        async with held(batcher):
            shadows.offer("m", work, served)  # nothing waits yet
            waiting = batcher.submit(work)
        await waiting
        await asyncio.sleep(0.01)
        shadows.offer("m", Work([{}], 21, None, "m"), served)  # larger than the shadow's k
        shadows.offer("m.shadow", work, served)
        assert shadows.figures("m").requests == {"compared": 1, "dropped": 2, "failed": 1}  # type: ignore[union-attr]

    batcher = Batcher(pair)
    shadows = Shadows({"m": ("m.shadow", 1.0)}, batcher, registry)
    try:
        assert shadows.figures("other") is None
        assert math.isnan(registry.get_sample_value("tt_jax_shadow_overlap", {"model": "m"}) or 0.0)
        asyncio.run(asyncio.wait_for(test(batcher, shadows), 60))
    finally:
        batcher.close()
        shadows.close()
    text = generate_latest(registry).decode()
    assert 'tt_jax_shadow_requests_total{model="m",outcome="dropped"} 2.0' in text
    assert 'tt_jax_shadow_seconds_count{model="m"} 1.0' in text
    assert 0 <= (registry.get_sample_value("tt_jax_shadow_overlap", {"model": "m"}) or 0.0) <= 1


def test_a_share_is_a_share(pair: dict[str, Scorer]) -> None:
    async def test(batcher: Batcher) -> int:
        shadows = Shadows({"m": ("m.shadow", 0.3)}, batcher, CollectorRegistry())
        work = Work(some_queries(1), 3, None, "m")
        served = await batcher.submit(work)
        async with held(batcher):
            waiting = batcher.submit(work)
            for _ in range(1000):
                shadows.offer("m", work, served)
        await waiting
        found = shadows.figures("m")
        shadows.close()
        assert found is not None
        return found.requests["dropped"]

    batcher = Batcher(pair)
    try:
        assert 200 <= asyncio.run(asyncio.wait_for(test(batcher), 60)) <= 400  # seven standard deviations
    finally:
        batcher.close()
