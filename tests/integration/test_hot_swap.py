"""Pairs of bundle and index that take each other's place under load: no failed request, no mixed answer, no leak."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from serving.admin.app import create_admin
from serving.admin.updates import LiveUpdates
from serving.index.ad_index import index_table
from serving.scorer import Scorer
from serving.scorer_updates import HEADROOM, Sources, load
from serving.service.app import create_app
from tests.support import tiny
from tests.support.service_calls import plain, some_queries
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle

MAX_K, ADS, QUERIES, CLIENTS = 20, 200, some_queries(4, seed=5), 3


@dataclass(frozen=True)
class Pair:
    """A bundle and an index of it, and its answers offline."""

    bundle: Path
    index: Path
    answers: list[list[dict[str, Any]]]

    @property
    def body(self) -> str:
        return json.dumps({"bundle": str(self.bundle), "index": str(self.index)})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, warm_scorer: Scorer) -> dict[tuple[str, str], Pair]:
    """By their names in answers: two models of other weights, one of which with two indexes of other ads."""
    root, made = tmp_path_factory.mktemp("pairs"), {}
    for seed in (0, 1):
        params, tables = tiny.weights(seed)
        golden = tiny.golden_rows(np.random.default_rng(1), 4)
        bundle = root / f"bundle{seed}"
        write_bundle(
            bundle, schema=tiny.SCHEMA, config=tiny.CONFIG, params=params, tables=tables, metrics={},
            golden_rows=golden, platforms=("cpu",),
        )  # fmt: skip
        for ads in range(seed + 1):
            index = root / f"index{seed}{ads}"
            index_table(Bundle.load(bundle), tiny.ads_table(np.random.default_rng(ads), ADS)).save(index)
            scorer = Scorer.load(bundle, index, max_k=MAX_K, warm=False, headroom=HEADROOM, like=warm_scorer)
            answers = [plain(scorer.top_k([query], 5)[0]) for query in QUERIES]
            made[scorer.fingerprint, scorer.index_id] = Pair(bundle, index, answers)
    return made


@dataclass
class Load:
    """Clients that ask all the time and check every answer against that of the pair it names."""

    client: TestClient[Litestar]
    pairs: dict[tuple[str, str], Pair]
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, i: int) -> None:
        while not self.stop.is_set():
            i = (i + 1) % len(QUERIES)
            answer = self.client.post("/v1/rank", content=json.dumps({"query": QUERIES[i], "k": 5}))
            body = answer.json()
            if answer.status_code != 200:
                self.wrong.append(answer.text)
                continue
            pair = body["bundle"], body["index"]
            self.seen[pair] += 1
            if not _same(body["ads"], self.pairs[pair].answers[i]):
                self.wrong.append(body)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self.ask, args=(i,)) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()


def _same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """The ads, and their scores to float32 sums in another order: a batch of several queries is another product."""
    return [ad["id"] for ad in found] == [ad["id"] for ad in expected] and np.allclose(
        [[ad["score"], *ad["probabilities"].values()] for ad in found],
        [[ad["score"], *ad["probabilities"].values()] for ad in expected],
        rtol=1e-5,
    )


def _live_bytes() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.parametrize("swaps", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_swaps_under_load(pairs: dict[tuple[str, str], Pair], warm_scorer: Scorer, swaps: int, tmp_path: Path) -> None:
    order = list(pairs.values())
    app = create_app(load(order[0].bundle, order[0].index, max_k=MAX_K, live=True, like=warm_scorer))
    service = app.state.service
    live = LiveUpdates(service.batcher, service.telemetry, Sources(order[0].bundle, order[0].index), ads=True)
    with TestClient(app) as client, TestClient(create_admin(service, live)) as admin:
        before, sizes, resident = _live_bytes(), [], []
        with Load(client, pairs) as clients:
            for i in range(1, swaps + 1):
                wanted = order[i % len(order)]
                answer = admin.post("/admin/load", content=wanted.body)
                assert answer.status_code == 200, answer.text
                first = client.post("/v1/rank", content=json.dumps({"query": QUERIES[0], "k": 5})).json()
                assert pairs[first["bundle"], first["index"]] is wanted
                if i % 5 == 0:  # between swaps, one that fails
                    bad = json.dumps({"bundle": str(wanted.bundle), "index": str(tmp_path)})
                    assert admin.post("/admin/load", content=bad).status_code == 409
                sizes.append(_live_bytes())
                resident.append(_resident_mb())
        assert not clients.wrong, clients.wrong[:3]
        assert set(clients.seen) == set(pairs)
        assert min(clients.seen.values()) > swaps
        status = admin.get("/admin/status").json()
        assert (status["loads"], status["last_error"] is None) == ({"done": swaps, "failed": swaps // 5}, False)
        assert _live_bytes() <= 1.05 * before, sizes
        assert resident[-1] < resident[swaps // 2 - 1] + 20, resident
    live.close()


def test_reloads_that_wait_for_a_load_become_one(
    pairs: dict[tuple[str, str], Pair], warm_scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = next(iter(pairs.values()))
    sources, begun, over, loads = Sources(pair.bundle, pair.index), threading.Event(), threading.Event(), list[Path]()

    def slow_load(bundle: Path, *_: Any, **__: Any) -> Scorer:
        loads.append(bundle)
        begun.set()
        assert over.wait(60)
        return warm_scorer

    monkeypatch.setattr("serving.admin.updates.load", slow_load)
    service = create_app(warm_scorer).state.service

    async def reload_often() -> None:
        live = LiveUpdates(service.batcher, service.telemetry, sources, ads=False)
        loading = asyncio.create_task(live.load(sources))
        await asyncio.to_thread(begun.wait, 60)
        reloads = [asyncio.create_task(live.reload()) for _ in range(5)]
        await asyncio.sleep(0.05)
        over.set()
        await asyncio.gather(loading, *reloads)
        assert len(loads) == 2
        await live.reload()
        assert len(loads) == 3
        live.close()

    asyncio.run(reload_often())
    service.batcher.close()
