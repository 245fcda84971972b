"""Prometheus metrics of one service."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.samples import Sample

from serving.batching.queue_metrics import SECONDS, QueueMetrics
from serving.http.asgi import STARTED
from serving.http.client_metrics import UNMATCHED, ClientMetrics
from serving.index.ad_index import timestamp
from serving.log_events import log_event
from serving.scorer import Scorer

ChangeKind = Literal["load", "change"]


@dataclass(frozen=True)
class Traffic:
    """What has gone on since the start: queries that wait, requests shed by reason, and of the answers of a route how
    many came within each of these `seconds` (rising), and last how many in all."""

    waiting: int
    shed: dict[str, int]
    seconds: list[float]
    answers: list[int]


class Telemetry:
    """Counters in a registry of their own. Updated from any thread."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, scorer: Scorer, versions: dict[str, str]) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("tt_jax_requests", "Answers.", ("route", "status"), registry=r)
        what = "From the request's head to the answer's head."
        self.seconds = Histogram("tt_jax_request_seconds", what, ("route",), registry=r, buckets=SECONDS)
        self._answers: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # of those that came, without a look-up
        self.queries = Counter("tt_jax_queries", "Queries ranked.", registry=r)
        self.ads = Counter("tt_jax_ads_ranked", "Ads in the answers.", registry=r)
        what = "Queries without a value of the feature."
        self._missing = Counter("tt_jax_feature_missing", what, ("feature",), registry=r)
        self._index = {
            "ads": Gauge("tt_jax_index_ads", "Ads in the index.", registry=r),
            "eligible": Gauge("tt_jax_index_eligible_ads", "Ads in the index that may be returned.", registry=r),
            "sequence": Gauge("tt_jax_index_sequence", "Sets of changes since the index was built.", registry=r),
        }
        age = Gauge("tt_jax_index_age_seconds", "Since the index or the last of its changes was made.", registry=r)
        age.set_function(lambda: time.time() - self._created)
        what = "Loads of a bundle and an index, and changes of ads; failed ones changed nothing."
        self._changes = Counter("tt_jax_changes", what, ("kind", "outcome"), registry=r)
        for kind in ("load", "change"):
            for outcome in ("done", "failed"):
                self._changes.labels(kind, outcome)
        self._failed_at = math.nan
        failed = Gauge("tt_jax_last_error_age_seconds", "Since a load or a change failed; NaN = none.", registry=r)
        failed.set_function(lambda: time.time() - self._failed_at)
        self._info = Info("tt_jax_service", "What is served, and by what.", registry=r)
        self._versions = versions
        self.queue, self.clients = QueueMetrics(r), ClientMetrics(r, self.requests)
        self.serves(scorer)

    def serves(self, scorer: Scorer) -> None:
        """Tells what is served from now on."""
        self.missing = {f.name: self._missing.labels(f.name) for f in scorer.schema.tower_features("query")}
        self._lists = {f.name for f in scorer.schema.tower_features("query") if f.kind in ("bag", "sequence", "dense")}
        self._created, version = timestamp(scorer.ads.created), scorer.ads.version
        self._index["ads"].set(scorer.index_size)
        self._index["eligible"].set(scorer.eligible)
        self._index["sequence"].set(version.sequence)
        # The id as built: a label that changed with every change of an ad would make a time series of each.
        service = {"model": scorer.schema.name, "bundle": scorer.fingerprint, "index": version.index_id}
        self._info.info({**service, **self._versions})

    def changed(self, kind: ChangeKind, scorer: Scorer) -> None:
        """Counts a load or a change that gave this scorer."""
        self._changes.labels(kind, "done").inc()
        self.serves(scorer)

    def failed(self, kind: ChangeKind) -> None:
        """Counts a load or a change that failed."""
        self._changes.labels(kind, "failed").inc()
        self._failed_at = time.time()

    def ranked(self, queries: Sequence[Mapping[str, Any]], ads: int) -> None:
        """Counts queries that were ranked, what was missing in them, and the ads of their answers."""
        self.queries.inc(len(queries))
        self.ads.inc(ads)
        for query in queries:
            missing = self.missing.keys() - query.keys()
            if None in query.values():
                missing |= {name for name, value in query.items() if value is None}
            for name in self._lists - missing:
                if all(v is None for v in query[name]):  # as the encoder has it
                    missing.add(name)
            for name in missing:
                self.missing[name].inc()

    def start(self, app: ASGIApp) -> ASGIApp:
        """Middleware that notes when a request of a known route began."""

        async def started(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"].setdefault(STARTED, time.perf_counter())  # the server knows when it arrived
            await app(scope, receive, send)

        return started

    async def before_send(self, message: Message, scope: Scope) -> None:
        """Counts an answer of any route of Litestar's, errors included, as its head is sent."""
        if message["type"] == "http.response.start":
            self.answered(scope.get("path_template", UNMATCHED), message["status"], scope["state"].get(STARTED))

    def answered(self, route: str, status: int, started: float | None) -> None:
        """Counts an answer to a request of that time, if that is known, as its head is sent."""
        if (metrics := self._answers.get((route, status))) is None:
            metrics = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._answers[route, status] = metrics
        metrics[0].inc()
        if started is not None:
            metrics[1].observe(time.perf_counter() - started)

    def traffic(self, route: str) -> Traffic:
        """For who looks at it."""
        times = [s for s in _samples(self.seconds.labels(route)) if s.name.endswith("_bucket")]
        shed = {reason: int(_samples(counter)[0].value) for reason, counter in self.queue.shed.items()}
        return Traffic(int(_samples(self.queue.queued)[0].value), shed, list(SECONDS), [int(s.value) for s in times])

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def log_serves(event: str, scorer: Scorer, started: float) -> None:
    """Logs a load or a change that gave this scorer, begun at that time of `time.monotonic`."""
    log_event(
        event,
        outcome="done",
        bundle=scorer.fingerprint,
        index=scorer.index_id,
        ads=scorer.index_size,
        eligible=scorer.eligible,
        seconds=round(time.monotonic() - started, 3),
    )


def _samples(metric: Counter | Gauge | Histogram) -> list[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]
