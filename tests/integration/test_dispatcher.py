"""The thread that ranks: nothing that is passed to it ends it, and if it ends or hangs all the same, nobody waits."""

from __future__ import annotations

import asyncio
import fractions
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.batching.batch import Batch
from serving.batching.batcher import Batcher, DeadlineError, DispatcherError, OverloadError
from serving.batching.pending import Pulse
from serving.batching.request import Work
from serving.limits import ServiceLimits
from serving.scorer import RequestError, Scorer
from tests.support.batcher_calls import counts, held, run, same, work
from tests.support.serving_process import ServingProcess

pytestmark = pytest.mark.process

MOMENT = 5.0  # s; what takes milliseconds, on a busy machine


class Hostile(dict[str, Any]):
    """A query that raises something else than an error of a request when it is read."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(age=3)
        self.error = error

    def __iter__(self) -> Any:
        raise self.error

    get = keys = items = values = __getitem__ = __contains__ = __iter__  # type: ignore[assignment]


REFUSED: list[tuple[Any, Any, type[Exception], str]] = [
    (Work([], 3, None), math.inf, RequestError, "queries: expected a list of at least one query, got \\[\\]"),
    (Work(None, 3, None), math.inf, RequestError, "queries: expected a list"),  # type: ignore[arg-type]
    (Work({"age": 3}, 3, None), math.inf, RequestError, "queries: expected a list"),  # type: ignore[arg-type]
    (Work([{}, 7], 3, None), math.inf, RequestError, "query 1: expected an object of features, got 7"),  # type: ignore[list-item]
    (Work(["ab"], 3, None), math.inf, RequestError, "query 0: expected an object"),  # type: ignore[list-item]
    *(
        (Work([{}], k, None), math.inf, RequestError, "k: expected an integer within 1..20, got")  # type: ignore[arg-type]
        for k in (0, -1, 21, 2.0, True, None, "3", math.nan, np.int64(3), [3])
    ),
    (Work([{}], 3, [[1], [2]]), math.inf, RequestError, "candidates: expected a list for each of 1 queries, got 2"),
    (Work([{}], 3, 7), math.inf, RequestError, "candidates: expected a list for each"),  # type: ignore[arg-type]
    (Work([{}], 3, [7]), math.inf, RequestError, "candidates of query 0: expected a list of ids, got 7"),  # type: ignore[list-item]
    (Work([{}], 3, ["ab"]), math.inf, RequestError, "candidates of query 0: expected a list"),  # type: ignore[list-item]
    (Work([{}], 3, [None]), math.inf, RequestError, "candidates of query 0: expected a list"),  # type: ignore[list-item]
    (None, math.inf, TypeError, "work: expected Work, got NoneType"),
    ({"queries": [{}]}, math.inf, TypeError, "work: expected Work, got dict"),
    *((work({}), bad, TypeError, "deadline: expected a number of seconds") for bad in (None, "soon", [1], 1j, True)),
    (work({}), math.nan, ValueError, "deadline: expected a number of seconds, got nan"),
    (work({}), np.float32(math.nan), ValueError, "deadline: expected a number of seconds"),
]


def test_what_cannot_be_ranked_is_refused_at_once(warm_scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        for some, deadline, error, message in REFUSED:
            with pytest.raises(error, match=message):
                batcher.submit(some, deadline)
        for deadline in (10**400, fractions.Fraction(10**9), np.float32(math.inf)):
            same(await batcher.submit(work({}), deadline), work({}), warm_scorer)  # type: ignore[arg-type]
        for deadline in (-(10**400), -math.inf, 0):
            with pytest.raises((DeadlineError, OverloadError)):  # the one before may still be in the queue
                await batcher.submit(work({}), deadline)
        assert batcher.failure is None

    run(warm_scorer, test)


@pytest.mark.parametrize(
    "error", [ValueError("odd"), SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()]
)
def test_a_query_that_raises_fails_alone_or_its_batch(warm_scorer: Scorer, error: BaseException) -> None:
    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            bad = batcher.submit(Work([Hostile(error)], 3, None))
            ids = batcher.submit(Work([{}], 3, [[None]]))  # type: ignore[list-item]
            good = batcher.submit(work({}))
        found = await asyncio.wait_for(asyncio.gather(bad, ids, good, return_exceptions=True), MOMENT)
        assert isinstance(found[0], Exception)
        assert type(found[1]) is RequestError
        if isinstance(error, Exception):
            same(found[2], work({}), warm_scorer)  # type: ignore[arg-type]
        same(await asyncio.wait_for(batcher.submit(work({})), MOMENT), work({}), warm_scorer)
        assert batcher.failure is None

    run(warm_scorer, test)


def test_lists_that_change_after_the_call_change_nothing(warm_scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        some = Work([{}, {}], 3, [[], []])
        async with held(batcher):
            answer = batcher.submit(some)
            some.queries.clear()
            assert some.candidates is not None
            some.candidates[:] = [[1]]
        assert (await answer).json == [b"[]", b"[]"]

    run(warm_scorer, test)


FAULTS: dict[str, Callable[[Batcher, Callable[..., Any]], tuple[Any, str, Any]]] = {
    "the scorer's start": lambda batcher, fault: (batcher.scorer, "start", fault),
    "a metric of the batch": lambda batcher, fault: (batcher._metrics.batch, "observe", fault),
    "what a call took": lambda batcher, fault: (batcher._expected.latencies["tiny"], "measured", fault),
    "the answers": lambda batcher, fault: (Batch, "outcomes", fault),
}


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_fails_its_batch_and_the_next_is_ranked(
    warm_scorer: Scorer, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def fault(*_: Any) -> Any:
        raise error

    async def test(batcher: Batcher) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(*FAULTS[where](batcher, fault))
            some = [batcher.submit(work({})) for _ in range(3)]
            for found in await asyncio.wait_for(asyncio.gather(*some, return_exceptions=True), MOMENT):
                assert isinstance(found, Exception)
                assert type(error).__name__ in repr(found)
        same(await asyncio.wait_for(batcher.submit(work({})), MOMENT), work({}), warm_scorer)
        assert batcher.failure is None

    run(warm_scorer, test)


@pytest.mark.parametrize("where", ["_change", "_take"])
@pytest.mark.parametrize("error", [SystemExit(1), ZeroDivisionError(), KeyboardInterrupt()])
def test_when_the_thread_ends_nobody_waits(
    warm_scorer: Scorer, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    def fault(*_: Any) -> Any:
        raise error

    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            waiting: list[asyncio.Future[Any]] = [batcher.submit(work({})) for _ in range(3)]
            if where == "_change":
                waiting.append(asyncio.ensure_future(batcher.between(lambda s: (s, None))))
                await asyncio.sleep(0)
            monkeypatch.setattr(batcher, where, fault)
        for found in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), MOMENT):
            assert type(found) is DispatcherError
            assert type(error).__name__ in str(found)
        for later in (
            lambda: batcher.submit(work({})),
            lambda: asyncio.ensure_future(batcher.between(lambda s: (s, 1))),
        ):
            with pytest.raises(DispatcherError):
                await later()
        assert batcher.failure
        batcher.close()

    run(warm_scorer, test)


def test_a_thread_that_is_gone_without_a_word_is_noticed(warm_scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        thread, batcher._thread = batcher._thread, threading.Thread()
        batcher._thread.start()
        batcher._thread.join()
        with pytest.raises(DispatcherError, match="has ended"):
            batcher.submit(work({}))
        assert batcher.failure
        batcher._thread = thread

    run(warm_scorer, test)


def test_when_the_thread_hangs_nobody_waits(warm_scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        over = threading.Event()
        try:
            waiting: list[Any] = [asyncio.ensure_future(batcher.between(lambda s: (s, over.wait(60))))]
            await asyncio.sleep(0)
            waiting.append(batcher.submit(work({})))
            start = time.monotonic()
            for found in await asyncio.gather(*waiting, return_exceptions=True):
                assert type(found) is DispatcherError
                assert "has not got on for 1 s" in str(found)
            assert 0.9 < time.monotonic() - start < 1 + MOMENT
            with pytest.raises(DispatcherError):
                batcher.submit(work({}))
            batcher.close()  # does not wait
        finally:
            over.set()

    run(warm_scorer, test, stuck=1.0)


def test_a_process_that_was_suspended_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("serving.batching.pending.time.perf_counter", lambda: now)
    pulse = Pulse(stuck=10.0)
    pulse.beat()
    assert not pulse.is_stuck()
    now += 1000
    assert not pulse.is_stuck()
    for _ in range(8):
        now = pulse.next_look()
        assert not pulse.is_stuck()
    pulse.beat()
    now = pulse.next_look()
    assert not pulse.is_stuck()
    looks = 0
    while not pulse.is_stuck():
        now, looks = pulse.next_look(), looks + 1
    assert looks >= 10


def test_deadlines_hold_while_the_thread_hangs(warm_scorer: Scorer) -> None:
    async def test(batcher: Batcher) -> None:
        async with held(batcher):
            patient = batcher.submit(work({}), time.perf_counter() + 60)
            hasty = [batcher.submit(work({}), time.perf_counter() + seconds) for seconds in (0.3, 0.1, 0.2)]
            start = time.monotonic()
            for found in await asyncio.gather(*hasty, return_exceptions=True):
                assert type(found) is DeadlineError
            assert time.monotonic() - start < MOMENT
            assert counts(batcher, "tt_jax_shed_total") == {"expired": 3}
            assert not patient.done()
        same(await patient, work({}), warm_scorer)
        assert counts(batcher, "tt_jax_shed_total") == {"expired": 3}

    run(warm_scorer, test)


def test_one_event_loop_after_another(warm_scorer: Scorer) -> None:
    batcher = Batcher(warm_scorer, limits=ServiceLimits())
    over = threading.Event()

    async def leave() -> None:
        asyncio.ensure_future(batcher.between(lambda s: (s, over.wait(60)))).add_done_callback(lambda _: None)
        batcher.submit(work({}), time.perf_counter() + 0.1)
        await asyncio.sleep(0.01)

    async def ask() -> None:
        answer = batcher.submit(work({}))
        over.set()
        same(await asyncio.wait_for(answer, MOMENT), work({}), warm_scorer)

    try:
        asyncio.run(leave())
        asyncio.run(ask())
    finally:
        over.set()
        batcher.close()


BROKEN = """
import sys, time
from serving.batching.batcher import Batcher
from tt_jax.cli.main import main

finish = Batcher._finish

def fault(self, batch, following):
    if batch.parts[0].request.work.k == 13:
        {fault}
    finish(self, batch, following)

Batcher._finish = fault
main(sys.argv[1:])
"""


@pytest.mark.parametrize("fault", ["sys.exit(0)", "time.sleep(600)"])
def test_the_process_ends_and_its_health_says_why(tiny_bundle: Path, tiny_index: Path, fault: str) -> None:
    server = ServingProcess(
        tiny_bundle, tiny_index, "--max-k=20", "--stuck-s=1", "--grace-s=5", program=("-c", BROKEN.format(fault=fault))
    )
    try:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.post("/v1/rank", json={"query": {}, "k": 3}).status_code == 200
            assert client.get("/health/live").status_code == 200
            assert client.post("/v1/rank", json={"query": {}, "k": 13}).status_code == 500
            for path in ("/health/live", "/health/ready"):
                health = client.get(path)
                assert (health.status_code, "the thread that ranks" in health.text) == (503, True)
            assert client.post("/v1/rank", json={"query": {}, "k": 3}).status_code == 500
        _, err = server.process.communicate(timeout=20)
        assert server.process.returncode == 70
        assert err.count("CRITICAL dispatcher outcome=failed") == 1, err
        assert "INFO stopped code=70" in err
        assert "request_failed" not in err
    finally:
        server.kill()
