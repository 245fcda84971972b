"""Changes of ads that last: they are there after a restart, whenever the process was killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from litestar.testing import TestClient

from serving import journal as journal_module
from serving.access import Tokens
from serving.admin import create_admin
from serving.changes import IndexVersion
from serving.changing import Change, load
from serving.delta import Base, Delta, DeltaError, make_delta
from serving.index import AdIndex, build_index
from serving.live import Live, Sources
from serving.scorer import Scorer
from serving.service import create_app
from tests import tiny
from tests.service_calls import error_of, post, some_queries
from tests.serving_process import ServingProcess
from tt_jax import publish
from tt_jax.bundle import Bundle

MAX_K = 20
TOKEN = "a-token-of-the-tests"
QUERY = some_queries(1)[0]
Post = Callable[[str, dict[str, Any]], httpx.Response]


@contextmanager
def serving(sources: Sources, like: Scorer) -> Iterator[tuple[Any, Post]]:
    """A client of a service of these, and what posts to its admin listener."""
    scorer = load(sources.bundle, sources.index, sources.deltas, sources.journal, max_k=MAX_K, live=True, like=like)
    app = create_app(scorer)
    live = Live(app.state.service.batcher, app.state.service.telemetry, sources, ads=True)
    with TestClient(app) as client, TestClient(create_admin(app.state.service, live, Tokens.of(TOKEN))) as admin:
        admin.headers["authorization"] = f"Bearer {TOKEN}"
        yield client, lambda path, body: admin.post(path, content=json.dumps(body))
    live.close()


def changed(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()


def some_ids(index: Path) -> list[int]:
    return [int(ad) for ad in AdIndex.load(index).ids]


def test_what_was_answered_is_there_after_a_restart(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    """Deltas, then the journal, which has a delta that came by the admin listener too; then both anew."""
    bundle, rng, ids = Bundle.load(tiny_bundle), np.random.default_rng(1), some_ids(tiny_index)
    deltas, journal = tmp_path / "deltas", tmp_path / "of" / "journal"
    make_delta(bundle, Base.read(tiny_index), tiny.ads_table(rng, 4)).save(deltas / "1")
    make_delta(bundle, Base.read(deltas / "1"), tiny.ads_table(rng, 4)).save(tmp_path / "2")
    sources = Sources(tiny_bundle, tiny_index, deltas, journal)
    row = tiny.rows(tiny.ad_columns(rng, 1, [123_456]))[0] | {"bid": 1e9, "eligible": True}
    with serving(sources, warm_scorer) as (client, admin):
        assert changed(admin("/admin/delta", {"delta": str(tmp_path / "2")}))["sequence"] == 2
        assert changed(admin("/admin/ads", {"upsert": [row], "remove": ids[:1]}))["sequence"] == 3
        error_of(admin("/admin/ads", {"disable": [77_777_777]}), 400)  # is not kept
        status = changed(admin("/admin/ads", {"rebid": [[ids[5], 7.0]], "disable": ids[6:9]}))
        answer = post(client, {"query": QUERY, "k": MAX_K})
        assert status["journal"] == str(journal)
    assert sorted(path.name for path in journal.iterdir()) == [f"{i:012}" for i in (2, 3, 4)]
    (tmp_path / "2").rename(deltas / "2")  # known twice from now on
    (journal / ".000000000005.partial").mkdir()  # what a killed process leaves
    with serving(sources, warm_scorer) as (client, admin):
        assert post(client, {"query": QUERY, "k": MAX_K}) == answer
        again = changed(
            admin("/admin/load", {name: str(getattr(sources, name)) for name in ("bundle", "index", "deltas")})
        )
        assert (again["version"], again["journal"]) == (status["version"], status["journal"])  # loaded, not lost
        assert post(client, {"query": QUERY, "k": MAX_K}) == answer
        assert changed(admin("/admin/ads", {"enable": ids[6:7]}))["sequence"] == 5
    assert [d.after.sequence for d in Delta.load_all(journal)] == [2, 3, 4, 5]


def test_a_journal_of_another_index_is_refused_by_name(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    ids, other = some_ids(tiny_index), tmp_path / "other"
    index = AdIndex.load(tiny_index)
    build_index(Bundle.load(tiny_bundle), tiny.ads_table(np.random.default_rng(3), 200)).save(other)
    sources = Sources(tiny_bundle, tiny_index, journal=tmp_path / "journal")
    pair = {"bundle": str(tiny_bundle), "index": str(other)}
    with serving(sources, warm_scorer) as (client, admin):
        before = changed(admin("/admin/ads", {"disable": ids[:2]}))
        error = error_of(admin("/admin/load", pair), 409)
        assert f"{tmp_path / 'journal' / '000000000001'}: a delta of the index {index.index_id}, not of" in error
        assert post(client, {"query": QUERY})["index"] == before["version"]
        (tmp_path / "link").symlink_to(tmp_path / "next")
        after = changed(admin("/admin/load", pair | {"journal": str(tmp_path / "link")}))
        (tmp_path / "link").unlink()  # leads elsewhere: not the journal of what is served
        (tmp_path / "link").symlink_to(tmp_path / "journal")
        assert after["sequence"] == 0
        assert changed(admin("/admin/ads", {"disable": some_ids(other)[:2]}))["journal"] == str(tmp_path / "next")
    with pytest.raises(
        DeltaError, match=f"a delta of the index {index.index_id}, not of {AdIndex.load(other).index_id}"
    ):
        load(tiny_bundle, other, None, sources.journal, max_k=MAX_K, warm=False)
    (tmp_path / "journal" / "000000000001").rename(tmp_path / "journal" / "000000000002")
    assert load(tiny_bundle, tiny_index, None, sources.journal, max_k=MAX_K, warm=False).index_id == before["version"]
    (tmp_path / "next" / "000000000001" / "removed.npy").write_bytes(b"x")
    with pytest.raises(DeltaError, match=r"removed\.npy"):
        load(tiny_bundle, other, None, tmp_path / "next", max_k=MAX_K, warm=False)


def test_a_change_that_is_not_made_is_not_kept(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither if it cannot be written, nor if it is written and cannot be made; the next one finds its place free."""
    ids, sources = some_ids(tiny_index), Sources(tiny_bundle, tiny_index, journal=tmp_path)

    def fail(*_: Any) -> None:
        raise OSError("no space")

    def renamed_only(path: Path) -> None:  # the directory of the journal cannot be synced
        if path == tmp_path:
            raise OSError("no space")

    with serving(sources, warm_scorer) as (client, admin):
        ranked = post(client, {"query": QUERY})
        for where, name, what, code in (
            (publish, "sync", fail, 409),
            (publish, "sync", renamed_only, 409),
            (Change, "apply", fail, 409),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(where, name, what)
                assert error_of(admin("/admin/ads", {"disable": ids[:2]}), code) == "no space"
            assert list(tmp_path.iterdir()) == []
            assert post(client, {"query": QUERY}) == ranked
        assert changed(admin("/admin/ads", {"disable": ids[:2]}))["sequence"] == 1
        (tmp_path / "000000000002").mkdir()
        assert "000000000002: there is such a record" in error_of(admin("/admin/ads", {"enable": ids[:2]}), 409)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal_module.read_journal(tmp_path, ())
    assert journal_module.read_journal(tmp_path, ()) == []  # this one, again
    code = """
        import sys
        from pathlib import Path
        from serving.journal import read_journal
        try:
            read_journal(Path(sys.argv[1]), ())
        except ValueError as e:
            print(e)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=dict(os.environ))
    assert run.stdout == f"{tmp_path}: another process has this journal\n", run.stderr


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_again_and_again_nothing_answered_is_lost(
    tiny_bundle: Path, tiny_index: Path, kills: int, tmp_path: Path
) -> None:
    """A client changes ads without a pause; the process dies by SIGKILL at a random moment, and is started again."""
    (tmp_path / "token").write_text(TOKEN)
    journal, rng = tmp_path / "journal", np.random.default_rng(kills)
    flags = [f"--journal={journal}", "--admin-port=0", f"--admin-token-file={tmp_path / 'token'}", f"--max-k={MAX_K}"]
    ids, answered = some_ids(tiny_index), dict[int, str]()

    def change(url: str) -> None:
        headers, dead = {"authorization": f"Bearer {TOKEN}"}, contextlib.suppress(httpx.TransportError)
        with dead, httpx.Client(base_url=url, headers=headers, timeout=60) as admin:
            while True:
                body = {"rebid": [[int(rng.choice(ids)), float(rng.exponential())]]}
                status = changed(admin.post("/admin/ads", content=json.dumps(body)))
                answered[status["sequence"]] = status["version"]

    for kill in range(kills + 1):
        server = ServingProcess(tiny_bundle, tiny_index, *flags, first="admin")
        try:
            serves = httpx.get(f"{server.url}/v1/model", timeout=60).json()["index"]
            versions = _versions(tiny_index, journal)
            assert serves == versions[-1]
            # The one that was being made may be there, as it may not.
            assert len(versions) - 1 - max(answered, default=0) in (0, 1)
            assert {sequence: versions[sequence] for sequence in answered} == answered
            if kill == kills:
                assert len(answered) > 10 * kills
                return
            before = len(answered)
            changing = threading.Thread(target=change, args=(server.before["admin"],))
            changing.start()
            end = time.monotonic() + 60
            while len(answered) < before + 15:
                assert changing.is_alive()
                assert time.monotonic() < end
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
        finally:
            server.kill()
        changing.join()


def _versions(index: Path, journal: Path) -> list[str]:
    """Of the index, and those that the records lead to."""
    records = Delta.load_all(journal)
    return [str(v) for v in (IndexVersion.of(AdIndex.load(index).index_id), *(delta.after for delta in records))]
