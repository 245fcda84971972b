"""Ads that change in a live index: it answers as an index built from scratch, and bad changes do nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serving.admin.messages import read_changes
from serving.index.ad_index import index_table, now
from serving.index.ad_table import AdIdError, AdIds, AdTable
from serving.index.change_set import ChangeError
from serving.scorer import RequestError, Scorer
from serving.scorer_updates import prepare
from serving.scoring import device_corpus as corpus_module
from serving.scoring.device_corpus import DeviceCorpus
from tests.support import tiny
from tests.support.changing_ads import World
from tt_jax.bundle.reader import Bundle

K = 40
QUERIES = tiny.queries(np.random.default_rng(0), 3)


def _apply(scorer: Scorer, body: dict[str, Any]) -> Scorer:
    return prepare(scorer, read_changes(json.dumps(body).encode(), scorer), now(), warm=False).apply(scorer)


def _named(bundle: Bundle) -> Bundle:
    """Ads named by a column that is no feature."""
    return dataclasses.replace(bundle, schema=dataclasses.replace(bundle.schema, ad_id="name", ad_id_dtype="string"))


def _assert_same_answers(live: Scorer, fresh: Scorer, ids: list[Any]) -> None:
    """Over all ads, of candidates, and scores of ads that are not eligible."""
    some = ids[::2]
    for calls in (
        [s.top_k(QUERIES, K) for s in (live, fresh)],
        [s.top_k(QUERIES, K, [some] * 3) for s in (live, fresh)],
        [s.score(QUERIES, [some] * 3) for s in (live, fresh)],
    ):
        for found, expected in zip(*calls, strict=True):
            assert [ad.id for ad in found] == [ad.id for ad in expected]
            np.testing.assert_allclose([ad.score for ad in found], [ad.score for ad in expected], rtol=1e-5)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose([*a.probabilities.values()], [*b.probabilities.values()], atol=1e-6)


@pytest.mark.parametrize(("dtype", "named"), [("f32", False), ("bf16", True), ("int8", False)])
def test_after_any_changes_it_answers_as_an_index_built_from_scratch(
    tiny_bundle: Path, dtype: Any, named: bool
) -> None:
    bundle, rng = Bundle.load(tiny_bundle), np.random.default_rng(1)
    world = World(_named(bundle) if named else bundle, rng)
    index = index_table(world.bundle, world.table(list(world.ads)), dtype, batch=64)
    limits = {"max_k": K, "max_candidates": 150, "warm": False}
    live, again = Scorer(world.bundle, index, **limits), AdTable.of(index)
    assert live.index_id == index.index_id
    places, sets = {live.programs.places}, []
    for new in (4, 40, 2):  # more than are removed: the places do not last
        body = world.change(new)
        sets.append(read_changes(json.dumps(body).encode(), live))
        live = prepare(live, sets[-1], now(), warm=False).apply(live)
        places.add(live.programs.places)
        used = np.flatnonzero(live.ads.ids.used)
        ids = live.ads.ids.at(used)
        assert sorted(ids) == sorted(world.ads)
        assert (live.index_size, live.eligible) == (len(ids), sum(row["eligible"] for row in world.ads.values()))
        np.testing.assert_array_equal(live.ads.bids[used], np.array([world.ads[ad]["bid"] for ad in ids], np.float32))
        fresh = Scorer(world.bundle, index_table(world.bundle, world.table(ids), dtype, batch=64), **limits, like=live)
        _assert_same_answers(live, fresh, ids)
        with pytest.raises(RequestError, match="1 unknown ad ids"):
            live.top_k(QUERIES[:1], 3, [body["remove"][:1]])
    assert len(places) > 1
    assert (live.ads.version.index_id, live.ads.version.sequence) == (index.index_id, len(sets))
    assert live.index_id.startswith(f"{index.index_id}+3.")
    versions = set()
    for changes in sets:
        again, _ = again.changed(changes, now())
        versions.add(str(again.version))
    assert (again.version, len(versions)) == (live.ads.version, len(sets))


GOOD = {"ad_id": 1_000_001, "bid": 1.0, "eligible": True}
# Body, with {0} the id of an ad, and what the error must name.
BAD: dict[str, tuple[str, list[str]]] = {
    "nothing": ("{{}}", ["at least one change"]),
    "empty": (" ", ["empty body", "rebid"]),
    "unknown list": ('{{"upserts": []}}', ["unknown key", '"upserts"', "'upsert'"]),
    "unknown ad": ('{{"enable": [{0}], "remove": [{0}, 77777777]}}', ["remove[1]", "77777777"]),
    "unknown ad to re-bid": ('{{"rebid": [[77777777, 1]]}}', ["rebid[0]", "77777777"]),
    "huge id": ('{{"disable": [{0}, 99999999999999999999]}}', ["disable[1]", "64-bit", "99999999999999999999"]),
    "id of the wrong type": ('{{"disable": ["{0}"]}}', ["disable[0]", "integer", "'{0}'"]),
    "id true": ('{{"disable": [true]}}', ["disable[0]", "int | str", "true"]),
    "twice in a list": ('{{"disable": [{0}, {0}]}}', ["disable[1]", "{0}", "row 0"]),
    "enabled and removed": ('{{"enable": [{0}], "remove": [{0}]}}', ["remove[0]", "{0}", "enable[0]"]),
    "re-bid and removed": ('{{"rebid": [[{0}, 1]], "remove": [{0}]}}', ["remove[0]", "{0}", "rebid[0]"]),
    "enabled and disabled": ('{{"enable": [{0}], "disable": [{0}]}}', ["disable[0]", "{0}", "enable[0]"]),
    "negative bid": ('{{"rebid": [[{0}, 1], [{1}, -1]]}}', ["rebid[1]", "'bid'", "-1"]),
    "bid beyond float32": ('{{"rebid": [[{0}, 1e39]]}}', ["rebid[0]", "'bid'", "float32", "1e+39"]),
    "bid NaN": ('{{"rebid": [[{0}, NaN]]}}', ["invalid JSON", "NaN"]),
    "bid null": ('{{"rebid": [[{0}, null]]}}', ["rebid[0][1]", "float", "null"]),
    "bid missing": ('{{"upsert": [{2}, {{"ad_id": 9, "eligible": true}}]}}', ["upsert[1]", "'bid'", "nan"]),
    "bid a string": ('{{"upsert": [{{"ad_id": 9, "bid": "1", "eligible": true}}]}}', ["upsert[0]", "'bid'", "'1'"]),
    "id missing": ('{{"upsert": [{{"bid": 1, "eligible": true}}]}}', ["upsert[0]", "'ad_id'", "null"]),
    "eligible missing": ('{{"upsert": [{{"ad_id": 9, "bid": 1}}]}}', ["upsert[0]", "'eligible'", "null"]),
    "eligible a number": ('{{"upsert": [{{"ad_id": 9, "bid": 1, "eligible": 1}}]}}', ["upsert[0]", "'eligible'", "1"]),
    "unknown feature": ('{{"upsert": [{2}, {{"ad_id": 9, "prise": 1}}]}}', ["upsert[1]", "'prise'", "'price'"]),
    "wrong feature": (
        '{{"remove": [{0}], "upsert": [{2}, {{"ad_id": 9, "bid": 1, "eligible": true, "price": "x"}}]}}',
        ["upsert[1]", "'price'", "number", "'x'"],
    ),
    "wrong list": (
        '{{"upsert": [{{"ad_id": 9, "bid": 1, "eligible": true, "topics": ["art", 3]}}]}}',
        ["upsert[0]", "'topics'", "3"],
    ),
    "an ad put twice": ('{{"upsert": [{2}, {2}]}}', ["upsert[1]", "1000001", "row 0"]),
    "put and removed": (
        '{{"upsert": [{{"ad_id": {0}, "bid": 1, "eligible": true}}], "remove": [{0}]}}',
        ["remove[0]", "{0}", "upsert[0]"],
    ),
}


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Path, tiny_index: Path) -> Scorer:
    return Scorer.load(tiny_bundle, tiny_index, max_k=16, warm=False)


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_change_is_named_and_nothing_changes(scorer: Scorer, name: str) -> None:
    known = scorer.ads.ids.at(np.arange(2))
    body, expected = BAD[name]
    before, answer = scorer.ads, scorer.top_k(QUERIES, 16)
    with pytest.raises((ChangeError, RequestError)) as refused:
        prepare(scorer, read_changes(body.format(*known, json.dumps(GOOD)).encode(), scorer), now())
    missing = [text for text in expected if text.format(*known) not in str(refused.value)]
    assert not missing, f"{missing} not in {refused.value}"
    assert scorer.ads is before
    assert scorer.top_k(QUERIES, 16) == answer


def test_a_change_serves_only_what_it_was_prepared_for(tiny_bundle: Path, tiny_index: Path) -> None:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=16, warm=False)
    first, second = scorer.ads.ids.at(np.arange(2))
    changes = [prepare(scorer, read_changes(b'{"disable": [%d]}' % ad, scorer), now()) for ad in (first, second)]
    vectors = scorer.programs.vector_shape
    changed = changes[0].apply(scorer)
    with pytest.raises(ValueError, match="prepared for other ads"):
        changes[1].apply(changed)
    assert changed.eligible == scorer.eligible - int(scorer.ads.valid[0])
    with pytest.raises(RuntimeError, match="deleted"):  # donated
        scorer.top_k(QUERIES, 1)
    assert scorer.ads.ids.at(np.arange(2)) == [first, second]
    other = read_changes(json.dumps({"upsert": [GOOD]}).encode(), changed)
    narrow = dataclasses.replace(other, vectors=other.vectors[:, :, 1:])
    with pytest.raises(ChangeError, match=rf"vectors: expected float32 \({vectors[0]}, {vectors[1]}\)"):
        prepare(changed, narrow, now())
    for name, value in (("bids", np.array([np.nan], np.float32)), ("ids", ["x"]), ("valid", np.ones(2, bool))):
        with pytest.raises(ChangeError, match=name):
            dataclasses.replace(other, **{name: value})


def test_all_ads_may_go_and_come_back(tiny_bundle: Path, tiny_index: Path) -> None:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=16, warm=False)
    ids = scorer.ads.ids.at(np.arange(scorer.index_size))
    scorer = _apply(scorer, {"remove": ids})
    assert (scorer.index_size, scorer.eligible, scorer.top_k(QUERIES, 5)) == (0, 0, [[], [], []])
    scorer = _apply(scorer, {"upsert": [GOOD]})
    assert [[ad.id for ad in ads] for ads in scorer.top_k(QUERIES, 5)] == [[GOOD["ad_id"]]] * 3


@pytest.mark.parametrize("kind", [int, str])
def test_ids_and_positions_stay_in_step(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a dict, with lookups made anew now and then; what was there before is not disturbed."""
    monkeypatch.setattr("serving.index.ad_table._RECENT", 50)
    rng = np.random.default_rng(0)
    names = [kind(v) for v in rng.permutation(1000)]
    ids, truth, new = AdIds(names[:300] if kind is str else np.array(names[:300])), dict(enumerate(names[:300])), 300
    for _ in range(60):
        old, was = ids, dict(truth)
        removed = rng.choice(list(truth), int(rng.integers(0, 12)), replace=False)
        added = names[new : new + int(rng.integers(0, 12))] + [
            truth[p] for p in removed[:2]
        ]  # gone, and back elsewhere
        new += len(added) - len(removed[:2])
        places = ids.free(len(added))
        assert len(set(places.tolist()) - set(truth)) == len(added)
        ids = ids.changed(np.array(removed, np.int64), added, places)
        truth = {p: ad for p, ad in truth.items() if p not in removed} | dict(zip(places.tolist(), added, strict=True))
        for found, expected in ((ids, truth), (old, was)):
            assert len(found) == len(expected)
            assert found.at(np.array(list(expected), np.int64)) == list(expected.values())
            assert found.find(list(expected.values())).tolist() == list(expected)
            gone = list(set(names) - set(expected.values()))
            assert (found.find(gone) == -1).all()
    with pytest.raises(AdIdError, match="expected"):
        ids.positions([None])  # pyright: ignore[reportArgumentType]


def test_an_update_is_as_if_the_corpus_had_been_packed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several parts, the last one shorter; positions of the capacity or beyond are padding."""
    monkeypatch.setattr(corpus_module, "PART", 128)
    rng = np.random.default_rng(0)
    n, tasks, dim = 300, 3, 4
    rows, bids, valid = (
        rng.normal(size=(n, tasks, dim)).astype(np.float32),
        rng.random(n, np.float32),
        rng.random(n) < 0.5,
    )
    corpus = DeviceCorpus.pack(jnp.asarray(rows), jnp.asarray(bids), jnp.asarray(valid), scanned=(0, 2), places=390)
    assert (corpus.valid_N.shape, [part.shape for part in corpus.columns[2]]) == ((448,), [(4, 128)] * 3 + [(4, 64)])
    put, marked = np.array([0, 127, 128, 299, 320, 447, 448, 10**6]), np.array([5, 128, 447, 448])
    vectors, new_bids = rng.normal(size=(8, tasks, dim)).astype(np.float32), rng.random(4, np.float32)
    flags = np.array([True, False, True, True])
    update = jax.jit(DeviceCorpus.updated, donate_argnums=0)
    found = update(corpus, put.astype(np.int32), vectors, marked.astype(np.int32), new_bids, flags)
    assert corpus.rows_NTD.is_deleted()
    rows, bids, valid = (np.concatenate([a, np.zeros((448 - n, *a.shape[1:]), a.dtype)]) for a in (rows, bids, valid))
    rows[put[:6]], bids[marked[:3]], valid[marked[:3]] = vectors[:6], new_bids[:3], flags[:3]
    expected = DeviceCorpus.pack(jnp.asarray(rows), jnp.asarray(bids), jnp.asarray(valid), scanned=(0, 2))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
