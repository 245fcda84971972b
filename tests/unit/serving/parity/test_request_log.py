"""The log of answered requests: what stands in it, what it costs the event loop, and what may befall its file."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from litestar.testing import TestClient
from prometheus_client import CollectorRegistry

from serving.batching.batcher import Ranked
from serving.batching.request import Work
from serving.parity.request_log import KEPT, WAITING, LogSettings, RequestLog, RequestLogError, read_log
from serving.scorer import ScoredAd, Scorer
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support.service_calls import plain, post, some_queries

ADS = msgspec.json.encode([ScoredAd(7, 0.5, {"click": 0.25}), ScoredAd(3, 0.125, {"click": 0.5})])


def work(n: int = 1) -> tuple[Work, Ranked]:
    return Work([{"age": float(i)} for i in range(n)], 2, None), Ranked([ADS] * n, 2 * n, "b", "i")


def counts(registry: CollectorRegistry) -> dict[str, float]:
    found = {}
    for name in ("written", "dropped", "failed"):
        found[name] = registry.get_sample_value("tt_jax_logged_requests_total", {"result": name})
    return found


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[..., tuple[RequestLog, CollectorRegistry]]]:
    opened = []

    def make(**settings: float) -> tuple[RequestLog, CollectorRegistry]:
        registry = CollectorRegistry()
        log = RequestLog(LogSettings(tmp_path / "log.jsonl", **{"fraction": 1.0, **settings}), registry)  # type: ignore[arg-type]
        opened.append(log)
        return log, registry

    yield make
    for log in opened:
        log.close()


def test_the_service_logs_what_it_was_asked_and_what_it_answered(
    tiny_bundle: Path, tiny_index: Path, tmp_path: Path
) -> None:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    path = tmp_path / "log.jsonl"
    queries = some_queries(3, seed=8)
    with TestClient(create_app(scorer, ServiceConfig(log=LogSettings(path, fraction=1.0)))) as client:
        alone = post(client, {"query": queries[0], "k": 5})
        chosen = [ad["id"] for ad in alone["ads"]][::2]
        listed = post(client, {"queries": queries, "k": 2, "candidates": [chosen, [], chosen[:1]]})
        client.post("/v1/rank", content=b'{"query": {"age": "old"}}')  # no answer, no line
    lines = [logged for _, logged in read_log(path)]
    assert [line.query for line in lines] == [queries[0], *queries]
    assert [line.k for line in lines] == [5, 2, 2, 2]
    assert [line.candidates for line in lines] == [None, chosen, [], chosen[:1]]
    assert [plain(line.ads) for line in lines] == [alone["ads"], *(r["ads"] for r in listed["results"])]
    assert {(line.bundle, line.index) for line in lines} == {(scorer.fingerprint, scorer.index_id)}
    assert all(line.time.endswith("+00:00") for line in lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_log_nothing_is_counted(tiny_bundle: Path, tiny_index: Path) -> None:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    with TestClient(create_app(scorer)) as client:
        assert "logged_requests" not in client.get("/metrics").text


def test_a_fraction_is_drawn(open_log, tmp_path: Path) -> None:
    log, registry = open_log(fraction=0.1)
    log._random.seed(1)
    for _ in range(4000):
        log.offer(*work())
        _until(lambda: log._waiting.qsize() < WAITING)  # so that none is dropped
    log.close()
    drawn = len(list(read_log(tmp_path / "log.jsonl")))
    assert 320 < drawn < 480  # 400, and four standard deviations
    assert counts(registry) == {"written": drawn, "dropped": 0, "failed": 0}


def test_a_slow_disk_drops_and_never_waits(open_log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, registry = open_log()
    slow, writing, write = threading.Event(), threading.Event(), os.write

    def wait(*args):
        writing.set()
        assert slow.wait(60)
        return write(*args)

    monkeypatch.setattr(os, "write", wait)
    log.offer(*work())
    assert writing.wait(60)  # the thread has taken one, and hangs in its write
    for _ in range(WAITING + 10):
        log.offer(*work())
    assert counts(registry)["dropped"] == 10
    slow.set()
    log.close()
    assert counts(registry) == {"written": WAITING + 1, "dropped": 10, "failed": 0}
    assert len(list(read_log(tmp_path / "log.jsonl"))) == WAITING + 1


def test_a_full_disk_leaves_whole_lines_and_is_told_once(
    open_log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, registry = open_log()
    log.offer(*work(2))
    full, write = threading.Event(), os.write

    def half(file: int, data: memoryview) -> int:
        if full.is_set() and len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2] if full.is_set() else data)

    monkeypatch.setattr(os, "write", half)
    _until(lambda: counts(registry)["written"] == 1)
    full.set()
    for _ in range(3):
        log.offer(*work())
    _until(lambda: counts(registry)["failed"] == 3)
    full.clear()
    log.offer(*work())
    log.close()
    assert counts(registry) == {"written": 2, "dropped": 0, "failed": 3}
    assert len(list(read_log(tmp_path / "log.jsonl"))) == 3
    assert [r.getMessage() for r in caplog.records] == [
        f'request_log outcome=failed reason="{tmp_path / "log.jsonl"}: requests cannot be logged: '
        '[Errno 28] No space left on device"'
    ]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_full_file_is_put_aside(open_log, tmp_path: Path) -> None:
    log, _ = open_log(max_bytes=1000)
    for i in range(60):
        log.offer(Work([{"age": float(i)}], 2, None), Ranked([ADS], 2, "b", "i"))
    log.close()
    path = tmp_path / "log.jsonl"
    parts = [path.with_name(f"log.jsonl.{n}") for n in range(KEPT, 0, -1)] + [path]
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    assert all(0 < p.stat().st_size <= 1000 for p in parts)
    ages = [logged.query["age"] for part in parts for _, logged in read_log(part)]
    assert ages == [float(i) for i in range(60 - len(ages), 60)]  # the newest, in order
    assert len(ages) >= 10


def test_what_a_killed_process_left_is_cut_off(open_log, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log, _ = open_log()
    log.offer(*work(3))
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100_000].splitlines()[0][:-5] * 1000)  # longer than what is read at once
    assert len(list(read_log(path))) == 3
    log, _ = open_log()
    log.offer(*work())
    log.close()
    assert path.read_bytes().startswith(whole)
    assert len(list(read_log(path))) == 4
    path.write_bytes(b'{"time"')
    open_log()
    assert path.read_bytes() == b""


def test_what_cannot_be_a_log_is_refused(open_log, tmp_path: Path) -> None:
    open_log()
    path = tmp_path / "log.jsonl"
    with pytest.raises(RequestLogError, match=r"log\.jsonl: another process logs its requests there"):
        RequestLog(LogSettings(path), CollectorRegistry())
    with pytest.raises(OSError, match=r"none/log: requests cannot be logged there: No such file"):
        RequestLog(LogSettings(tmp_path / "none" / "log"), CollectorRegistry())
    for settings, message in (
        ({"fraction": 0.0}, "log-fraction: expected a number above 0 and at most 1, got 0.0"),
        ({"fraction": float("nan")}, "got nan"),
        ({"fraction": 1.5}, "got 1.5"),
        ({"max_bytes": 0}, "log-max-mb"),
    ):
        with pytest.raises(RequestLogError, match=message):
            LogSettings(path, **settings)
