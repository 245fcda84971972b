"""Prometheus metrics of one service."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.samples import Sample

from serving.batching.queue_metrics import SECONDS, QueueMetrics
from serving.batching.request import Work, by_model
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

    def __init__(self, scorers: Scorer | Mapping[str, Scorer], versions: dict[str, str]) -> None:
        """`scorers`: one, or several by name of their model."""
        self.registry = r = CollectorRegistry()
        self.requests = Counter("tt_jax_requests", "Answers.", ("route", "status"), registry=r)
        what = "From the request's head to the answer's head."
        self.seconds = Histogram("tt_jax_request_seconds", what, ("route",), registry=r, buckets=SECONDS)
        self._answers: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # of those that came, without a look-up
        model = ("model",)  # of the pair, see `serving.routing`
        self.queries = Counter("tt_jax_queries", "Queries ranked.", model, registry=r)
        self.ads = Counter("tt_jax_ads_ranked", "Ads in the answers.", model, registry=r)
        what = "Queries without a value of the feature."
        self._missing = Counter("tt_jax_feature_missing", what, ("model", "feature"), registry=r)
        what = "Values of a set in `context` and `where` that no ad has."
        self._unknown = Counter("tt_jax_attribute_unknown", what, ("model", "attribute"), registry=r)
        self._index = {
            "ads": Gauge("tt_jax_index_ads", "Ads in the index.", model, registry=r),
            "eligible": Gauge("tt_jax_index_eligible_ads", "Ads in the index that may be returned.", model, registry=r),
            "sequence": Gauge("tt_jax_index_sequence", "Sets of changes since the index was built.", model, registry=r),
            "memory": Gauge("tt_jax_memory_bytes", "Of the arrays: weights, tables and ads.", model, registry=r),
        }
        what = "Since the index or the last of its changes was made."
        self._age = Gauge("tt_jax_index_age_seconds", what, model, registry=r)
        what = "Loads of a bundle and an index, and changes of ads; failed ones changed nothing."
        self._changes = Counter("tt_jax_changes", what, ("model", "kind", "outcome"), registry=r)
        what = "Since a load or a change failed; NaN = none."
        self._failed = Gauge("tt_jax_last_error_age_seconds", what, model, registry=r)
        self._info = Info("tt_jax_service", "What is served, and by what.", model, registry=r)
        self._versions = versions
        self.queue, self.clients = QueueMetrics(r), ClientMetrics(r, self.requests)
        self._created, self._failed_at = dict[str, float](), dict[str, float]()
        self._scorers: dict[str, Scorer] = {}
        self._features: dict[str, tuple[dict[str, Counter], set[str]]] = {}  # of a query, and which of them are lists
        for name, scorer in by_model(scorers).items():
            for kind in ("load", "change"):
                for outcome in ("done", "failed"):
                    self._changes.labels(name, kind, outcome)
            self._age.labels(name).set_function(lambda name=name: time.time() - self._created[name])
            self._failed.labels(name).set_function(lambda name=name: time.time() - self._failed_at.get(name, math.nan))
            self.serves(name, scorer)

    def serves(self, model: str, scorer: Scorer) -> None:
        """Tells what is served from now on."""
        self._scorers[model] = scorer
        features = scorer.schema.tower_features("query")
        missing = {f.name: self._missing.labels(model, f.name) for f in features}
        self._features[model] = missing, {f.name for f in features if f.kind in ("bag", "sequence", "dense")}
        self._created[model], version = timestamp(scorer.ads.created), scorer.ads.version
        self.queries.labels(model)
        self.ads.labels(model)  # 0 from the start
        for name, value in (
            ("ads", scorer.index_size),
            ("eligible", scorer.eligible),
            ("sequence", version.sequence),
            ("memory", scorer.memory),
        ):
            self._index[name].labels(model).set(value)
        # The id as built: a label that changed with every change of an ad would make a time series of each.
        service = {"schema": scorer.schema.name, "bundle": scorer.fingerprint, "index": version.index_id}
        self._info.labels(model).info({**service, **self._versions})

    def changed(self, kind: ChangeKind, model: str, scorer: Scorer) -> None:
        """Counts a load or a change that gave this scorer."""
        self._changes.labels(model, kind, "done").inc()
        self.serves(model, scorer)

    def failed(self, kind: ChangeKind, model: str) -> None:
        """Counts a load or a change that failed."""
        self._changes.labels(model, kind, "failed").inc()
        self._failed_at[model] = time.time()

    def ranked(self, work: Work, ads: int) -> None:
        """Counts queries that a model ranked, what was missing or unknown in them, and the ads of their answers."""
        model, queries, scorer = work.model, work.queries, self._scorers[work.model]
        for condition in work.conditions or ():
            for name in scorer.conditions.unknown(condition, scorer.ads.attributes):
                self._unknown.labels(model, name).inc()
        self.queries.labels(model).inc(len(queries))
        self.ads.labels(model).inc(ads)
        counters, lists = self._features[model]
        for query in queries:
            missing = counters.keys() - query.keys()
            if None in query.values():
                missing |= {name for name, value in query.items() if value is None}
            for name in lists - missing:
                if all(v is None for v in query[name]):  # as the encoder has it
                    missing.add(name)
            for name in missing:
                counters[name].inc()

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


def log_serves(event: str, model: str, scorer: Scorer, started: float) -> None:
    """Logs a load or a change that gave a model this scorer, begun at that time of `time.monotonic`."""
    log_event(
        event,
        outcome="done",
        model=model,
        bundle=scorer.fingerprint,
        index=scorer.index_id,
        ads=scorer.index_size,
        eligible=scorer.eligible,
        seconds=round(time.monotonic() - started, 3),
    )


def _samples(metric: Counter | Gauge | Histogram) -> list[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]
