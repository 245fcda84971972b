"""One journal for every index: what a swap does to changes that were made live, and what stays in the journal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.index.ad_index import AdIndex, index_table
from serving.index.delta import Base, DeltaError, make_delta
from serving.index.journal import compact_records, others, prune, read_journal
from serving.scorer import Scorer
from serving.scorer_updates import Sources, load
from tests.support import tiny
from tests.support.journal_service import MAX_K, QUERY, Post, changed, other_index, serving, some_ids, versions_in
from tests.support.service_calls import error_of, post
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle


def ranked(client: Any) -> list[int]:
    return [ad["id"] for ad in post(client, {"query": QUERY, "k": MAX_K})["ads"]]


@pytest.fixture(scope="module")
def other(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_index(tiny_bundle, tmp_path_factory.mktemp("other") / "index")


def pair(bundle: Path, index: Path, **more: Any) -> dict[str, Any]:
    return {"bundle": str(bundle), "index": str(index), **more}


@pytest.mark.parametrize("link", [False, True])
def test_a_swap_finds_the_changes_of_its_index_and_a_swap_back_too(
    tiny_bundle: Path, tiny_index: Path, other: Path, warm_scorer: Scorer, tmp_path: Path, link: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    first, second = (AdIndex.load(path).index_id for path in (tiny_index, other))
    journal, given = tmp_path / "journal", tmp_path / "link"
    if link:
        given.symlink_to(journal)
        journal.mkdir()
    sources = Sources(tiny_bundle, tiny_index, journal=given if link else journal)
    with serving(sources, warm_scorer) as (client, admin):
        best = ranked(client)[0]
        before = changed(admin("/admin/ads", {"disable": [best]}))
        assert before["left_behind"] == {}
        fresh = changed(admin("/admin/load", pair(tiny_bundle, other)))
        assert (fresh["version"], fresh["left_behind"]) == (second, {first: 1})
        assert f'left_behind index={first} changes=1 kept="in the journal"' in caplog.messages
        changed(admin("/admin/ads", {"disable": ranked(client)[:1]}))
        after = changed(admin("/admin/ads", {"disable": ranked(client)[:1]}))
        answer = post(client, {"query": QUERY})
        back = changed(admin("/admin/load", pair(tiny_bundle, tiny_index)))
        assert (back["version"], back["left_behind"]) == (before["version"], {second: 2})
        assert best not in ranked(client)
        again = changed(admin("/admin/ads", {"enable": [best]}))
    for index, version in ((other, after), (tiny_index, again)):
        with serving(Sources(tiny_bundle, index, journal=journal), warm_scorer) as (client, _):
            assert client.get("/v1/model").json()["index"] == version["version"]
            assert index != other or post(client, {"query": QUERY}) == answer


def test_without_a_journal_a_swap_says_what_is_lost(
    tiny_bundle: Path, tiny_index: Path, other: Path, warm_scorer: Scorer
) -> None:
    with serving(Sources(tiny_bundle, tiny_index), warm_scorer) as (client, admin):
        first = changed(admin("/admin/ads", {"disable": ranked(client)[:1]}))["index_id"]
        assert changed(admin("/admin/load", pair(tiny_bundle, other)))["left_behind"] == {first: 1}
        error = error_of(admin("/admin/load", pair(tiny_bundle, tiny_index, carry=True)), 409)
        assert "carry: expected a service with a journal" in error
        assert changed(admin("/admin/load", pair(tiny_bundle, tiny_index)))["left_behind"] == {}


def test_a_load_of_the_same_index_says_what_it_leaves_behind(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In another journal, or nowhere; to another journal they are carried if that is asked for."""
    one, two = tmp_path / "one", tmp_path / "two"
    again = pair(tiny_bundle, tiny_index)
    with serving(Sources(tiny_bundle, tiny_index), warm_scorer) as (client, admin):
        first = changed(admin("/admin/ads", {"disable": ranked(client)[:1]}))["index_id"]
        assert changed(admin("/admin/load", again))["left_behind"] == {first: 1}
        assert f"left_behind index={first} changes=1 kept=nowhere" in caplog.messages
        assert changed(admin("/admin/load", again))["left_behind"] == {}
    with serving(Sources(tiny_bundle, tiny_index, journal=one), warm_scorer) as (client, admin):
        best = ranked(client)[0]
        changed(admin("/admin/ads", {"disable": [best]}))
        assert changed(admin("/admin/load", again))["left_behind"] == {}
        moved = changed(admin("/admin/load", again | {"journal": str(two)}))
        assert (moved["sequence"], moved["left_behind"], ranked(client)[0]) == (0, {first: 1}, best)
        assert f'left_behind index={first} changes=1 kept="in {one}"' in caplog.messages
        changed(admin("/admin/load", again | {"journal": str(one)}))
        carried = changed(admin("/admin/load", again | {"journal": str(two), "carry": True}))
        assert carried["sequence"] == 1
        assert best not in ranked(client)
    with serving(Sources(tiny_bundle, tiny_index, journal=two), warm_scorer) as (client, _):
        assert client.get("/v1/model").json()["index"] == carried["version"]


def test_changes_are_carried_where_the_other_index_has_the_ad(
    tiny_bundle: Path, tiny_index: Path, other: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    """By the same bundle with what was put; marks of ads that both have; the rest is left behind, and it lasts."""
    rng, journal = np.random.default_rng(5), tmp_path / "journal"
    shared = tmp_path / "shared"
    index = AdIndex.load(tiny_index)
    table = tiny.ads_table(np.random.default_rng(2), 200)  # as the tiny index
    index_table(Bundle.load(tiny_bundle), table.slice(0, 150)).save(shared)  # without its last 50 ads
    kept, gone = [[int(ad) for ad in index.ids[part]] for part in (slice(0, 150), slice(150, 200))]
    row = tiny.rows(tiny.ad_columns(rng, 1, [123_456]))[0] | {"bid": 1e9, "eligible": True}
    with serving(Sources(tiny_bundle, tiny_index, journal=journal), warm_scorer) as (client, admin):
        changed(admin("/admin/ads", {"rebid": [[kept[0], 1e6], [gone[0], 1e6]], "disable": [kept[1], gone[1]]}))
        before = changed(admin("/admin/ads", {"upsert": [row], "remove": [kept[2], gone[2]]}))
        assert compact_records(journal, None, client.app.state.service.batcher.scorer.ads, 1) == 2
        status = changed(admin("/admin/load", pair(tiny_bundle, shared, carry=True)))
        assert (status["sequence"], status["ads"]) == (1, 150)  # one more, one less
        assert status["left_behind"] == {before["index_id"]: 2}
        assert ranked(client)[0] == 123_456
        answer = post(client, {"query": QUERY, "k": MAX_K})
        ads = client.app.state.service.batcher.scorer.ads
        at = ads.ids.find([kept[0], kept[1], kept[2], gone[0]])
        assert (ads.bids[at[0]], ads.valid[at[1]], at[2], at[3]) == (1e6, False, -1, -1)
        again = changed(admin("/admin/load", pair(tiny_bundle, shared, carry=True)))
        assert again["version"] == status["version"]  # the same index: nothing to carry
    with serving(Sources(tiny_bundle, shared, journal=journal), warm_scorer) as (client, _):
        assert post(client, {"query": QUERY, "k": MAX_K}) == answer


def test_another_bundle_takes_bids_and_eligibility_but_no_vectors(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    params, tables = tiny.weights(1)
    golden = tiny.golden_rows(np.random.default_rng(1), 4)
    bundle = tmp_path / "bundle"
    write_bundle(
        bundle, schema=tiny.SCHEMA, config=tiny.CONFIG, params=params, tables=tables, metrics={}, golden_rows=golden,
        platforms=("cpu",),
    )  # fmt: skip
    index = other_index(bundle, tmp_path / "index", seed=2)  # the ads of the tiny index
    ids = some_ids(tiny_index)
    assert some_ids(index) == ids
    rows = tiny.rows(tiny.ad_columns(np.random.default_rng(5), 2, [ids[3], 123_456]))
    rows = [row | {"bid": 77.0, "eligible": False} for row in rows]
    with serving(Sources(tiny_bundle, tiny_index, journal=tmp_path / "journal"), warm_scorer) as (client, admin):
        changed(admin("/admin/ads", {"upsert": rows, "remove": ids[4:5]}))
        status = changed(admin("/admin/load", pair(bundle, index, carry=True)))
        scorer = client.app.state.service.batcher.scorer
        assert (status["sequence"], status["ads"]) == (1, len(ids) - 1)
        at = scorer.ads.ids.find([ids[3], ids[4], 123_456])
        assert (scorer.ads.bids[at[0]], scorer.ads.valid[at[0]], at[1], at[2]) == (77.0, False, -1, -1)
        vectors = np.asarray(scorer.programs._state.corpus.rows_NTD)
        np.testing.assert_array_equal(vectors[at[0]], AdIndex.load(index).vectors[3])


def _disable(admin: Post, ads: list[int]) -> dict[str, Any]:
    return [changed(admin("/admin/ads", {"disable": [ad]})) for ad in ads][-1]


def test_a_journal_of_an_earlier_version_is_moved_into_the_folder_of_its_index(
    tiny_bundle: Path, tiny_index: Path, other: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with serving(Sources(tiny_bundle, tiny_index, journal=journal), warm_scorer) as (_, admin):
        status = _disable(admin, some_ids(tiny_index)[:3])
    folder = journal / status["index_id"]
    for path in list(folder.iterdir()):
        path.rename(journal / path.name)
    folder.rmdir()
    (journal / "journal.json").unlink()
    (journal / "lost+found").mkdir()  # of a volume
    folder.mkdir()
    (journal / "000000000001").rename(folder / "000000000001")  # killed after the first one
    with serving(Sources(tiny_bundle, other, journal=journal), warm_scorer) as (client, admin):
        assert client.get("/v1/model").json()["index"] == AdIndex.load(other).index_id
        assert changed(admin("/admin/load", pair(tiny_bundle, tiny_index)))["version"] == status["version"]
    assert sorted(path.name for path in journal.iterdir()) == [status["index_id"], "journal.json", "lost+found"]
    shutil.copytree(folder / "000000000002", journal / "000000000002")
    with pytest.raises(DeltaError, match=r"000000000002: expected no record of this place in .* too"):
        read_journal(journal, status["index_id"])


def test_what_is_not_as_it_was_written_is_refused_by_name(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    with serving(Sources(tiny_bundle, tiny_index, journal=tmp_path), warm_scorer) as (_, admin):
        index_id = _disable(admin, some_ids(tiny_index)[:3])["index_id"]
    folder = tmp_path / index_id

    def refused(message: str) -> None:
        with pytest.raises(DeltaError, match=message):
            load(tiny_bundle, tiny_index, None, tmp_path, max_k=MAX_K, warm=False)

    (folder / "notes").mkdir()
    refused("notes: expected a record of the journal")
    (folder / "notes").rmdir()
    (folder / "000000000003").rename(folder / "000000000004")
    refused("000000000004: it leads to .*, which its place does not say")
    (folder / "000000000004").rename(folder / "000000000003")
    (folder / "000000000002").rename(tmp_path / "2")
    refused("000000000003: out of sequence")
    (tmp_path / "2").rename(folder / "000000000002")
    (folder / "000000000001" / "removed.npy").write_bytes(b"x")
    refused(r"000000000001/removed\.npy")
    with pytest.raises(DeltaError, match=r"index_id of 64 digits, got '\.\./x'"):
        read_journal(tmp_path, "../x")


def test_deltas_before_and_among_the_records_of_a_compacted_journal(
    tiny_bundle: Path, tiny_index: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    """Those on its way are known whether they are given or not; one that branches off is refused."""
    bundle, rng, deltas, journal = (
        Bundle.load(tiny_bundle),
        np.random.default_rng(1),
        tmp_path / "deltas",
        tmp_path / "j",
    )
    make_delta(bundle, Base.read(tiny_index), tiny.ads_table(rng, 4)).save(deltas / "1")
    make_delta(bundle, Base.read(deltas / "1"), tiny.ads_table(rng, 4)).save(tmp_path / "2")
    with serving(Sources(tiny_bundle, tiny_index, deltas, journal), warm_scorer) as (client, admin):
        changed(admin("/admin/delta", {"delta": str(tmp_path / "2")}))
        status = _disable(admin, some_ids(tiny_index)[:2])
        answer = post(client, {"query": QUERY, "k": MAX_K})
        compact_records(journal, deltas, client.app.state.service.batcher.scorer.ads, 1)
    assert len(versions_in(journal, status["index_id"])) == 5
    assert len(list((journal / status["index_id"]).glob("[!.]*"))) == 1

    def answers(given: Path | None) -> None:
        with serving(Sources(tiny_bundle, tiny_index, given, journal), warm_scorer) as (client, _):
            assert post(client, {"query": QUERY, "k": MAX_K}) == answer

    answers(deltas)
    shutil.copytree(tmp_path / "2", deltas / "2")
    answers(deltas)
    answers(None)
    make_delta(bundle, Base.read(deltas / "2"), tiny.ads_table(rng, 4)).save(deltas / "3")  # another third one
    with pytest.raises(DeltaError, match=r"deltas/3: out of sequence: .* expected delta 5, got 3"):
        load(tiny_bundle, tiny_index, deltas, journal, max_k=MAX_K, warm=False)


def test_records_of_old_indexes_go(tmp_path: Path) -> None:
    """All but the newest few and that of the index that is served, however old; a killed removal is finished."""
    names = [f"{i:064x}" for i in range(6)]
    for i, name in enumerate(names):
        (tmp_path / name / "000000000003").mkdir(parents=True)
        os.utime(tmp_path / name, (i, i))
    (tmp_path / f".{'a' * 64}.removed" / "x").mkdir(parents=True)
    assert list(others(tmp_path, names[5])) == names[4::-1]
    assert prune(tmp_path, names[0], keep=2) == names[3:0:-1]
    assert {path.name for path in tmp_path.iterdir()} == {names[0], names[4], names[5]}
    assert others(tmp_path, names[0]) == {names[5]: 3, names[4]: 3}
