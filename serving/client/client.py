"""A client of the service: `AsyncClient` for asyncio, and `Client`, which runs one for threads.

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
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import httpx
import msgspec

from serving.client.loop_thread import CLOSED, LoopThread
from serving.client.retries import (
    AGAIN,
    RETRIES,
    DeadlinePassedError,
    NoAnswerError,
    Problem,
    Retries,
    RetryBudget,
    check_deadline,
    describe,
    message,
)  # fmt: skip

__all__ = [
    "Ad", "AdId", "AsyncClient", "Client", "DeadlinePassedError", "NoAnswerError", "Ranked", "Retries", "ServiceError",
]  # fmt: skip

AdId = int | str
Objects = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
A = TypeVar("A")
DEADLINE = "x-deadline-ms"


class ServiceError(Exception):
    """The service answered with an error, or not as expected. `status`: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{status}: {message}")


@dataclass(frozen=True)
class Ad:
    """An ad of an answer: its id, its utility (the higher the better) and a probability per task.

    `propensity`: of an answer that explores, the probability with which this ad is in it.
    """

    id: AdId
    score: float
    probabilities: dict[str, float]
    propensity: float | None = None


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


class AsyncClient:
    """Calls from one event loop. Close it, or use it in an `async with` block.

    Args:
      base_url: of the service.
      deadline_s: seconds for a call with its retries, unless the call says otherwise.
      retries: see `Retries`.
      token: sent as a bearer token; "" = none.
      transport: of httpx, in place of ours, which uses no proxies.

    Calls raise `ServiceError`, `NoAnswerError` or `DeadlinePassedError`; ValueError for a deadline that is none.
    """

    def __init__(
        self, base_url: str, *, deadline_s: float = 1.0, retries: Retries = RETRIES, token: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        check_deadline(deadline_s)
        self._deadline_s, self._retries, self._budget = deadline_s, retries, RetryBudget(retries)
        transport = transport or httpx.AsyncHTTPTransport()
        self._http = httpx.AsyncClient(base_url=base_url, headers=_headers(token), transport=transport)

    async def rank(
        self, query: Mapping[str, Any], k: int = 10, candidates: Sequence[AdId] | None = None,
        deadline_s: float | None = None, model: str | None = None, *, context: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None, exclude: Sequence[AdId] | None = None,
        explore: Mapping[str, Any] | None = None,
    ) -> Ranked:  # fmt: skip
        """The best `k` ads for a query (feature -> value), of all or of the candidates; by this model of several.

        `context`, `where`, `exclude`: which ads may serve, see docs/how-to/target_and_pace.md. `explore`: `share`,
        `seed` and perhaps `by`, see docs/how-to/explore_and_evaluate.md.
        """
        message = {"query": query, "k": k, "candidates": candidates, "model": model}
        said = {"context": context, "where": where, "exclude": exclude, "explore": explore}
        return _read(await self._post(_body(message | said), deadline_s), Ranked)

    async def rank_several(
        self, queries: Sequence[Mapping[str, Any]], k: int = 10,
        candidates: Sequence[Sequence[AdId]] | None = None, deadline_s: float | None = None,
        model: str | None = None, *, context: Objects = None, where: Objects = None,
        exclude: Sequence[AdId] | Sequence[Sequence[AdId]] | None = None,
        explore: Mapping[str, Any] | None = None,
    ) -> list[Ranked]:  # fmt: skip
        """The best `k` ads for each of several queries, in order, of all or of a list of candidates for each.

        `context`, `where`, `exclude`: as of `rank`, for all queries, or one for each.
        """
        message = {"queries": queries, "k": k, "candidates": candidates, "model": model}
        said = {"context": context, "where": where, "exclude": exclude, "explore": explore}
        return _split(_read(await self._post(_body(message | said), deadline_s), _Several))

    async def _post(self, body: bytes, deadline_s: float | None) -> httpx.Response:
        """The response that a call ends with, after retries. Raises `NoAnswerError` or `DeadlinePassedError`."""
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        check_deadline(deadline_s)
        end, problem = time.monotonic() + deadline_s, None
        self._budget.earn()
        for attempt in range(self._retries.attempts):
            left = end - time.monotonic()
            if left < 1e-3:
                break
            problem = await self._send(body, left)
            if isinstance(problem, httpx.Response) and problem.status_code not in AGAIN:
                return problem
            wait, now = self._retries.wait(attempt, problem), time.monotonic()
            is_last = attempt + 1 == self._retries.attempts or now + wait >= end
            if is_last or not self._budget.spend():
                if isinstance(problem, httpx.Response):
                    return problem
                if now < end:
                    raise NoAnswerError(f"no answer: {describe(problem)}") from problem
                break
            await asyncio.sleep(wait)
        before = "" if problem is None else f"; before: {describe(problem)}"
        raise DeadlinePassedError(f"no answer within {deadline_s} s{before}")

    async def _send(self, body: bytes, seconds: float) -> Problem:
        """Sends a request once; the response, or why there is none."""
        try:
            async with asyncio.timeout(seconds):
                headers = {DEADLINE: str(int(seconds * 1e3))}
                return await self._http.post("/v1/rank", content=body, headers=headers, timeout=None)
        except (httpx.RequestError, TimeoutError) as e:  # refused, reset, closed half-way, no content, timed out
            return e

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Client:
    """Calls from threads; otherwise as `AsyncClient`, which it runs in the event loop of a thread of its own.

    That thread starts with the first call, again in a process that was forked since (which a `transport` of one's own
    does not survive), and ends with `close`, with the garbage collection of the client, or with the process.
    """

    def __init__(
        self, base_url: str, *, deadline_s: float = 1.0, retries: Retries = RETRIES, token: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        settings: Any = {"deadline_s": deadline_s, "retries": retries, "token": token, "transport": transport}
        self._make = partial(AsyncClient, base_url, **settings)
        self._first: AsyncClient | None = self._make()  # made here, so that a wrong argument raises here
        self._has_transport = transport is not None
        self._thread: LoopThread | None = None
        self._lock, self._is_closed = threading.Lock(), False

    def rank(
        self, query: Mapping[str, Any], k: int = 10, candidates: Sequence[AdId] | None = None,
        deadline_s: float | None = None, model: str | None = None, *, context: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None, exclude: Sequence[AdId] | None = None,
        explore: Mapping[str, Any] | None = None,
    ) -> Ranked:  # fmt: skip
        """As `AsyncClient.rank`."""
        thread, said = self._started(), {"context": context, "where": where, "exclude": exclude, "explore": explore}
        return thread.run(thread.client.rank(query, k, candidates, deadline_s, model, **said))

    def rank_several(
        self, queries: Sequence[Mapping[str, Any]], k: int = 10,
        candidates: Sequence[Sequence[AdId]] | None = None, deadline_s: float | None = None,
        model: str | None = None, *, context: Objects = None, where: Objects = None,
        exclude: Sequence[AdId] | Sequence[Sequence[AdId]] | None = None,
        explore: Mapping[str, Any] | None = None,
    ) -> list[Ranked]:  # fmt: skip
        """As `AsyncClient.rank_several`."""
        thread, said = self._started(), {"context": context, "where": where, "exclude": exclude, "explore": explore}
        return thread.run(thread.client.rank_several(queries, k, candidates, deadline_s, model, **said))

    def _started(self) -> LoopThread:
        """The thread of this process. Raises RuntimeError once the client is closed."""
        thread = self._thread
        if thread is None or thread.pid != os.getpid():
            with self._lock:
                if self._is_closed:
                    raise RuntimeError(CLOSED)
                if self._thread is None or self._thread.pid != os.getpid():
                    if self._thread is not None and self._has_transport:
                        raise RuntimeError("a client with a transport of its own cannot be used in a forked process")
                    client, self._first = self._first or self._make(), None
                    self._thread = LoopThread(client)
                    weakref.finalize(self, self._thread.stop)
                thread = self._thread
        return thread

    def close(self) -> None:
        """Closes its connections and ends its thread. Idempotent."""
        with self._lock:
            thread, self._thread, self._is_closed = self._thread, None, True
        if thread is not None:
            thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _body(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode({key: value for key, value in message.items() if value is not None})


def _read(response: httpx.Response, kind: type[A]) -> A:
    if response.status_code == 504:
        raise DeadlinePassedError(message(response))
    if response.status_code != 200:
        raise ServiceError(response.status_code, message(response))
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as e:
        raise ServiceError(200, f"not an answer of this service: {e}") from None


def _split(answer: _Several) -> list[Ranked]:
    return [Ranked(result.ads, answer.bundle, answer.index) for result in answer.results]


def _headers(token: str) -> dict[str, str]:
    return {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
