"""The admin listener: who may use it, what it changes while the service goes on, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from serving.admin.app import create_admin
from serving.admin.updates import LiveUpdates
from serving.index.ad_index import AdIndex
from serving.index.delta import Base, make_delta
from serving.scorer import Scorer
from serving.scorer_updates import Sources, load
from serving.scoring.programs import Programs
from serving.service.app import create_app
from tests.support import tiny
from tests.support.service_calls import error_of, post, some_queries
from tt_jax.bundle.reader import Bundle

MAX_K = 20
QUERY = some_queries(1)[0]
Client = TestClient[Litestar]


@dataclasses.dataclass(frozen=True)
class Both:
    """Clients of a service and of its admin listener."""

    service: Client
    admin: Client

    def change(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.admin.post(path, content=json.dumps(body))
        assert answer.status_code == 200, answer.text
        assert answer.json() == {**self.status(), "age_seconds": answer.json()["age_seconds"]} | _recent(answer.json())
        return answer.json()

    def refused(self, path: str, body: Any, code: int) -> str:
        """The error of what changes nothing."""
        before, ranked = self.status(), post(self.service, {"query": QUERY})
        error = error_of(self.admin.post(path, content=body if isinstance(body, bytes) else json.dumps(body)), code)
        after = self.status()
        changing = ("age_seconds", "last_error", "last_error_seconds", "loads", "changes")
        assert {k: v for k, v in before.items() if k not in changing} == {
            k: v for k, v in after.items() if k not in changing
        }
        assert post(self.service, {"query": QUERY}) == ranked
        return error

    def status(self) -> dict[str, Any]:
        return self.admin.get("/admin/status").json()

    def metric(self, name: str) -> float:
        text = self.admin.get("/metrics").text
        assert text.splitlines() != []
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(value)


def _recent(status: dict[str, Any]) -> dict[str, Any]:
    return {"last_error_seconds": status["last_error_seconds"]}


@contextmanager
def compiled_by_jax() -> Iterator[list[str]]:
    """What JAX compiled."""
    found: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: found.append(text) if "Compiling" in (text := record.getMessage()) else None
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


@pytest.fixture(scope="module")
def both(tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer) -> Iterator[Both]:
    """One service for all tests of this file: none may rely on what it serves."""
    sources = Sources(tiny_bundle, tiny_index)
    app = create_app(load(tiny_bundle, tiny_index, max_k=MAX_K, live=True, like=warm_scorer))
    service = app.state.service
    live = LiveUpdates(service.batcher, service.telemetry, sources, ads=True)
    with TestClient(app) as client, TestClient(create_admin(service, live)) as admin:
        yield Both(client, admin)
    live.close()


@pytest.fixture
def fresh(both: Both, tiny_bundle: Path, tiny_index: Path) -> Both:
    """With the tiny pair loaded anew."""
    both.change("/admin/load", {"bundle": str(tiny_bundle), "index": str(tiny_index)})
    return both


def test_it_is_not_on_the_listener_of_the_service(both: Both) -> None:
    for path in ("/admin/status", "/admin/load"):
        assert both.service.get(path).status_code == 404


def test_changed_ads_are_in_the_next_answer(fresh: Both) -> None:
    ads = post(fresh.service, {"query": QUERY, "k": 10})["ads"]
    first, second, third, *rest = [ad["id"] for ad in ads]
    row = tiny.rows(tiny.ad_columns(np.random.default_rng(9), 1, [123_456]))[0]
    before = fresh.status()
    status = fresh.change(
        "/admin/ads",
        {
            "disable": [first],
            "remove": [second],
            "rebid": [[third, 1e6]],
            "upsert": [{**row, "bid": 1e9, "eligible": True}],
        },
    )
    answer = post(fresh.service, {"query": QUERY, "k": 10})
    assert [ad["id"] for ad in answer["ads"]][:9] == [123_456, third, *rest]
    assert answer["index"] == status["version"] == fresh.service.get("/v1/model").json()["index"]
    assert answer["index"].startswith(f"{before['index_id']}+1.{status['chain'][:16]}")
    assert (status["ads"], status["eligible_ads"]) == (before["ads"], before["eligible_ads"] - 1)
    assert status["changes"]["done"] == before["changes"]["done"] + 1
    assert "unknown ad ids" in error_of(
        fresh.service.post("/v1/rank", content=json.dumps({"query": QUERY, "candidates": [second]})), 400
    )
    expected = {
        'tt_jax_index_sequence{model="tiny"}': 1,
        'tt_jax_index_ads{model="tiny"}': status["ads"],
        'tt_jax_index_eligible_ads{model="tiny"}': status["eligible_ads"],
        'tt_jax_changes_total{kind="change",model="tiny",outcome="done"}': status["changes"]["done"],
    }
    assert {name: fresh.metric(name) for name in expected} == expected
    assert 0 <= fresh.metric('tt_jax_index_age_seconds{model="tiny"}') < 100
    enabled = fresh.change("/admin/ads", {"enable": [first]})
    assert enabled["sequence"] == 2
    assert first in [ad["id"] for ad in post(fresh.service, {"query": QUERY, "k": 10})["ads"]]


def test_deltas_one_after_the_other(fresh: Both, tiny_bundle: Path, tiny_index: Path, tmp_path: Path) -> None:
    bundle, rng = Bundle.load(tiny_bundle), np.random.default_rng(4)
    base: Path = tiny_index
    for name in ("1", "2"):
        make_delta(bundle, Base.read(base), tiny.ads_table(rng, 5)).save(base := tmp_path / name)
    error = fresh.refused("/admin/delta", {"delta": str(tmp_path / "2")}, 409)
    assert f"{tmp_path / '2'}: out of sequence" in error
    for sequence in (1, 2):
        status = fresh.change("/admin/delta", {"delta": str(tmp_path / str(sequence))})
        assert (status["sequence"], status["last_error"]) == (sequence, f"change: {error}")
        assert post(fresh.service, {"query": QUERY})["index"] == status["version"]
    assert "expected delta 3, got 2" in fresh.refused("/admin/delta", {"delta": str(tmp_path / "2")}, 409)
    changed = tmp_path / "2" / "bids.npy"
    changed.write_bytes(changed.read_bytes()[:-1])
    assert "bids.npy" in fresh.refused("/admin/delta", {"delta": str(tmp_path / "2")}, 409)
    assert "expected a directory" in fresh.refused("/admin/delta", {"delta": str(tmp_path / "3")}, 409)
    assert "unknown key" in fresh.refused("/admin/delta", {"delt": "x"}, 400)
    # All of them, applied while the pair is loaded.
    make_delta(bundle, Base.read(tiny_index), tiny.ads_table(rng, 5)).save(tmp_path / "all" / "1")
    body = {"bundle": str(tiny_bundle), "index": str(tiny_index), "deltas": str(tmp_path / "all")}
    assert fresh.change("/admin/load", body)["sequence"] == 1


def test_what_cannot_be_loaded_changes_nothing_and_says_why(
    both: Both, tiny_bundle: Path, tiny_index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = AdIndex.load(tiny_index)
    dataclasses.replace(index, fingerprint="f" * 64).save(tmp_path / "other")
    index.save(tmp_path / "damaged")
    (tmp_path / "damaged" / "valid.npy").write_bytes(b"x")
    failed = both.status()["loads"]["failed"]
    bodies = (
        ({"bundle": str(tmp_path), "index": str(tiny_index)}, "expected a directory with a manifest"),
        ({"bundle": str(tiny_bundle), "index": str(tmp_path / "other")}, "f" * 64),
        ({"bundle": str(tiny_bundle), "index": str(tmp_path / "damaged")}, "valid.npy"),
        ({"bundle": str(tiny_index), "index": str(tiny_bundle)}, "manifest"),
    )
    for body, message in bodies:
        error = both.refused("/admin/load", body, 409)
        assert message in error
        assert "goes on" in error
        assert message in caplog.text
        assert message in both.status()["last_error"]
    assert both.status()["loads"]["failed"] == failed + len(bodies)
    assert both.metric('tt_jax_changes_total{kind="load",model="tiny",outcome="failed"}') == failed + len(bodies)
    assert 0 <= both.metric('tt_jax_last_error_age_seconds{model="tiny"}') < 100
    for body, code, message in (
        (b"", 400, "empty body"),
        (b'{"bundle": 3}', 400, "bundle: expected str"),
        ({"bundle": "b"}, 400, "index"),
        ({"bundle": "b", "index": "i", "indx": "i"}, 400, "'index'"),
    ):
        assert message in both.refused("/admin/load", body, code)
    for method, path, code in (("GET", "/admin/loads", 404), ("GET", "/admin/load", 405)):
        error_of(both.admin.request(method, path), code)


def test_random_bodies_never_crash_it(both: Both) -> None:
    rng, ranked = np.random.default_rng(3), post(both.service, {"query": QUERY})
    ids = [ad["id"] for ad in ranked["ads"]]
    row = tiny.rows(tiny.ad_columns(rng, 1, [77]))[0] | {"bid": 1.0, "eligible": True}
    seeds = [
        json.dumps(body).encode() for body in ({"upsert": [row, row]}, {"rebid": [[ids[0], 2.0]], "remove": [0.5]})
    ]
    deep = (b"[" * n + b"1" + b"]" * n for n in (400, 900, 970, 20_000))
    seeds += [b'{"upsert": [{"ad_id": 7, "bid": 1, "eligible": true, "advertiser": %s}]}' % value for value in deep]
    for i in range(240):
        body = bytearray(seeds[i % len(seeds)])
        for _ in range(i // 60):
            at = int(rng.integers(len(body)))
            body[at : at + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
        error_of(both.admin.post("/admin/ads", content=bytes(body)), 400)
    assert post(both.service, {"query": QUERY}) == ranked
    error_of(both.admin.post("/admin/delta", content=json.dumps({"delta": "x" * 5000})), 409)


def test_a_service_that_drains_is_not_changed(both: Both) -> None:
    both.service.app.state.service.ready = False
    try:
        assert "draining" in both.refused("/admin/ads", {"disable": [1]}, 503)
        assert both.status()["ready"] is False
    finally:
        both.service.app.state.service.ready = True


def test_more_ads_than_places(fresh: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for more of them before they come. The last user of `fresh`: another load would have to compile too."""
    programs = fresh.service.app.state.service.batcher.scorer.programs
    places, ads = fresh.status()["places"], fresh.status()["ads"]
    assert not programs.nearly_full(ads)
    assert programs._larger == {}
    most = next(n for n in range(ads, places) if programs.nearly_full(n)) - 1  # that need no more yet
    assert (places - most - 1) / (places - ads) == pytest.approx(0.25, abs=0.02)

    def upsert(first: int, n: int) -> dict[str, Any]:
        rows = tiny.rows(
            tiny.ad_columns(np.random.default_rng(first), n, list(range(10**6 + first, 10**6 + first + n)))
        )
        return {"upsert": [{**row, "bid": 1e6 + i, "eligible": True} for i, row in enumerate(rows)]}

    fresh.change("/admin/ads", upsert(0, most - ads))
    assert programs._larger == {}
    fresh.change("/admin/ads", upsert(most - ads, 1))
    end = time.monotonic() + 100
    while not programs._larger:
        assert time.monotonic() < end
        time.sleep(0.01)
    with monkeypatch.context() as patch, jax.log_compiles(), compiled_by_jax() as compiled:
        patch.setattr(Programs, "_lower", None)
        status = fresh.change("/admin/ads", upsert(most - ads + 1, places - most))
        answer = post(fresh.service, {"query": QUERY, "k": MAX_K})
        assert len(post(fresh.service, {"query": QUERY, "candidates": [10**6]})["ads"]) == 1
        found = list(compiled)
        jax.jit(lambda x: 3 * x + 0.125)(np.float32(1))
    assert (found, len(compiled) > 0) == ([], True)
    assert (status["places"] > places, status["ads"]) == (True, places + 1)
    assert {ad["id"] for ad in answer["ads"]} <= set(range(10**6, 10**6 + places + 1 - ads))
    scorer = fresh.service.app.state.service.batcher.scorer
    assert not scorer.programs.nearly_full(scorer.index_size)
