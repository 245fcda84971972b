"""Changes of ads that last: they are there after a restart, whenever the process was killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.index.ad_index import AdIndex
from serving.index.delta import Base, Delta, make_delta
from serving.index.journal import Records, read_journal
from serving.scorer import Scorer
from serving.scorer_updates import PreparedChange, Sources
from tests.support import tiny
from tests.support.journal_service import MAX_K, QUERY, TOKEN, changed, serving, some_ids, versions_in
from tests.support.paths import ROOT
from tests.support.service_calls import error_of, post
from tests.support.serving_process import ServingProcess
from tt_jax.bundle.reader import Bundle
from tt_jax.io import publish

pytestmark = pytest.mark.process


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
    folder = journal / status["index_id"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:012}" for i in (2, 3, 4)]
    (tmp_path / "2").rename(deltas / "2")  # known twice from now on
    (folder / ".000000000005.partial").mkdir()  # what a killed process leaves
    with serving(sources, warm_scorer) as (client, admin):
        assert post(client, {"query": QUERY, "k": MAX_K}) == answer
        again = changed(
            admin("/admin/load", {name: str(getattr(sources, name)) for name in ("bundle", "index", "deltas")})
        )
        assert (again["version"], again["journal"]) == (status["version"], status["journal"])  # loaded, not lost
        assert post(client, {"query": QUERY, "k": MAX_K}) == answer
        assert changed(admin("/admin/ads", {"enable": ids[6:7]}))["sequence"] == 5
    assert [d.after.sequence for d in Delta.load_all(folder)] == [2, 3, 4, 5]


def test_a_change_that_is_not_made_is_not_kept(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither if it cannot be written, nor if it is written and cannot be made; the next one finds its place free."""
    ids, sources = some_ids(tiny_index), Sources(tiny_bundle, tiny_index, journal=tmp_path)
    folder = tmp_path / AdIndex.load(tiny_index).index_id

    def fail(*_: Any) -> None:
        raise OSError("no space")

    def renamed_only(path: Path) -> None:  # the directory of the journal cannot be synced
        if path == folder:
            raise OSError("no space")

    with serving(sources, warm_scorer) as (client, admin):
        ranked = post(client, {"query": QUERY})
        for where, name, what, code in (
            (publish, "sync", fail, 409),
            (publish, "sync", renamed_only, 409),
            (PreparedChange, "apply", fail, 409),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(where, name, what)
                assert error_of(admin("/admin/ads", {"disable": ids[:2]}), code) == "no space"
            assert list(folder.iterdir()) == []
            assert post(client, {"query": QUERY}) == ranked
        assert changed(admin("/admin/ads", {"disable": ids[:2]}))["sequence"] == 1
        (folder / "000000000002").mkdir()
        assert "000000000002: there is such a record" in error_of(admin("/admin/ads", {"enable": ids[:2]}), 409)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    read_journal(tmp_path, "0" * 64)
    assert read_journal(tmp_path, "0" * 64) == Records(None, [])  # this one, again
    code = """
        import sys
        from pathlib import Path
        from serving.index.journal import read_journal
        try:
            read_journal(Path(sys.argv[1]), "0" * 64)
        except ValueError as e:
            print(e)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert run.stdout == f"{tmp_path}: another process has this journal\n", run.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "place", ["serving.index.delta.save_changes", "serving.index.delta.write_manifest", "os.fsync"]
)
def test_a_full_disk_is_told_with_its_path_and_changes_nothing(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, place: str, number: int,
) -> None:  # fmt: skip
    sources, ids = Sources(tiny_bundle, tiny_index, None, tmp_path / "journal"), some_ids(tiny_index)

    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))  # without a name, as that of a write

    with serving(sources, warm_scorer) as (_, admin):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            told = error_of(admin("/admin/ads", {"disable": ids[:1]}), 409)
        assert str(tmp_path / "journal") in told
        assert os.strerror(number) in told
        assert str(tmp_path / "journal") in caplog.text
        assert changed(admin("/admin/ads", {"disable": ids[:1]}))["sequence"] == 1


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
        versions = versions_in(journal, AdIndex.load(tiny_index).index_id)
        server = ServingProcess(tiny_bundle, tiny_index, *flags, first="admin")
        try:
            serves = httpx.get(f"{server.url}/v1/model", timeout=60).json()["index"]
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
