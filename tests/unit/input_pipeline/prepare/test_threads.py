"""Work in threads: in order, bounded, and an error where one thread would have it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from input_pipeline.prepare.threads import ordered_map


def items(n: int, fail_at: int = -1) -> Iterator[int]:
    for i in range(n):
        if i == fail_at:
            raise OSError(f"item {i}")
        yield i


def slow_at_first(i: int) -> int:
    time.sleep(0.02 if i == 0 else 0)
    return i * i


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("n", [0, 1, 4, 20])
def test_results_are_in_order(threads: int, n: int) -> None:
    assert list(ordered_map(slow_at_first, items(n), threads)) == [i * i for i in range(n)]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize(("bad_item", "bad_work", "expected"), [(7, -1, "item 7"), (7, 5, "work 5"), (5, 7, "item 5")])
def test_an_error_comes_after_the_results_before_it(threads: int, bad_item: int, bad_work: int, expected: str) -> None:
    def work(i: int) -> int:
        if i == bad_work:
            raise ValueError(f"work {i}")
        return slow_at_first(i)

    found = list[int]()
    results = ordered_map(work, items(20, bad_item), threads)
    with pytest.raises((OSError, ValueError), match=expected):
        found.extend(results)
    assert found == [i * i for i in range(int(expected[-1]))]


@pytest.mark.parametrize("threads", [1, 3])
def test_few_items_are_taken_before_their_turn(threads: int) -> None:
    taken, done = [], 0
    for done, _ in enumerate(ordered_map(lambda i: i, (taken.append(i) or i for i in range(30)), threads), 1):
        assert len(taken) <= done + threads
    assert done == 30


def test_work_is_done_in_other_threads_and_ends_with_its_reader() -> None:
    names: set[int] = set()

    def work(i: int) -> int:
        names.add(threading.get_ident())
        return i

    results = ordered_map(work, items(10**9), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()  # pyright: ignore[reportAttributeAccessIssue], a generator
    assert threading.get_ident() not in names
    assert not any(t.ident in names for t in threading.enumerate())
