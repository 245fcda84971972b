"""Many sets of changes as one: the ads are where and what they were, however often, and whenever it is killed."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.admin.journal_upkeep import COMPACTED_AFTER, compact_if_long
from serving.index.ad_index import AdIndex, now
from serving.index.ad_table import AdTable
from serving.index.change_set import SAME, AdUpdates, ChangeError, ChangeSet, IndexVersion, as_ids
from serving.index.compaction import Compacted, compact
from serving.index.delta import Delta, DeltaError
from serving.index.journal import compact_records, read_journal, record
from serving.scorer import Scorer
from serving.scorer_updates import Sources, load
from tests.support.damage import damages
from tests.support.journal_service import MAX_K, QUERY, changed, serving, some_ids, versions_in
from tests.support.paths import ROOT
from tests.support.service_calls import post

SHAPE = (2, 3)  # T, D


class World:
    """An index of 30 ads and random sets of changes of it: `ads` and `vectors` are as after them, one by one."""

    def __init__(self, kind: type, seed: int) -> None:
        self.rng, self.kind, self.made = np.random.default_rng(seed), kind, 30
        ids = as_ids([kind(i) for i in range(30)], "string" if kind is str else "int")
        vectors = self.rng.normal(size=(30, *SHAPE)).astype(np.float32)
        bids, valid = self.rng.random(30, np.float32), self.rng.random(30) < 0.5
        self.index = AdIndex(vectors, ids, bids, valid, "f" * 64, f"{seed:064x}", now())
        self.ads, self.vectors = AdTable.of(self.index), vectors.copy()
        self.deltas: list[Delta] = []

    def change(self) -> Delta:
        """New ads, replaced ones, ads that come back, updates, removals; some of each, perhaps none."""
        rng, dtype = self.rng, self.index.ids
        known = [self.ads.ids.at(np.array([p]))[0] for p in np.flatnonzero(self.ads.ids.used)]
        some = [known[i] for i in rng.permutation(len(known))]
        n = rng.integers(0, 4, 3)
        new = [self.kind(self.made + i) for i in range(n[0])] + [
            ad for ad in map(self.kind, range(8)) if ad not in known
        ]
        self.made += int(n[0])
        put, marked = [*new[: n[0] + 1], *some[: n[1]]], some[n[1] : n[1] + n[2] + 2]
        m = len(marked)
        removed = rng.random(m) < 0.3
        updates = AdUpdates(
            _like(dtype, marked),
            np.where(rng.random(m) < 0.5, np.nan, rng.random(m)).astype(np.float32),
            rng.choice([SAME, 0, 1], m).astype(np.int8),
            removed,
        )
        vectors = rng.normal(size=(len(put), *SHAPE)).astype(np.float32)
        bids, valid = rng.random(len(put), np.float32), rng.random(len(put)) < 0.5
        changes = ChangeSet(vectors, _like(dtype, put), bids, valid, updates)
        self.deltas.append(delta := Delta(changes, "f" * 64, self.ads.version, now()))
        self.ads, update = self.ads.changed(changes, delta.created)
        self.vectors = _updated(self.vectors, update, len(self.ads.bids))
        return delta


def _like(ids: Any, values: list[Any]) -> Any:
    return as_ids(values, "string" if isinstance(ids, list) else "int")


def _updated(vectors: np.ndarray, update: Any, places: int) -> np.ndarray:
    vectors = np.pad(vectors, ((0, max(0, places - len(vectors))), (0, 0), (0, 0)))
    vectors[update.put] = update.vectors
    return vectors


def _assert_same(world: World, ads: AdTable, vectors: np.ndarray, update: Any) -> None:
    used = np.flatnonzero(world.ads.ids.used)
    assert np.flatnonzero(ads.ids.used).tolist() == used.tolist()
    ids = world.ads.ids.at(used)
    assert ads.ids.at(used) == ids
    assert ads.ids.find(ids).tolist() == used.tolist()
    assert (ads.ids.find([world.kind(i) for i in range(world.made) if world.kind(i) not in ids]) == -1).all()
    assert ads.ids.free(3).tolist() == world.ads.ids.free(3).tolist()
    np.testing.assert_array_equal(ads.bids[used], world.ads.bids[used])
    size = min(len(ads.valid), len(world.ads.valid))
    np.testing.assert_array_equal(ads.valid[:size], world.ads.valid[:size])
    assert not ads.valid[size:].any()
    np.testing.assert_array_equal(vectors[used], world.vectors[used])
    assert (ads.version, ads.created) == (world.ads.version, world.ads.created)
    arrays = np.zeros(len(ads.bids), bool)  # what the device has: the index as built, then the update
    arrays[: len(world.index.valid)] = world.index.valid
    arrays[update.marked] = update.valid
    np.testing.assert_array_equal(arrays, ads.valid)


@pytest.mark.parametrize("kind", [int, str])
@pytest.mark.parametrize("seed", range(8))
def test_the_net_of_changes_is_what_they_do_one_by_one(kind: type, seed: int, tmp_path: Path) -> None:
    """Compacted now and then, each time from what was compacted before; ids, places, bids, vectors to the bit."""
    world, before, after = World(kind, seed), None, list[Delta]()
    for i in range(30):
        after.append(world.change())
        if i % 7 == seed % 7:
            made = compact(before, after[::-1], world.ads)
            made.save(tmp_path / str(i))
            before, after = Compacted.load(tmp_path / str(i)), []
            assert before.version == world.ads.version
            assert [before.passes(delta.after) for delta in world.deltas] == [True] * len(world.deltas)
            assert not before.passes(dataclasses.replace(world.ads.version, chain="0" * 64))
            base = AdTable.of(world.index)
            ads, update = base.restored(before.changes, before.places, before.version, before.created)
            _assert_same(world, ads, _updated(world.index.vectors, update, len(ads.bids)), update)
    with pytest.raises(DeltaError, match=r"the set of changes that leads to .* is missing"):
        compact(before, world.deltas[-2:-1], world.change() and world.ads)
    assert before is not None
    wrong = dataclasses.replace(before, places=before.places[::-1] * 0)
    wrong.save(tmp_path / "wrong")
    with pytest.raises(DeltaError, match="wrong: places: expected"):
        Compacted.load(tmp_path / "wrong")


def test_a_damaged_one_is_refused_by_name(tmp_path: Path) -> None:
    world = World(int, 1)
    compact(None, [world.change(), world.change()], world.ads).save(tmp_path / "whole")
    for path in sorted((tmp_path / "whole").iterdir()):
        for _ in damages(path, world.rng):
            with pytest.raises(DeltaError, match=str(tmp_path / "whole")):
                Compacted.load(tmp_path / "whole")
    other = AdTable.of(World(int, 2).index)
    found = Compacted.load(tmp_path / "whole")
    unknown = dataclasses.replace(found.changes.updates, ids=found.changes.updates.ids + 10**6)  # pyright: ignore
    with pytest.raises(ChangeError, match="unknown ad ids: 1000"):
        other.restored(dataclasses.replace(found.changes, updates=unknown), found.places, found.version, found.created)


def test_a_start_reads_one_record_and_answers_as_before(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes with a compaction every few of them in the background, then a start: same version, same answers."""
    monkeypatch.setattr("serving.admin.journal_upkeep.COMPACTED_AFTER", 5)
    sources, rng = Sources(tiny_bundle, tiny_index, journal=tmp_path), np.random.default_rng(0)
    ids, folder = some_ids(tiny_index), tmp_path / AdIndex.load(tiny_index).index_id
    with serving(sources, warm_scorer) as (client, admin):
        ranked = [ad["id"] for ad in post(client, {"query": QUERY, "k": MAX_K})["ads"]]
        status = changed(admin("/admin/ads", {"enable": ids[20:21]}))
        for i in range(22):
            best = ranked[i % 10]
            body = {"rebid": [[best, float(rng.exponential())]], ("disable", "enable")[i % 2]: [ids[i // 2]]}
            status = changed(admin("/admin/ads", body))
        answer = post(client, {"query": QUERY, "k": MAX_K})
        _until(lambda: len([p for p in folder.iterdir() if p.name.isdigit()]) < 5)
    versions = versions_in(tmp_path, status["index_id"])
    assert (len(versions), versions[-1]) == (24, status["version"])
    monkeypatch.setattr("serving.admin.journal_upkeep.COMPACTED_AFTER", 1)
    with serving(sources, warm_scorer) as (client, admin):
        _until(lambda: [path.name for path in folder.iterdir()] == ["compacted-000000000023"])  # by the start alone
        assert post(client, {"query": QUERY, "k": MAX_K}) == answer
        assert changed(admin("/admin/ads", {"enable": ids[:1]}))["sequence"] == 24
    assert versions_in(tmp_path, status["index_id"])[:24] == versions


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies leaves what it wrote to the system: waiting for the disk would only take minutes here."""
    monkeypatch.setattr("tt_jax.io.publish.sync", lambda _: None)
    monkeypatch.setattr("serving.index.journal.sync", lambda _: None)


def _until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _journal(world: World, directory: Path, sets: int) -> Path:
    read_journal(directory, world.index.index_id)
    for _ in range(sets):
        record(directory, world.change())
    return directory / world.index.index_id


def _state(directory: Path, world: World) -> tuple[IndexVersion, list[Any], list[float]]:
    """What a start would serve of the journal."""
    found = read_journal(directory, world.index.index_id)
    ads = AdTable.of(world.index)
    if (made := found.compacted) is not None:
        ads, _ = ads.restored(made.changes, made.places, made.version, made.created)
    for delta in found.deltas:
        assert delta.before == ads.version
        ads, _ = ads.changed(delta.changes, delta.created)
    used = np.flatnonzero(ads.ids.used)
    return ads.version, ads.ids.at(used), ads.bids[used].tolist()


def test_a_compaction_that_fails_is_told_and_leaves_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For a full disk, or a record that is damaged; the next one does what is left."""
    monkeypatch.setattr("serving.admin.journal_upkeep.COMPACTED_AFTER", 3)
    world = World(int, 4)
    folder = _journal(world, tmp_path, 4)
    expected, names = _state(tmp_path, world), sorted(path.name for path in folder.iterdir())
    (folder / names[1] / "bids.npy").rename(tmp_path / "bids.npy")
    compact_if_long(tmp_path, None, world.ads)
    (tmp_path / "bids.npy").rename(folder / names[1] / "bids.npy")
    with monkeypatch.context() as patch:
        patch.setattr("serving.index.compaction.save_changes", lambda *_: _full())
        compact_if_long(tmp_path, None, world.ads)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "bids.npy: missing; the records stay" in caplog.messages[0]
    assert "No space left on device" in caplog.messages[1]
    assert "the records stay, and a start replays each" in caplog.messages[1]
    assert sorted(path.name for path in folder.iterdir()) == names
    compact_if_long(tmp_path, None, world.ads)
    assert [path.name for path in folder.iterdir()] == ["compacted-000000000004"]
    assert _state(tmp_path, world) == expected


def _full() -> None:
    raise OSError(28, "No space left on device")


_KILLED = """
    import os, pickle, shutil, signal, sys, warnings
    from pathlib import Path
    from serving.index import journal
    from tt_jax.io import publish

    publish.sync = journal.sync = lambda path: None  # a kill leaves what was written to the system
    warnings.simplefilter("ignore")  # of JAX, which is not used here, about os.fork
    directory, root, ads = Path(sys.argv[1]), Path(sys.argv[2]), pickle.loads(Path(sys.argv[3]).read_bytes())
    WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")

    for n in range(10_000):
        copy = root / str(n)
        shutil.copytree(directory, copy)
        pid = os.fork()
        if pid == 0:
            left = n
            def kill(event, arguments):
                global left
                if event in WRITES and str(root) in str(arguments[0]):
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
            sys.addaudithook(kill)
            journal.compact_records(copy, None, ads, at_least=3)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
    print(n)
"""


def test_killed_at_every_write_of_a_compaction_nothing_is_lost(no_sync: None, tmp_path: Path) -> None:
    """A second compaction, with records of a killed one around, is killed at each opening, renaming and removal."""
    import pickle

    world = World(int, 3)
    folder = _journal(world, tmp_path / "journal", 3)
    shutil.copytree(folder / "000000000002", tmp_path / "2")
    assert compact_records(tmp_path / "journal", None, world.ads, at_least=3) == 3
    shutil.copytree(tmp_path / "2", folder / "000000000002")  # a kill before it was removed
    (folder / "000000000002" / "bids.npy").unlink()
    for _ in range(3):
        record(tmp_path / "journal", world.change())
    expected = _state(tmp_path / "journal", world)
    (tmp_path / "ads").write_bytes(pickle.dumps(world.ads))
    arguments = [str(tmp_path / "journal"), str(tmp_path / "killed"), str(tmp_path / "ads")]
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(_KILLED), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    kills = int(run.stdout)
    assert kills > 40
    for n in range(kills + 1):
        directory = tmp_path / "killed" / str(n)
        assert _state(directory, world) == expected, n
        compact_records(directory, None, world.ads, at_least=1)
        assert _state(directory, world) == expected
        assert [path.name for path in (directory / world.index.index_id).iterdir()] == ["compacted-000000000006"]


@pytest.mark.parametrize("sets", [300, pytest.param(52_560, marks=pytest.mark.slow)])
def test_a_year_of_changes(
    no_sync: None, tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, sets: int, tmp_path: Path
) -> None:
    """One every ten minutes. The journal has few records at any time, and a start takes as long as after one day."""
    from serving.scorer_updates import prepare

    index_id, scorer = (
        AdIndex.load(tiny_index).index_id,
        load(tiny_bundle, tiny_index, max_k=MAX_K, live=True, like=warm_scorer),
    )
    folder, rng, ids, most = tmp_path / index_id, np.random.default_rng(0), some_ids(tiny_index), 0
    read_journal(tmp_path, index_id)
    for i in range(sets):
        updates = AdUpdates.of(np.array(rng.choice(ids, 3, replace=False)))
        updates.bids[:] = rng.exponential(size=3)
        vectors = np.empty((0, *scorer.programs.vector_shape), scorer.programs.vector_dtype)
        none = np.array([], np.int64), np.array([], np.float32), np.array([], np.bool_)
        change = prepare(scorer, ChangeSet(vectors, *none, updates), now())
        record(tmp_path, change.delta)
        scorer = change.apply(scorer)
        if i % 10 == 0:
            most = max(most, len(list(folder.iterdir())))
            compact_records(tmp_path, None, scorer.ads, COMPACTED_AFTER)
    assert most < 150
    start = time.monotonic()
    again = load(tiny_bundle, tiny_index, None, tmp_path, max_k=MAX_K, live=True, like=warm_scorer)
    assert time.monotonic() - start < 20
    assert (again.index_id, again.ads.version.sequence) == (scorer.index_id, sets)
    np.testing.assert_array_equal(again.ads.bids, scorer.ads.bids)
    assert again.top_k([QUERY], MAX_K) == scorer.top_k([QUERY], MAX_K)
