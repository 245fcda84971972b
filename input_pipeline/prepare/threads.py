"""Work on a stream in threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


def ordered_map(work: Callable[[I], R], items: Iterable[I], threads: int) -> Iterator[R]:
    """The result for each item, in order; at most `threads` + 1 items are in memory. 0 threads: as `map`.

    Items are taken in the calling thread. An error of one, or of the work on it, comes after the results before it.
    """
    if not threads:
        yield from map(work, items)
        return
    begun: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            left = iter(items)
            while True:
                try:
                    begun.append(pool.submit(work, next(left)))
                except StopIteration:
                    break
                except Exception:
                    yield from _results(begun)
                    raise
                if len(begun) > threads:
                    yield begun.popleft().result()
            yield from _results(begun)
        finally:
            for future in begun:
                future.cancel()


def _results(begun: deque[Future[R]]) -> Iterator[R]:
    while begun:
        yield begun.popleft().result()
