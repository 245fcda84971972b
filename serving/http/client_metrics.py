"""What the listeners count of those who connect."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

UNMATCHED = "unmatched"  # one label for all unknown paths: clients choose those


class ClientMetrics:
    """What the listeners count of those who connect, by reason (`refused`):

    `connections`, `bodies` found no room; `malformed` sent what is no request; `silent`, `body` and `unread` were too
    slow with a head, with a body, or in taking answers.
    """

    def __init__(self, registry: CollectorRegistry, answers: Counter) -> None:
        """`answers`: of the service, by route and status; those to what is no request are counted there too."""
        self.answers = answers
        on, why = ("listener",), ("listener", "reason")
        self.connections = Gauge("tt_jax_connections", "Open connections.", on, registry=registry)
        what = "Of the bodies of requests that are being read or answered, without the first 16 KiB of each."
        self.held = Gauge("tt_jax_body_bytes", what, on, registry=registry)
        self.refused = Counter("tt_jax_clients_refused", "Refused or hung up on.", why, registry=registry)
