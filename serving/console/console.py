"""The console: a page for people, at `/console`, of what the service serves and how it does, to try requests on.

The page is one file, `console.html`. It reads `/v1/model`, ranks by `/v1/rank` as any client does, and has three routes
of its own: what its form needs, what is going on, and the gates of the query tower. All of it is there on demand only:
what is going on are counters that the service has in any case, from which the page takes the differences, and gates are
computed by a program and a thread of their own, so that ranking never waits for them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.params import FromQuery
from msgspec import Struct

from serving.batching.batcher import OverloadError
from serving.eligibility.conditions import Condition
from serving.index.ad_columns import AdId
from serving.index.ad_index import timestamp
from serving.routing.shadow import ShadowFigures
from serving.scorer import Scorer
from serving.service.app import Service
from serving.service.messages import read_body
from serving.service.rank import RANK
from tt_jax.report.html import style

CONSOLE = "/console"
_PAGE = Path(__file__).with_name("console.html")
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_CHOICES = 200  # values of a vocabulary that the form suggests
_WAITING = 4  # requests for gates; more are refused


@dataclass(frozen=True)
class ConsoleSettings:
    """Of the console. Both are origins such as `http://10.0.0.7:8080`, "" = none; raises ValueError for another text.

    Attributes:
      beside: of a service whose answers the page shows beside those of this one. It must allow that, by `origin`.
      origin: of a service whose console may read what this one answers, see `serving.service.load_shedding`.
    """

    beside: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        for name, value in (("beside", self.beside), ("origin", self.origin)):
            if value and not _ORIGIN.fullmatch(value):
                raise ValueError(f"console {name}: expected an origin such as http://10.0.0.7:8080, got {value!r}")

    def __call__(self, service: Service) -> Console:
        """The console of a service."""
        return Console(self, service, RANK)


class FormAnswer(Struct):
    """What the form needs beside `/v1/model`.

    Attributes:
      examples: queries, feature -> value as JSON text: a browser would round an integer beyond 2^53.
      choices: feature -> values of its vocabulary, the first of many.
      beside: address of the other service, "" = none.
    """

    examples: list[dict[str, str]]
    choices: dict[str, list[str]]
    beside: str


class StateAnswer(Struct):
    """What is served by a model and how it goes. Counts are since the start, of all models; the page takes differences.

    Attributes:
      shadow: how the shadow of the model answers, None = it has none.
      bundles: pair -> fingerprint, of all models.
      bundle, index: fingerprint and version.
      bundle_age, index_age: seconds since they were made, the index or the last of its changes.
      ads, eligible_ads: in the index, and those of them that may be returned.
      waiting: queries in the queue.
      shed: requests that were not answered with ads, by reason, see `serving.batching.queue_metrics.QueueMetrics`.
      seconds: bounds of times to an answer, rising.
      answers: how many were answered within each of these bounds, and last how many in all.
    """

    ready: bool
    bundle: str
    index: str
    bundle_age: float
    index_age: float
    ads: int
    eligible_ads: int
    waiting: int
    shed: dict[str, int]
    seconds: list[float]
    answers: list[int]
    shadow: ShadowFigures | None
    bundles: dict[str, str]


class GatesRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /console/gates`."""

    query: dict[str, Any]
    model: str | None = None


class GatesAnswer(Struct):
    """What each task takes from each expert of the query tower, for one query.

    Attributes:
      bundle: fingerprint.
      kind: of the model.
      experts: their names.
      gates: task -> share of each expert, which sum to 1; None for a kind of model without gates.
    """

    bundle: str
    kind: str
    experts: tuple[str, ...]
    gates: dict[str, list[float]] | None


class ExplainRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /console/explain`: an ad, and what a request says of the ads it wants."""

    ad: AdId
    context: dict[str, Any] = {}
    where: dict[str, Any] = {}
    exclude: list[AdId] = []
    model: str | None = None


class ExplainAnswer(Struct):
    """The rules by which the ad may not serve; none if it may."""

    rules: list[str]


_DECODER = msgspec.json.Decoder(GatesRequest)
_EXPLAIN_DECODER = msgspec.json.Decoder(ExplainRequest)
_EXPLAIN_EXAMPLE = '{"ad": <id>, "context": {...}, "where": {...}}'
_EXAMPLE = '{"query": {"<feature>": <value>, ...}}'


class Console:
    """What the handlers share. Close it."""

    path: str = CONSOLE

    def __init__(self, settings: ConsoleSettings, service: Service, route: str) -> None:
        """`route`: whose times are shown."""
        self.settings, self.service, self.route = settings, service, route
        self.page, policy = _read_page(settings.beside)
        self.headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="console")
        self._asked = 0

    def _scorer(self, model: str | None) -> Scorer:
        return self.service.batcher.scorers[self.service.pair(model)]

    def form(self, model: str | None) -> FormAnswer:
        """For the query of what is served now."""
        scorer = self._scorer(model)
        examples = [{k: _text(v) for k, v in query.items() if v is not None} for query in scorer.examples]
        choices = {}
        for f in scorer.schema.tower_features("query"):
            choices[f.name] = [str(value) for value in scorer.schema.table_owner(f).vocabulary[:_CHOICES]]
        return FormAnswer(examples, {name: values for name, values in choices.items() if values}, self.settings.beside)

    def state(self, model: str | None) -> StateAnswer:
        """What is going on."""
        service = self.service
        scorer, now, traffic = self._scorer(model), time.time(), service.telemetry.traffic(self.route)
        return StateAnswer(
            ready=service.ready,
            bundle=scorer.fingerprint,
            index=scorer.index_id,
            bundle_age=now - timestamp(scorer.bundle.created),
            index_age=now - timestamp(scorer.ads.created),
            ads=scorer.index_size,
            eligible_ads=scorer.eligible,
            waiting=traffic.waiting,
            shed=traffic.shed,
            seconds=traffic.seconds,
            answers=traffic.answers,
            shadow=service.shadows.figures(service.router.model_of[service.pair(model)]),
            bundles={pair: some.fingerprint for pair, some in service.batcher.scorers.items()},
        )

    async def gates(self, query: dict[str, Any], model: str | None = None) -> GatesAnswer:
        """Of the model that serves now. Raises `RequestError`, and `OverloadError` if several wait already."""
        if self._asked >= _WAITING:
            raise OverloadError("the console is busy", 1.0)
        self._asked += 1
        try:
            scorer = self._scorer(model)
            return await asyncio.get_running_loop().run_in_executor(self._thread, _gates, scorer, query)
        finally:
            self._asked -= 1

    def explain(self, asked: ExplainRequest) -> ExplainAnswer:
        """Raises `RequestError`."""
        condition = Condition(asked.context, asked.where, asked.exclude)
        return ExplainAnswer(self._scorer(asked.model).explain(asked.ad, condition))

    @property
    def routes(self) -> Sequence[Any]:
        """The handlers of Litestar."""
        return (page, form, state, gates, explain)

    def close(self) -> None:
        """Does not wait for what is in progress."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@get(CONSOLE, media_type=MediaType.HTML, include_in_schema=False)
async def page(request: Request[Any, Any, Any]) -> Response[str]:
    """The page. It shows nothing that it does not ask for."""
    console = _console(request)
    return Response(console.page, headers=console.headers)


@get(f"{CONSOLE}/form", include_in_schema=False)
async def form(request: Request[Any, Any, Any], model: FromQuery[str | None] = None) -> FormAnswer:
    """Examples and choices."""
    return _console(request).form(model)


@get(f"{CONSOLE}/state", include_in_schema=False)
async def state(request: Request[Any, Any, Any], model: FromQuery[str | None] = None) -> StateAnswer:
    """What is going on."""
    return _console(request).state(model)


@post(f"{CONSOLE}/gates", status_code=200, include_in_schema=False)
async def gates(request: Request[Any, Any, Any]) -> GatesAnswer:
    """Of the query tower, for a query."""
    console = _console(request)
    asked = read_body(await request.body(), _DECODER, _EXAMPLE)
    return await console.gates(asked.query, asked.model)


@post(f"{CONSOLE}/explain", status_code=200, include_in_schema=False)
async def explain(request: Request[Any, Any, Any]) -> ExplainAnswer:
    """Why an ad may not serve."""
    return _console(request).explain(read_body(await request.body(), _EXPLAIN_DECODER, _EXPLAIN_EXAMPLE))


def _console(request: Request[Any, Any, Any]) -> Console:
    return request.app.state.console


def _gates(scorer: Scorer, query: dict[str, Any]) -> GatesAnswer:
    encoded, model = scorer.encode([query]), scorer.programs.model
    found_TE = scorer.programs.gates(encoded.ids, encoded.floats)
    if found_TE is None:
        return GatesAnswer(scorer.fingerprint, model.config.kind, (), None)
    by_task = dict(zip(scorer.schema.heads, found_TE.tolist(), strict=True))
    return GatesAnswer(scorer.fingerprint, model.config.kind, model.experts, by_task)


def _read_page(beside: str) -> tuple[str, str]:
    """The page, and the policy that lets it run its own script and talk to the service, and to the one beside it."""
    page = _PAGE.read_text(encoding="utf-8").replace("/* frame */", style("frame"))
    scripts, styles = (_hash(re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)) for tag in ("script", "style"))
    connect = f"'self' {beside}".strip()
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src {connect}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _hash(parts: list[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(p.encode()).digest()).decode()}'" for p in parts)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
