"""What of a call is sent again and when, within its deadline: decided here, sent by the clients of threads and asyncio.
Needs no JAX."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

import httpx
import msgspec

AGAIN = (429, 503)
DEADLINE = "x-deadline-ms"


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


RETRIES = Retries()


@dataclass(frozen=True)
class Send:
    """Send the request with these headers, and wait so long for the answer."""

    headers: dict[str, str]
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    """Do nothing for a while."""

    seconds: float


Plan = Generator[Send | Wait, httpx.Response | Exception | None, httpx.Response]


@dataclass
class Core:
    """Decides; sends nothing. Shared by all calls of a client, safe in threads."""

    retries: Retries
    deadline_s: float
    random: random.Random = field(default_factory=random.Random)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        _check_deadline(self.deadline_s)
        self.tokens = self.retries.burst

    def plan(self, deadline_s: float | None) -> Plan:
        """Yields what to do next and is sent what came of it; returns the response of a call."""
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        _check_deadline(deadline_s)
        end, problem = time.monotonic() + deadline_s, None
        with self.lock:
            self.tokens = min(self.retries.burst, self.tokens + self.retries.budget)
        for attempt in range(self.retries.attempts):
            left = end - time.monotonic()
            if left < 1e-3:
                break
            found = yield Send({DEADLINE: str(int(left * 1e3))}, left)
            assert found is not None
            if isinstance(found, httpx.Response) and found.status_code not in AGAIN:
                return found
            problem, wait, now = found, self._wait(attempt, found), time.monotonic()
            last = attempt + 1 == self.retries.attempts or now + wait >= end
            if last or not self._may_retry():
                if isinstance(found, httpx.Response):
                    return found
                if now < end:
                    raise NoAnswerError(f"no answer: {_describe(found)}") from found
                break
            yield Wait(wait)
        said = "" if problem is None else f"; before: {_describe(problem)}"
        raise DeadlinePassedError(f"no answer within {deadline_s} s{said}")

    def _may_retry(self) -> bool:
        with self.lock:
            if self.tokens < 1:
                return False
            self.tokens -= 1
            return True

    def _wait(self, attempt: int, found: httpx.Response | Exception) -> float:
        bound = min(self.retries.longest_wait_s, self.retries.first_wait_s * 2**attempt)
        jitter = self.random.uniform(0, bound)
        told = found.headers.get("retry-after", "") if isinstance(found, httpx.Response) else ""
        return int(told) + jitter if told.isdecimal() else jitter


def message(response: httpx.Response) -> str:
    """What the service said, or the start of what something before it did."""
    try:
        return msgspec.json.decode(response.content, type=dict[str, str])["error"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return " ".join(response.text.split())[:200] or response.reason_phrase


def _describe(found: httpx.Response | Exception) -> str:
    if isinstance(found, httpx.Response):
        return f"{found.status_code}: {message(found)}"
    return f"{type(found).__name__}: {found}" if str(found) else type(found).__name__


def _check_deadline(seconds: float) -> None:
    if not 0 < seconds < 1e9:
        raise ValueError(f"deadline_s: expected a number of seconds above 0, got {seconds}")
