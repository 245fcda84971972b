"""How far a run is, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_PLAIN_S = 10.0  # between plain lines, where no total is known
T = TypeVar("T")


class Progress:
    """Counts steps or rows. To be used in a `with`; where no total is known, the sum is told at its end.

    Args:
      name: what each line begins with.
      unit: of what is counted, as `step`.
      total: how many there will be; None if that is not known.
      done: how many were done before.
      shown: whether it says anything: of many processes one does.
    """

    def __init__(self, name: str, unit: str, total: int | None = None, done: int = 0, shown: bool = True) -> None:
        self._terminal = shown and sys.stderr.isatty()
        self._shown, self._name, self._unit, self._total, self._done = shown, name, unit, total, done
        self._began = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=total, initial=done, desc=name, unit=unit, unit_scale=total is None, disable=not self._terminal
        )

    def advance(self, count: int = 1) -> None:
        """Moves the bar; without a total and a terminal, a line now and then."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._total is None and not self._terminal and now - self._last_line > _PLAIN_S:
            self._last_line = now
            self.say(f"{self._done:,} {self._unit} so far, {self._done / (now - self._began):,.0f} a second")

    def track(self, items: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
        """The items, each counted by its size once it has been used."""
        for item in items:
            yield item
            self.advance(size(item))

    def show(self, text: str) -> None:
        """Figures behind the bar, or as a line that begins with the count."""
        if self._terminal:
            self._bar.set_postfix_str(text)
        else:
            self.say(f"{self._unit} {self._done}/{self._total} {text}")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._shown:
            tqdm.write(f"{self._name}: {text}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.close()
        if kind is None and self._total is None and self._done:
            self.say(f"{self._done:,} {self._unit} in {time.monotonic() - self._began:.0f} s")
