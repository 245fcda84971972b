"""How long calls take, learnt from those made, and how many queries go into the next one."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from serving.batching.batch import Queued, start_batch
from serving.batching.batcher import Batcher
from serving.batching.latency_model import LatencyModel
from serving.batching.request import Work
from serving.scorer import Scorer


def learnt(**seconds: float) -> LatencyModel:
    """After three calls of each size: `of_8=4.0`."""
    latency = LatencyModel()
    for name, s in seconds.items():
        for _ in range(3):
            latency.measured(int(name.removeprefix("of_")), s)
    return latency


def test_the_pace_is_learnt_and_a_slow_call_is_forgotten() -> None:
    latency = LatencyModel()
    assert latency.queue(100) == 0  # nothing is known
    latency.measured(1, 2.0)
    assert (latency.call(1), latency.call(8), latency.call(30)) == (2, 16, 64)  # at most
    latency.measured(5, 4.0)
    latency.measured(32, 10.0)
    assert (latency.call(1), latency.call(2), latency.call(8), latency.call(9)) == (2, 4, 4, 10)
    assert latency.queue(64) == 20
    assert latency.queue(32 + 9) == 10 + 4 + 2
    latency.measured(64, 20.0)  # two calls
    assert latency.call(32) == 10
    for _ in range(50):
        latency.measured(32, 1000.0)
    assert latency.call(32) == 16  # four calls of 8
    for _ in range(50):
        latency.measured(8, 1.0)
    assert latency.call(8) == pytest.approx(1, rel=1e-3)
    assert latency.call(1) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("waiting", "most", "size"),
    [
        *((1, 32, 1), (2, 32, 1), (3, 32, 8), (8, 32, 8), (9, 32, 8), (20, 32, 8), (21, 32, 32), (32, 32, 32)),
        *((500, 32, 32), (9, 1, 1), (9, 8, 8), (21, 8, 8)),
    ],
)
def test_a_call_is_padded_where_that_takes_less_time_for_an_answer(waiting: int, most: int, size: int) -> None:
    assert learnt(of_1=2.0, of_8=4.0, of_32=10.0).batch_size(waiting, most) == size


def test_the_next_call_depends_on_what_calls_take() -> None:
    assert [learnt(of_1=2.0, of_8=s).batch_size(2, 32) for s in (2.0, 3.9, 4.1)] == [8, 8, 1]
    assert [learnt(of_1=2.0, of_8=s).batch_size(7, 32) for s in (13.9, 14.1)] == [8, 1]
    assert [learnt(of_8=4.0, of_32=s).batch_size(9, 32) for s in (4.4, 4.6)] == [32, 8]


def test_a_size_that_is_unknown_is_tried() -> None:
    latency = LatencyModel()
    for waiting, tried in ((3, 1), (3, 8), (30, 32)):
        for _ in range(3):
            assert latency.batch_size(waiting, 32) == tried
            latency.measured(tried, 100.0)
    assert [latency.batch_size(waiting, 32) for waiting in (3, 30)] == [8, 32]


def test_a_first_call_that_was_slow_decides_nothing() -> None:
    """As one is whose memory is cold: its size is not avoided."""
    latency = learnt(of_1=2.0, of_8=4.0)
    for seconds in (30.0, 8.0, 9.0):
        assert latency.batch_size(20, 32) == 32
        latency.measured(32, seconds)
    assert latency.call(32) == 8.5
    assert latency.batch_size(20, 32) == 32


def test_what_sending_takes_is_learnt() -> None:
    latency = LatencyModel()
    assert latency.sending == 0
    for _ in range(50):
        latency.sent(0.01)
    assert latency.sending == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("slow", [1, 8])
def test_a_size_that_was_slow_once_is_tried_again(slow: int) -> None:
    seconds = {1: 2.0, 8: 4.0}
    latency = learnt(of_1=2.0, of_8=4.0)
    latency.measured(slow, 1000.0)
    used = []
    for _ in range(1000):
        used.append(latency.batch_size(4, 32))
        latency.measured(used[-1], seconds[used[-1]])
    assert used[0] == (1 if slow == 8 else 8)
    assert used.count(1) + used.count(8) == 1000
    assert used.count(8) > 700  # what is faster is used again, once it was tried
    assert latency.batch_size(4, 32) == 8
    assert 1 <= used[300:].count(1) <= 10  # the other is tried from time to time


def test_what_was_expected_wrongly_is_forgotten_while_calls_go_on(warm_scorer: Scorer) -> None:
    """Each call ends while the next one runs, as it does for as long as a service is busy."""

    async def test() -> None:
        batcher, loop = Batcher(warm_scorer), asyncio.get_running_loop()
        batcher.close()  # what its thread would do is done here
        first, second = (
            start_batch(
                warm_scorer, [Queued(Work([{}], 1, None, "tiny"), batch_key, math.inf, 0.0, answer).part(1)], []
            )
            for batch_key, answer in [(warm_scorer.batch_key(1, None), loop.create_future()) for _ in range(2)]
        )
        assert first
        assert second
        expected = batcher._expected
        expected.running, expected.busy_until = 2, time.perf_counter() + 1000.0
        batcher._finish(first, second)
        assert 0 < expected.of(batcher._queue, 1, False, "") < 500
        batcher._finish(second, None)
        assert expected.of(batcher._queue, 1, False, "") == 0

    asyncio.run(test())
