"""Several models in one service: who answers what, live splits, changes and swaps of one, and what is told of each."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient

from serving import memory
from serving.admin.app import create_admin
from serving.admin.updates import LiveUpdates
from serving.console.console import ConsoleSettings
from serving.parity.request_log import LogSettings, read_log
from serving.routing.plan import Plan
from serving.scorer import Scorer
from serving.scorer_updates import load
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support.service_calls import error_of, post, some_queries
from tt_jax.metrics.experiment import binomial_interval

MAX_K = 20
QUERY = some_queries(1)[0]
STANDARD, SHOPPING = ({**QUERY, "scenario": name} for name in ("standard", "shopping"))


@dataclass
class Several:
    """A service of `standard` and of `shopping`, whose requests two pairs share and a third one shadows."""

    client: Any
    admin: Any
    pairs: Path
    log: Path

    def scorer(self, pair: str) -> Scorer:
        return self.client.app.state.service.batcher.scorers[pair]

    def change(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.admin.post(path, content=json.dumps(body))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, status: int = 400, **body: Any) -> str:
        return error_of(self.admin.post(path, content=json.dumps(body)), status)

    def rejected(self, **body: Any) -> str:
        return error_of(self.client.post("/v1/rank", content=json.dumps(body)), 400)

    def metric(self, name: str) -> float:
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(value)


@pytest.fixture(scope="module")
def several(scenario_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    folder = tmp_path_factory.mktemp("several")
    standard, shopping, better = (f"{scenario_pairs}/{n}/bundle,{scenario_pairs}/{n}/index" for n in PAIRS)
    plan = Plan.of_flags(
        [f"standard={standard}", f"shopping=70:{shopping},30:{better}"],
        [f"shopping=1:{standard}"],
        "scenario",
        "user",
        folder / "journals",
    )
    scorers, like = dict[str, Scorer](), None
    (folder / "journals").mkdir()
    for pair, s in plan.pairs.items():
        like = scorers[pair] = load(s.bundle, s.index, s.deltas, s.journal, max_k=MAX_K, live=True, like=like)
    log = LogSettings(folder / "requests.jsonl", fraction=1.0)
    app = create_app(scorers, ServiceConfig(log=log, console=ConsoleSettings()), plan.routes)
    service = app.state.service
    live = {
        pair: LiveUpdates(
            service.batcher,
            service.telemetry,
            sources,
            ads=True,
            model=pair,
            check=lambda scorer, pair=pair: service.router.check(pair, scorer),
        )
        for pair, sources in plan.pairs.items()
    }
    with ExitStack() as stack:
        client, admin = (stack.enter_context(TestClient(a)) for a in (app, create_admin(service, live)))
        yield Several(client, admin, scenario_pairs, log.path)
    for some in live.values():
        some.close()


PAIRS = ("standard", "shopping", "better")


def test_each_request_is_answered_by_its_model(several: Several) -> None:
    standard = several.scorer("standard")
    answer = post(several.client, {"query": STANDARD, "k": 5})
    assert answer["bundle"] == standard.fingerprint
    assert [ad["id"] for ad in answer["ads"]] == [ad.id for ad in standard.top_k([STANDARD], 5)[0]]
    assert post(several.client, {"query": SHOPPING, "model": "standard"})["bundle"] == standard.fingerprint
    for pair in ("shopping.1", "shopping.2"):
        answer = post(several.client, {"queries": [STANDARD, SHOPPING], "k": 3, "model": pair})
        assert answer["bundle"] == several.scorer(pair).fingerprint
    assert several.rejected(query=QUERY, model="moon") == "model: expected one of 'standard', 'shopping', got 'moon'"
    assert several.rejected(query=STANDARD, model=3).startswith("model: expected str | null, got 3")
    error = several.rejected(query={**QUERY, "scenario": "video"})
    assert error.startswith("query 0: feature 'scenario': expected one of 'standard', 'shopping', which models cover")
    assert error.endswith("got 'video'")


def test_a_canary_has_its_share_which_changes_live(several: Several) -> None:
    def shares() -> Counter[str]:
        queries = [{**SHOPPING, "user": f"u{i}"} for i in range(300)]
        return Counter(post(several.client, {"query": query, "k": 1})["bundle"] for query in queries)

    second = several.scorer("shopping.2").fingerprint
    low, high = binomial_interval(shares()[second], 300)
    assert low <= 0.3 <= high
    status = several.change("/admin/split", weights={"shopping.1": 100, "shopping.2": 0})
    assert status["weights"] == {"shopping.1": 100.0, "shopping.2": 0.0}
    assert second not in shares()
    assert "expected those of shopping.1, shopping.2" in several.refused("/admin/split", weights={"shopping": 1})
    error = several.refused("/admin/split", weights={"standard": 1}, model="standard")
    assert error == "model: expected one of 'shopping', got 'standard'"
    several.change("/admin/split", model="shopping", weights={"shopping.1": 70, "shopping.2": 30})


def test_changes_are_of_one_pair(several: Several) -> None:
    first = post(several.client, {"query": STANDARD, "k": 1})["ads"][0]["id"]
    others = {pair: several.scorer(pair).index_id for pair in ("shopping.1", "shopping.2", "shopping.shadow")}
    names = "'standard', 'shopping.1', 'shopping.2', 'shopping.shadow'"
    assert several.refused("/admin/ads", disable=[first]) == f"model: expected one of {names}, got none"
    assert several.refused("/admin/ads", disable=[first], model="moon").endswith("got 'moon'")
    status = several.change("/admin/ads", disable=[first], model="standard")
    assert (status["model"], status["sequence"], status["changes"]["done"]) == ("standard", 1, 1)
    assert Path(status["journal"]).name == "standard"
    assert len(list(Path(status["journal"]).glob("*/000000000001"))) == 1
    assert {pair: several.scorer(pair).index_id for pair in others} == others
    assert first not in [ad["id"] for ad in post(several.client, {"query": STANDARD, "k": 20})["ads"]]
    assert several.metric('tt_jax_index_sequence{model="standard"}') == 1
    assert several.metric('tt_jax_index_sequence{model="shopping.1"}') == 0
    done = 'tt_jax_changes_total{kind="change",model="%s",outcome="done"}'
    assert [several.metric(done % pair) for pair in ("standard", "shopping.1")] == [1, 0]
    assert error_of(several.admin.get("/admin/status"), 400).endswith("got none")
    assert several.admin.get("/admin/status?model=shopping.1").json()["changes"]["done"] == 0


def test_a_swap_is_of_one_pair_and_must_fit_the_routes(several: Several) -> None:
    better = several.pairs / "better"
    before = several.scorer("standard").fingerprint
    body = {"bundle": str(several.pairs / "shopping" / "bundle"), "index": str(several.pairs / "shopping" / "index")}
    # A model that is named as a scenario is given as one: it may be of any bundle.
    assert several.change("/admin/load", model="standard", **body)["fingerprint"] != before
    back = {"bundle": str(several.pairs / "standard" / "bundle"), "index": str(several.pairs / "standard" / "index")}
    assert several.change("/admin/load", model="standard", **back)["fingerprint"] == before
    status = several.change(
        "/admin/load", model="shopping.1", bundle=str(better / "bundle"), index=str(better / "index")
    )
    assert status["fingerprint"] == several.scorer("shopping.2").fingerprint
    status = several.change("/admin/load", model="shopping.1", **body)
    assert status["loads"]["done"] == 2
    assert several.admin.get("/admin/status?model=shopping.2").json()["loads"]["done"] == 0


def test_memory_is_counted_and_a_load_that_does_not_fit_is_refused(
    several: Several, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for pair in ("standard", "shopping.2"):
        status = several.admin.get(f"/admin/status?model={pair}").json()
        vectors = several.scorer(pair).programs.places * 2 * 8 * 4  # of two tasks, float32
        assert status["memory_bytes"] == several.metric(f'tt_jax_memory_bytes{{model="{pair}"}}') > vectors
    (tmp_path / "meminfo").write_text("MemAvailable: 4 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    body = {"bundle": str(several.pairs / "better" / "bundle"), "index": str(several.pairs / "better" / "index")}
    before = several.scorer("standard")
    error = several.refused("/admin/load", 409, model="standard", **body)
    assert re.search(r"a load takes [0-9.]+ MiB, 3 times the [0-9.]+ MiB of their files; 0\.0 MiB are available", error)
    assert several.scorer("standard") is before


def test_the_shadow_is_compared_and_told(several: Several) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        post(several.client, {"query": SHOPPING, "k": 5})
        state = several.client.get("/console/state?model=shopping").json()
        if state["shadow"]["requests"]["compared"]:
            break
    shadow = state["shadow"]
    assert shadow["pair"] == "shopping.shadow"
    assert 0 <= shadow["overlap"] <= 1
    assert shadow["seconds"] > 0
    assert several.metric('tt_jax_shadow_overlap{model="shopping"}') >= 0
    assert several.metric('tt_jax_shadow_requests_total{model="shopping",outcome="failed"}') == 0
    assert several.client.get("/console/state").json()["shadow"] is None
    assert state["bundles"]["standard"] == several.scorer("standard").fingerprint


def test_what_is_told_of_each_model(several: Several) -> None:
    names = ["standard", "shopping", "shopping.1", "shopping.2", "shopping.shadow"]
    first = several.client.get("/v1/model").json()
    assert (first["model"], first["name"], first["models"]) == ("standard", "told", names)
    second = several.client.get("/v1/model?model=shopping.2").json()
    assert second["bundle"] == several.scorer("shopping.2").fingerprint
    assert several.client.get("/v1/model?model=shopping").json()["model"] == "shopping.1"
    assert "expected one of 'standard', 'shopping', 'shopping.1'" in error_of(
        several.client.get("/v1/model?model=moon"), 400
    )
    gates = several.client.post("/console/gates", content=json.dumps({"query": SHOPPING, "model": "shopping.2"})).json()
    assert gates["bundle"] == second["bundle"]
    assert several.client.get("/console/form?model=shopping").json()["examples"]
    several.metric('tt_jax_feature_missing_total{feature="user",model="shopping.1"}')


def test_the_log_tells_the_model(several: Several) -> None:
    post(several.client, {"query": STANDARD, "k": 1})
    end, found = time.monotonic() + 60, list[str]()
    while "standard" not in found and time.monotonic() < end:
        found = [line.model for _, line in read_log(several.log)]
    assert set(found) <= {"standard", "shopping.1", "shopping.2"}  # the shadow's answers are nobody's
