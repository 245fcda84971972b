"""What a service is started with, made once by `tt-jax serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.limits import ServiceLimits
from serving.parity.request_log import LogSettings
from serving.service.auth import Tokens


class Pages(Protocol):
    """Pages for people beside the API. `path`: of the one that needs no token."""

    @property
    def path(self) -> str: ...

    @property
    def routes(self) -> Sequence[Any]: ...

    def close(self) -> None:
        """At the end of the service. Does not wait for what is in progress."""


class MakePages(Protocol):
    """Makes the pages of a service. `origin`: from where a browser may read what this service answers, "" = nowhere."""

    @property
    def origin(self) -> str: ...

    def __call__(self, service: Any) -> Pages: ...


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Settings of a service. Raises ValueError for a value that cannot be.

    Attributes:
      host, port: address to listen on; port 0 takes a free one.
      max_k, max_candidates: largest `k`, longest list of candidates.
      max_queries: most queries of one request.
      max_body: bytes; a longer body is answered with 413.
      limits: of work, clients and times.
      log: of a sample of the requests, for `tt-jax parity`; None = no log.
      tokens: whose holders alone may use it, all but `/health`; None = everybody.
      metrics_here: whether `/metrics` is here, or on a listener of its own.
      console: pages such as those of `serving.console`; None = none.
      allowed_hosts: names that requests may be for, beside this machine's, where `serving.service.auth.hosts_of` checks
        them.
      access_log: whether each answer of each listener is logged.
      devices: that the ads are split over.
      live: whether ads are going to change: makes room for new ones, and compiles what most changes need.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_k: int = 1000
    max_candidates: int = 16_384
    max_queries: int = 64
    max_body: int = 2**20
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    log: LogSettings | None = None
    tokens: Tokens | None = None
    metrics_here: bool = True
    console: MakePages | None = None
    allowed_hosts: Sequence[str] = ()
    access_log: bool = False
    live: bool = False
    devices: int = 1

    def __post_init__(self) -> None:
        if self.max_body < 1 or self.max_queries < 1:
            raise ValueError(f"expected max_body and max_queries >= 1, got {self.max_body} and {self.max_queries}")
