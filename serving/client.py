"""A client of the service, for threads and for asyncio, over one core that decides what is sent again and when.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.rank({"user_id": 7}, k=10, deadline_s=0.2)
        answer.ads[0].id, answer.ads[0].probabilities["click"]

A request is sent again after a connection that failed, a 429 or a 503, and after nothing else: ranking changes nothing,
so it is safe. The wait is what `Retry-After` says, else random below a bound that doubles. Retries are a share of the
requests (`Retries.budget`), so that clients do not bury a service that is down. All of it ends at the deadline, which
the service is told (`X-Deadline-Ms`), so that it drops what nobody waits for. Needs no JAX.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import httpx
import msgspec

AdId = int | str
A = TypeVar("A")
AGAIN = (429, 503)
DEADLINE = "x-deadline-ms"
_NO_ANSWER = (httpx.TransportError,)  # refused, reset, closed half-way, timed out


class ServiceError(Exception):
    """The service answered with an error, or not as expected. `status`: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{status}: {message}")


class NoAnswerError(ConnectionError):
    """No connection to the service, or one that broke, and no retry left."""


class DeadlinePassedError(TimeoutError):
    """The deadline of a call passed. The message names the last thing that went wrong before, if anything did."""


@dataclass(frozen=True)
class Ad:
    """An ad of an answer: its id, its utility (the higher the better) and a probability per task."""

    id: AdId
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Ranked:
    """The ads of one query, best first, and the fingerprints of the bundle and the index that ranked them."""

    ads: list[Ad]
    bundle: str
    index: str


@dataclass(frozen=True)
class _Ads:
    ads: list[Ad]


@dataclass(frozen=True)
class _Several:
    results: list[_Ads]
    bundle: str
    index: str


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
class _Send:
    headers: dict[str, str]
    timeout_s: float


@dataclass(frozen=True)
class _Wait:
    seconds: float


_Plan = Generator[_Send | _Wait, httpx.Response | Exception | None, httpx.Response]


@dataclass
class _Core:
    """Decides; sends nothing. Shared by all calls of a client, safe in threads."""

    retries: Retries
    deadline_s: float
    random: random.Random = field(default_factory=random.Random)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        _check_deadline(self.deadline_s)
        self.tokens = self.retries.burst

    def plan(self, deadline_s: float | None) -> _Plan:
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
            found = yield _Send({DEADLINE: str(int(left * 1e3))}, left)
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
            yield _Wait(wait)
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


class Client:
    """Calls from threads. Close it, or use it in a `with` block.

    Args:
      base_url: of the service.
      deadline_s: seconds for a call with its retries, unless the call says otherwise. In a thread it bounds each read
        of an answer, not their sum.
      retries: see `Retries`.
      token: sent as a bearer token; "" = none.
      transport: of httpx, in place of the network.

    Calls raise `ServiceError`, `NoAnswerError` or `DeadlinePassedError`; ValueError for a deadline that is none.
    """

    def __init__(
        self, base_url: str, *, deadline_s: float = 1.0, retries: Retries = RETRIES, token: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._core = _Core(retries, deadline_s)
        self._http = httpx.Client(base_url=base_url, headers=_headers(token), transport=transport)

    def rank(
        self, query: Mapping[str, Any], k: int = 10, candidates: Sequence[AdId] | None = None,
        deadline_s: float | None = None,
    ) -> Ranked:  # fmt: skip
        """The best `k` ads for a query (feature -> value), of all or of the candidates."""
        return _read(self._post(_one(query, k, candidates), deadline_s), Ranked)

    def rank_several(
        self, queries: Sequence[Mapping[str, Any]], k: int = 10,
        candidates: Sequence[Sequence[AdId]] | None = None, deadline_s: float | None = None,
    ) -> list[Ranked]:  # fmt: skip
        """The best `k` ads for each of several queries, in order, of all or of a list of candidates for each."""
        return _split(_read(self._post(_many(queries, k, candidates), deadline_s), _Several))

    def _post(self, body: bytes, deadline_s: float | None) -> httpx.Response:
        plan = self._core.plan(deadline_s)
        step = next(plan)
        while True:
            found = None
            if isinstance(step, _Wait):
                time.sleep(step.seconds)
            else:
                try:
                    found = self._http.post("/v1/rank", content=body, headers=step.headers, timeout=step.timeout_s)
                except _NO_ANSWER as e:
                    found = e
            try:
                step = plan.send(found)
            except StopIteration as done:
                return done.value

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """Calls from one event loop; otherwise as `Client`. Close it, or use it in an `async with` block."""

    def __init__(
        self, base_url: str, *, deadline_s: float = 1.0, retries: Retries = RETRIES, token: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._core = _Core(retries, deadline_s)
        self._http = httpx.AsyncClient(base_url=base_url, headers=_headers(token), transport=transport)

    async def rank(
        self, query: Mapping[str, Any], k: int = 10, candidates: Sequence[AdId] | None = None,
        deadline_s: float | None = None,
    ) -> Ranked:  # fmt: skip
        """As `Client.rank`."""
        return _read(await self._post(_one(query, k, candidates), deadline_s), Ranked)

    async def rank_several(
        self, queries: Sequence[Mapping[str, Any]], k: int = 10,
        candidates: Sequence[Sequence[AdId]] | None = None, deadline_s: float | None = None,
    ) -> list[Ranked]:  # fmt: skip
        """As `Client.rank_several`."""
        return _split(_read(await self._post(_many(queries, k, candidates), deadline_s), _Several))

    async def _post(self, body: bytes, deadline_s: float | None) -> httpx.Response:
        plan = self._core.plan(deadline_s)
        step = next(plan)
        while True:
            found = None
            if isinstance(step, _Wait):
                await asyncio.sleep(step.seconds)
            else:
                try:
                    async with asyncio.timeout(step.timeout_s):
                        found = await self._http.post("/v1/rank", content=body, headers=step.headers, timeout=None)
                except (*_NO_ANSWER, TimeoutError) as e:
                    found = e
            try:
                step = plan.send(found)
            except StopIteration as done:
                return done.value

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _one(query: Mapping[str, Any], k: int, candidates: Sequence[AdId] | None) -> bytes:
    return msgspec.json.encode({"query": query, "k": k, "candidates": candidates})


def _many(queries: Sequence[Mapping[str, Any]], k: int, candidates: Sequence[Sequence[AdId]] | None) -> bytes:
    return msgspec.json.encode({"queries": queries, "k": k, "candidates": candidates})


def _read(response: httpx.Response, kind: type[A]) -> A:
    if response.status_code == 504:
        raise DeadlinePassedError(_message(response))
    if response.status_code != 200:
        raise ServiceError(response.status_code, _message(response))
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as e:
        raise ServiceError(200, f"not an answer of this service: {e}") from None


def _split(answer: _Several) -> list[Ranked]:
    return [Ranked(result.ads, answer.bundle, answer.index) for result in answer.results]


def _message(response: httpx.Response) -> str:
    """What the service said, or the start of what something before it did."""
    try:
        return msgspec.json.decode(response.content, type=dict[str, str])["error"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return " ".join(response.text.split())[:200] or response.reason_phrase


def _describe(found: httpx.Response | Exception) -> str:
    if isinstance(found, httpx.Response):
        return f"{found.status_code}: {_message(found)}"
    return f"{type(found).__name__}: {found}" if str(found) else type(found).__name__


def _headers(token: str) -> dict[str, str]:
    return {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}


def _check_deadline(seconds: float) -> None:
    if not 0 < seconds < 1e9:
        raise ValueError(f"deadline_s: expected a number of seconds above 0, got {seconds}")
