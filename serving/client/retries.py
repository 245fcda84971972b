"""What of a call is sent again, and when: limits, waits and the budget of a client. Needs no JAX."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx
import msgspec

AGAIN = (429, 503)


class NoAnswerError(ConnectionError):
    """No connection to the service, or one that broke, and no retry left."""


class DeadlinePassedError(TimeoutError):
    """The deadline of a call passed. The message names the last thing that went wrong before, if anything did."""


@dataclass(frozen=True)
class Retries:
    """What is sent again.

    Attributes:
      attempts: of one call, the first one included.
      first_wait_s, longest_wait_s: bound of the random wait before the first retry, which doubles, and its limit.
      budget: retries per request, on average over the life of a client.
      burst: retries that may be made at once, before the budget counts.
    """

    attempts: int = 3
    first_wait_s: float = 0.02
    longest_wait_s: float = 1.0
    budget: float = 0.1
    burst: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_wait_s, self.longest_wait_s, self.budget, self.burst) < 0:
            raise ValueError(f"expected attempts >= 1, and nothing below 0, got {self}")

    def wait(self, attempt: int, problem: Problem) -> float:
        """Seconds from an attempt, counted from 0, to the next one: `Retry-After`, and some more by chance."""
        jitter = random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2**attempt))
        asked = problem.headers.get("retry-after", "") if isinstance(problem, httpx.Response) else ""
        return int(asked) + jitter if asked.isdecimal() and len(asked) < 10 else jitter


RETRIES = Retries()
Problem = httpx.Response | httpx.RequestError | TimeoutError  # what came of a request


class RetryBudget:
    """How many retries the requests of a client have earned. For one event loop."""

    def __init__(self, retries: Retries) -> None:
        self._retries, self._left = retries, retries.burst

    def earn(self) -> None:
        """For a request."""
        self._left = min(self._retries.burst, self._left + self._retries.budget)

    def spend(self) -> bool:
        """Whether there is one more retry, which is then taken."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def message(response: httpx.Response) -> str:
    """What the service said, or the start of what something before it did."""
    try:
        return msgspec.json.decode(response.content, type=dict[str, str])["error"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return " ".join(response.text.split())[:200] or response.reason_phrase


def describe(problem: Problem) -> str:
    """One line of it."""
    if isinstance(problem, httpx.Response):
        return f"{problem.status_code}: {message(problem)}"
    return f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__


def check_deadline(seconds: float) -> None:
    """Raises ValueError for what is no number of seconds above 0."""
    if not 0 < seconds < 1e9:
        raise ValueError(f"deadline_s: expected a number of seconds above 0, got {seconds}")
