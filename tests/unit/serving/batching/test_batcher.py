"""The queue between event loop and scorer: who is ranked with whom, who is refused, and that answers stay the same."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.batching.batch import Queued, start_batch
from serving.batching.batcher import Batcher, DeadlineError, OverloadError
from serving.batching.latency_model import LatencyModel
from serving.batching.request import Work
from serving.index.ad_index import AdIndex
from serving.limits import ServiceLimits
from serving.scorer import RequestError, Scorer
from tests.support.batcher_calls import MAX_K, counts, held, run, same, work
from tests.support.service_calls import some_queries
from tt_jax.bundle.reader import Bundle


@pytest.fixture(scope="module")
def scorer(warm_scorer: Scorer) -> Scorer:
    return warm_scorer


def batches(batcher: Batcher) -> float:
    return counts(batcher, "tt_jax_batch_queries_count").get("", 0)


def some_work(scorer: Scorer, n: int) -> list[Work]:
    """Requests of every kind: any k, one query or several, of all ads or of lists, short, long and empty."""
    rng, ids = np.random.default_rng(5), scorer.ads.ids.at(np.arange(scorer.index_size))
    found = []
    for i, query in enumerate(some_queries(n, seed=6)):
        queries = [query, *some_queries(int(rng.integers(4)) if i % 3 == 0 else 0, seed=i)]
        lists = [rng.permutation(ids)[: rng.integers(0, 200)].tolist() for _ in queries] if i % 4 == 1 else None
        if i % 8 == 1:
            lists = [(ids * 6)[: int(rng.integers(1030, 1200))] for _ in queries]  # of the size that goes alone
        found.append(Work(queries, int(rng.integers(1, MAX_K + 1)), lists))
    return found


def test_every_answer_is_that_of_the_request_alone(scorer: Scorer) -> None:
    some = some_work(scorer, 120)

    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            answers = [batcher.submit(w) for w in some]
        for w, found in zip(some, await asyncio.gather(*answers), strict=True):
            same(found, w, scorer)
        queries = sum(len(w.queries) for w in some)
        assert counts(batcher, "tt_jax_batch_queries_sum") == {"": queries}
        assert batches(batcher) < queries / 4
        assert counts(batcher, "tt_jax_queue_seconds_count") == {"": len(some)}
        lone = work(some_queries(1)[0], MAX_K)
        found = await batcher.submit(lone)
        assert found.ads == scorer.top_k(lone.queries, MAX_K)  # alone it is the same call: the same bits

    run(scorer, test, max_queue=1000)


def test_what_is_wrong_with_one_is_told_to_that_one(scorer: Scorer) -> None:
    deep: Any = 1
    for _ in range(100_000):  # deeper than any interpreter follows
        deep = [deep]
    good = [work(q) for q in some_queries(30, seed=7)]
    bad = [work({"age": "old"}), work({"contry": "de"}), Work([{}, {"user": 7}], 3, None)]
    lists = [work({}, 3, [123456789]), work({}, 3, ["x"])]

    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            some = [*good[:10], bad[0], *good[10:12], *bad[1:], *lists, *good[12:], work({"user": deep})]
            answers = [batcher.submit(w) for w in some]
        found = dict(zip(map(id, some), await asyncio.gather(*answers, return_exceptions=True), strict=True))
        for w in good:
            same(found[id(w)], w, scorer)  # type: ignore[arg-type]
        for w in bad + lists:
            with pytest.raises(RequestError) as alone:
                scorer.top_k(w.queries, w.k, w.candidates)
            assert type(found[id(w)]) is RequestError
            assert str(found[id(w)]) == str(alone.value)
        assert "nested too deeply" in str(found[id(some[-1])])
        with pytest.raises(RequestError, match=r"k: expected an integer within 1\.\.20, got 21"):
            batcher.submit(work({}, 21))

    run(scorer, test)


def test_a_fault_of_ours_is_raised_and_the_next_request_is_served(
    scorer: Scorer, tiny_bundle: Path, tiny_index: Path
) -> None:
    broken = Scorer(Bundle.load(tiny_bundle), AdIndex.load(tiny_index), max_k=1, max_candidates=1, warm=False)
    broken._programs._state.corpus.bids_N.delete()  # as if a device had lost it

    async def test(batcher: Batcher) -> None:
        await batcher.between(lambda _: (broken, None))
        async with held(batcher):
            answers = [batcher.submit(work({}, 1)) for _ in range(3)]
        for error in await asyncio.gather(*answers, return_exceptions=True):
            assert "deleted" in str(error)
        await batcher.between(lambda _: (scorer, None))
        same(await batcher.submit(work({})), work({}), scorer)

    run(scorer, test)


def test_a_change_that_fails_changes_nothing(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        with pytest.raises(ZeroDivisionError):
            await batcher.between(lambda s: (s, 1 // 0))
        assert batcher.scorer is scorer
        assert await batcher.between(lambda s: (s, 7)) == 7
        same(await batcher.submit(work({})), work({}), scorer)

    run(scorer, test)


def test_a_full_queue_takes_no_more(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        for _ in range(3):
            await batcher.submit(work({}))  # so that it knows how long a batch takes
        async with held(batcher):
            answers = [batcher.submit(Work([{}] * n, 2, None)) for n in (1, 2, 1)]
            for refused in (lambda: batcher.submit(work({})), lambda: batcher.admit(1)):
                with pytest.raises(OverloadError, match="the queue is full: 4 queries wait") as full:
                    refused()
                assert 0 < full.value.retry_after < 10
            assert counts(batcher, "tt_jax_queue_queries") == {"": 4}
        assert [len(found.json) for found in await asyncio.gather(*answers)] == [1, 2, 1]
        assert counts(batcher, "tt_jax_shed_total") == {"full": 2}
        large = Work([{}] * 6, 2, None)  # more than ever fit: taken, since nobody waits
        assert len((await batcher.submit(large)).json) == 6

    run(scorer, test, max_queue=4)


def test_deadlines_hold_at_the_door_in_the_queue_and_at_the_end(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        await batcher.submit(work({}), time.perf_counter() + 60)
        async with held(batcher):
            patient = batcher.submit(work({}), time.perf_counter() + 60)
            with pytest.raises(OverloadError, match=r"would take about \d+ ms, longer than the request allows"):
                batcher.submit(work({}), time.perf_counter())
            # As if it had been fast so far: what waits now waits longer than expected.
            batcher._expected.latencies["tiny"] = LatencyModel()
            hasty = batcher.submit(work({}), time.perf_counter() + 0.02)
            await asyncio.sleep(0.03)
        with pytest.raises(DeadlineError, match="queued"):
            await hasty
        same(await patient, work({}), scorer)
        with pytest.raises(DeadlineError, match="queued"):  # nobody before it, so it was let in
            await batcher.submit(work({}), time.perf_counter())
        assert counts(batcher, "tt_jax_shed_total") == {"slow": 1, "expired": 2}

        loop, now = asyncio.get_running_loop(), time.perf_counter()
        requests = [
            Queued(work({}), scorer.batch_key(5, None), now + seconds, now, loop.create_future())
            for seconds in (0.5, 60)
        ]
        batch = start_batch(scorer, [request.part(1) for request in requests], [])
        assert batch
        await asyncio.sleep(0.6)
        late, in_time = batch.outcomes()
        assert "while the request was ranked" in str(late[1])
        same(in_time[1], work({}), scorer)

    run(scorer, test)


def test_an_event_loop_that_is_behind_refuses_what_it_would_answer_late(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        await batcher.submit(work({}))
        async with held(batcher):
            waiting, deadline = batcher.submit(work({})), time.perf_counter() + 60
            batcher.admit(1, deadline, lag=20)
            with pytest.raises(OverloadError, match="longer than the request allows"):
                batcher.admit(1, deadline, lag=40)
        await waiting

    run(scorer, test)


def test_nobody_ranks_for_a_client_that_left(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            left, stays = batcher.submit(Work([{}] * 5, 3, None)), batcher.submit(work({}))
            left.cancel()
        same(await stays, work({}), scorer)
        assert counts(batcher, "tt_jax_batch_queries_sum") == {"": 1}
        assert counts(batcher, "tt_jax_shed_total") == {"gone": 1}

    run(scorer, test)


def test_who_waits_together_may_wait_for_more_but_a_lone_one_never(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        start = time.perf_counter()
        await batcher.submit(work({}))
        assert time.perf_counter() - start < 2
        async with held(batcher):
            answers = [batcher.submit(work({})) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert not any(answer.done() for answer in answers)
        answers += [batcher.submit(work({})) for _ in range(30)]  # a full batch: nothing to wait for any more
        await asyncio.gather(*answers)
        assert time.perf_counter() - start < 20
        assert counts(batcher, "tt_jax_batch_queries_bucket")["1.0"] == 1
        assert batches(batcher) == 2

    run(scorer, test, max_wait=30.0)


def test_what_is_queued_at_the_end_is_refused(scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            early = batcher.submit(work({}))
            batcher.closing_at = time.perf_counter()
        with pytest.raises(OverloadError, match="stopping"):
            await early
        assert counts(batcher, "tt_jax_shed_total") == {"closing": 1}
        async with held(batcher):
            late, change = batcher.submit(work({})), asyncio.ensure_future(batcher.between(lambda s: (s, None)))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
            await asyncio.sleep(0.05)
        for refused in (late, change):
            with pytest.raises(OverloadError, match="stopping"):
                await refused
        await closing
        with pytest.raises(RuntimeError, match="the batcher is closed"):
            batcher.submit(work({}))

    run(scorer, test)


@pytest.mark.parametrize(("name", "value"), [("max_queue", 0), ("max_wait", -1.0), ("read", math.nan), ("grace", 0)])
def test_a_limit_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected a number of at least"):
        ServiceLimits(**{name: value})
