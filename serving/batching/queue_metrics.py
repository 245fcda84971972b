"""What the batcher counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (  # bounds of the histograms of times
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
SHED = ("full", "slow", "expired", "late", "gone", "closing")


class QueueMetrics:
    """What the batcher counts, by reason (`shed`):

    `full`, `slow` were not taken: no place in the queue, or too long a wait; `expired`, `late` missed their deadline in
    the queue, or in the batch; of `gone` the client left, and `closing` were still queued when the process had to end.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.queued = Gauge("tt_jax_queue_queries", "Queries that wait.", registry=registry)
        what = "From the queue's end to the start of the batch."
        self.wait = Histogram("tt_jax_queue_seconds", what, registry=registry, buckets=SECONDS)
        self.batch = Histogram("tt_jax_batch_queries", "Queries of a batch.", registry=registry, buckets=_BATCHES)
        shed = Counter("tt_jax_shed", "Requests that were not answered with ads.", ("reason",), registry=registry)
        self.shed = {reason: shed.labels(reason) for reason in SHED}
