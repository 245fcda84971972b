"""Who is ranked when, in calls, never in seconds: small requests pass large ones, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import numpy as np
import pytest

from serving.batching.batch import MOST_ADS, OverloadError, Part, Queued
from serving.batching.batcher import Batcher
from serving.batching.latency_model import LatencyModel
from serving.batching.queue import BatchQueue
from serving.batching.request import Work
from serving.scorer import RequestError, Scorer
from serving.scoring.jitted import QUERIES, Shape
from tests.support.batcher_calls import held, run, same, work
from tests.support.service_calls import some_queries

FEW, MANY, LISTS, LONG = (
    Shape("all", 32, 128),
    Shape("all", 32, 1000),
    Shape("candidates", 32, 1024),
    Shape("candidates", 1, 16_384),
)


def request(queries: int, k: int = 10, batch_key: Shape = FEW) -> Queued:
    return Queued(Work([{}] * queries, k, None, "tiny"), batch_key, math.inf, 0.0, cast(Any, None))


def taken(parts: list[Part]) -> list[Queued]:
    return [part.request for part in parts]


@pytest.mark.parametrize(
    "large",
    [(64, 1000, MANY), (64, 10, FEW), (4096, 100, FEW), (64, 10, LONG), (64, 1000, LONG), (33, 10, LISTS)],
)
@pytest.mark.parametrize("heavy_clients", [1, 5])
def test_a_small_request_waits_for_one_call_of_a_large_one(large: tuple[int, int, Shape], heavy_clients: int) -> None:
    queue, latency = BatchQueue(), LatencyModel()
    heavy = [request(*large) for _ in range(heavy_clients)]
    for some in heavy:
        queue.add(some)
    calls, waits = 0, []
    while queue.requests:
        light = request(1)
        queue.add(light)
        calls, before = calls + 1, calls
        while light not in taken(queue.take({"tiny": latency})):
            calls += 1
        waits.append(calls - before - 1)
        if not heavy[-1].left:
            break
    assert max(waits) == 1  # and one may run as it comes: two calls
    parts = sum(math.ceil(large[0] / some.at_once) for some in heavy)
    assert calls <= 2 * parts + 1  # a large one gets every other call


def test_a_small_request_expects_one_call_of_the_large_ones_that_wait(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer)
    batcher.close()  # nothing is taken out of the queue
    queue, expected = batcher._queue, batcher._expected
    latency = expected.latencies["tiny"]
    latency.measured(1, 0.001)
    latency.measured(8, 0.01)
    large = request(64, 1000, MANY)
    queue.add(large)
    assert (queue.large, queue.at_once) == (64, 8)
    assert 0.009 <= expected.of(queue, 1, False, "") < 0.02  # a call for 8 of them, not for 32
    queue.add(request(64, 10))
    assert queue.at_once == 32
    queue.keep(lambda some: some is large)
    assert (queue.large, queue.at_once) == (64, 8)
    queue.clear()
    assert (queue.large, queue.at_once) == (0, 0)


def test_a_large_request_goes_in_calls_of_bounded_answers() -> None:
    for queries, k, batch_key, sizes in (
        (64, 1000, MANY, [8] * 8),
        (64, 10, FEW, [32, 32]),
        (40, 128, FEW, [32, 8]),
        (3, 10, LONG, [1, 1, 1]),
        (2, 10_000, Shape("all", 32, 10_000), [1, 1]),
    ):
        queue = BatchQueue()
        queue.add(request(queries, k, batch_key))
        found = []
        while queue.requests:
            found += [part.queries for part in queue.take({"tiny": LatencyModel()})]
        assert found == sizes


@pytest.mark.parametrize("seed", range(20))
def test_every_query_is_taken_once_and_nobody_starves(seed: int) -> None:
    rng, queue, latency = np.random.default_rng(seed), BatchQueue(), LatencyModel()
    for size in QUERIES:
        for _ in range(4):
            latency.measured(size, float(rng.uniform(0.5, 1.5)) * (1 + size / 10))
    done: dict[int, int] = {}
    came: list[Queued] = []
    while len(came) < 200 or queue.requests:
        for _ in range(rng.integers(0, 4) if len(came) < 200 else 0):
            batch_key = (FEW, MANY, LISTS, LONG)[rng.integers(4)]
            came.append(
                request(int(rng.choice([1, 1, 1, 5, 32, 64])), int(rng.integers(1, batch_key.size + 1)), batch_key)
            )
            queue.add(came[-1])
        parts = queue.take({"tiny": latency})
        assert bool(parts) or not queue.requests
        assert queue.queries == sum(some.left for some in queue.requests)
        assert len({part.request.batch_key for part in parts}) <= 1
        assert sum(part.queries for part in parts) <= (parts[0].request.batch_key.queries if parts else 0)
        assert len(parts) <= 1 or sum(part.queries * part.request.ads_each for part in parts) <= MOST_ADS
        for part in parts:
            assert part.first == done.get(id(part.request), 0)
            done[id(part.request)] = part.end
    assert all(done[id(some)] == len(some.work.queries) for some in came)


def test_what_is_begun_goes_to_its_end_before_a_change() -> None:
    queue, latency = BatchQueue(), LatencyModel()
    queue.add(begun := request(64, 1000, MANY))
    assert not queue.is_begun
    queue.take({"tiny": latency})
    queue.add(fresh := request(1, 1000, MANY))
    while queue.is_begun:
        assert taken(queue.take({"tiny": latency}, begun_only=True)) == [begun]
    assert queue.take({"tiny": latency}, begun_only=True) == []
    assert queue.requests == [fresh]


def test_a_large_request_is_ranked_in_parts_by_one_pair(warm_scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its parts come small requests, but no change."""
    large, small = Work(some_queries(200, seed=3), 20, None), work(some_queries(1, seed=4)[0])
    other = warm_scorer.with_ads(warm_scorer.ads, warm_scorer.programs)
    other.index_id = "other"
    order: list[int] = []

    async def test(batcher: Batcher) -> None:
        loop, start, answers = asyncio.get_running_loop(), warm_scorer.start, list[Any]()

        async def come() -> None:
            answers.append(batcher.submit(small))
            if len(order) > 3:
                answers.append(asyncio.ensure_future(batcher.between(lambda _: (other, "changed"))))
                await asyncio.sleep(0)

        def recorded(encoded: Any, ks: Any, lists: Any, drawings: Any) -> Any:
            order.append(len(ks))
            if len(order) in (2, 4):  # the large one is at work: others come, before anything else is taken
                asyncio.run_coroutine_threadsafe(come(), loop).result(60)
            return start(encoded, ks, lists, drawings)

        monkeypatch.setattr(warm_scorer, "start", recorded)
        found = await batcher.submit(large)
        assert (found.index, len(found.json)) == (warm_scorer.index_id, 200)
        monkeypatch.undo()
        first, second, changed = answers
        same(await first, small, warm_scorer)
        assert await changed == "changed"
        assert (await second).index == "other"  # it came after the change, which waited for the large one only
        same(found, large, warm_scorer)

    run(warm_scorer, test)
    assert order[0] == 32
    assert 1 in order[2:4]  # of the small one, in two calls
    assert sum(order) == 201


def test_large_requests_do_not_fill_the_queue_for_small_ones(warm_scorer: Scorer) -> None:
    large = Work([{}] * 64, 2, None)

    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            answers = [batcher.submit(large) for _ in range(2)]
            with pytest.raises(OverloadError, match="the queue is full: 128 queries wait"):
                batcher.submit(large)
            answers += [batcher.submit(work({})) for _ in range(150)]
            with pytest.raises(OverloadError, match="the queue is full: 150 queries wait"):
                batcher.submit(work({}))
        await asyncio.gather(*answers)

    run(warm_scorer, test, max_queue=150)


def test_an_error_names_the_query_of_the_request_not_of_the_part(warm_scorer: Scorer) -> None:
    queries: list[dict[str, Any]] = [{} for _ in range(100)]
    bad, lists = [*queries], [[] for _ in range(100)]
    bad[70] = {"age": "old"}

    async def test(batcher: Batcher) -> None:
        for some in (Work(bad, 3, None), Work(queries, 3, [*lists[:70], [-5], *lists[71:]])):
            with pytest.raises(RequestError) as alone:
                warm_scorer.top_k(some.queries, some.k, some.candidates)
            async with held(batcher):
                answer = batcher.submit(some)
            with pytest.raises(RequestError) as found:
                await answer
            assert str(found.value) == str(alone.value)
            assert "query 70" in str(found.value)

    run(warm_scorer, test)


def test_a_call_is_of_one_model_and_that_of_the_longest_wait_comes_next() -> None:
    queue = BatchQueue()
    latencies = {"a": LatencyModel(), "b": LatencyModel()}
    for model in "ba" * 8:
        queue.add(Queued(Work([{}], 10, None, model), FEW, math.inf, 0.0, cast(Any, None)))
    assert queue.small_of == {"a": 8, "b": 8}
    calls = [[part.request.work.model for part in queue.take(latencies)] for _ in range(2)]
    assert calls == [["b"] * 8, ["a"] * 8]
    assert not queue.small_of.total()


def test_a_spare_request_is_ranked_when_nothing_else_waits_and_dropped_if_something_does(warm_scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        found = batcher.submit_spare(work({}))
        assert found is not None
        same(await found, work({}), warm_scorer)
        assert batcher.submit_spare(Work([{}] * 64, 5, None)) is None  # more than one call
        async with held(batcher):
            late = batcher.submit_spare(work({}))
            assert late is not None
            assert batcher.submit_spare(work({})) is None  # one waits
            first = batcher.submit(work({}))
        with pytest.raises(OverloadError, match="others wait"):
            await late
        same(await first, work({}), warm_scorer)

    run(warm_scorer, test)
