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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import httpx
import msgspec

from serving.client.deadline import Transport
from serving.client.retries import RETRIES, Core, DeadlinePassedError, NoAnswerError, Retries, Wait, message

__all__ = [
    "Ad", "AdId", "AsyncClient", "Client", "DeadlinePassedError", "NoAnswerError", "Ranked", "Retries", "ServiceError",
]  # fmt: skip

AdId = int | str
A = TypeVar("A")
_NO_ANSWER = (httpx.TransportError,)  # refused, reset, closed half-way, timed out


class ServiceError(Exception):
    """The service answered with an error, or not as expected. `status`: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{status}: {message}")


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


class Client:
    """Calls from threads. Close it, or use it in a `with` block.

    Args:
      base_url: of the service.
      deadline_s: seconds for a call with its retries, unless the call says otherwise. Only the lookup of a name can
        take longer, and that in a thread only.
      retries: see `Retries`.
      token: sent as a bearer token; "" = none.
      transport: of httpx, in place of ours, which uses no proxies; another bounds single reads, not a whole call.

    Calls raise `ServiceError`, `NoAnswerError` or `DeadlinePassedError`; ValueError for a deadline that is none.
    """

    def __init__(
        self, base_url: str, *, deadline_s: float = 1.0, retries: Retries = RETRIES, token: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._core = Core(retries, deadline_s)
        self._http = httpx.Client(base_url=base_url, headers=_headers(token), transport=transport or Transport())

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
            if isinstance(step, Wait):
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
        self._core = Core(retries, deadline_s)
        transport = transport or httpx.AsyncHTTPTransport()
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
            if isinstance(step, Wait):
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
