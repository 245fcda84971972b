"""Deltas: written by the command line, applied in their order, refused by name when they are not what is expected."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.index.ad_index import AdIndex, index_table
from serving.index.ad_table import AdTable
from serving.index.change_set import ChangeError, IndexVersion
from serving.index.delta import Base, Delta, DeltaError, DeltaManifest, make_delta
from serving.scorer import Scorer
from serving.scorer_updates import load, prepare_delta
from tests.support import tiny
from tests.support.cli import Call
from tests.support.damage import damages
from tests.support.paths import ROOT
from tt_jax.bundle.reader import Bundle
from tt_jax.io.publish import describe_files, write_manifest

QUERIES = tiny.queries(np.random.default_rng(0), 3)
NEW = 30


@dataclasses.dataclass(frozen=True)
class Release:
    """An index of the first ads of a table, and two deltas that lead to other ads."""

    bundle: Path
    index: Path
    deltas: Path
    first: pa.Table
    last: pa.Table


@pytest.fixture(scope="module")
def release(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Written by the library, as the command line does it."""
    root, bundle = tmp_path_factory.mktemp("release"), Bundle.load(tiny_bundle)
    ads = tiny.ads_table(np.random.default_rng(7), 100 + NEW)
    ids = ads.column("ad_id").to_pylist()
    first, new = ads.slice(0, 100), ads.slice(100)
    index_table(bundle, first).save(root / "index")
    make_delta(bundle, Base.read(root / "index"), new).save(root / "deltas" / "b")
    changes = pa.table(
        {
            "ad_id": ids[:6],
            "bid": [None, 7.5, 0.0, None, None, None],
            "eligible": [True, None, False, None, None, False],
            "remove": [None, False, None, True, True, None],
        }
    )
    make_delta(bundle, Base.read(root / "deltas" / "b"), None, changes).save(root / "deltas" / "a")  # not by name
    bids, eligible = ads.column("bid").to_pylist(), ads.column("eligible").to_pylist()
    bids[1:3], eligible[0], eligible[2], eligible[5] = [7.5, 0.0], True, False, False
    last = ads.set_column(ads.column_names.index("bid"), "bid", pa.array(bids))
    last = last.set_column(last.column_names.index("eligible"), "eligible", pa.array(eligible))
    last = pa.concat_tables([last.slice(0, 3), last.slice(5)])
    return Release(tiny_bundle, root / "index", root / "deltas", first, last)


@pytest.fixture(scope="module")
def bundle(release: Release) -> Bundle:
    return Bundle.load(release.bundle)


def test_deltas_lead_to_the_index_of_the_same_ads(release: Release, bundle: Bundle) -> None:
    index = AdIndex.load(release.index)
    live = load(release.bundle, release.index, release.deltas, max_k=16, warm=False)
    fresh = Scorer(bundle, index_table(bundle, release.last), max_k=16, warm=False, like=live)
    assert (live.index_size, live.eligible) == (fresh.index_size, fresh.eligible) == (98 + NEW, fresh.eligible)
    for found, expected in zip(live.top_k(QUERIES, 16), fresh.top_k(QUERIES, 16), strict=True):
        assert [ad.id for ad in found] == [ad.id for ad in expected]
        np.testing.assert_allclose([ad.score for ad in found], [ad.score for ad in expected], rtol=1e-5)
    deltas = Delta.load_all(release.deltas)
    assert [delta.before.sequence for delta in deltas] == [0, 1]
    version = IndexVersion.of(index.index_id)
    for delta in deltas:
        assert delta.before == version
        version = version.after(delta.changes.changes_id)
    assert (live.ads.version, live.index_id) == (version, f"{index.index_id}+2.{version.chain[:16]}")
    assert live.ads.created >= index.created


def test_a_delta_of_something_else_is_refused_by_name(release: Release, bundle: Bundle, tmp_path: Path) -> None:
    scorer = Scorer.load(release.bundle, release.index, max_k=16, warm=False)
    before = scorer.ads
    first, second = Delta.load_all(release.deltas)

    def refused(delta: Delta, message: str, error: type[ValueError] = DeltaError) -> None:
        with pytest.raises(error, match=message):
            prepare_delta(scorer, delta)
        assert scorer.ads is before

    refused(second, r"deltas/a: out of sequence: it follows \w+\+1\.\w+, .* expected delta 1, got 2")
    refused(dataclasses.replace(first, fingerprint="f" * 64), f"deltas/b: made by the bundle {'f' * 64}")
    other = index_table(bundle, release.first.slice(1))
    refused(dataclasses.replace(first, before=IndexVersion.of(other.index_id)), f"delta of the index {other.index_id}")
    forked = dataclasses.replace(first.before, chain="0" * 64)
    refused(dataclasses.replace(first, before=forked), "out of sequence")
    unknown = dataclasses.replace(second.changes.updates, ids=second.changes.updates.ids + 10**9)  # pyright: ignore
    changes = dataclasses.replace(second.changes, updates=unknown)
    refused(dataclasses.replace(first, changes=changes), "deltas/b: .*6 unknown ad ids: 1000", ChangeError)
    with pytest.raises(DeltaError, match="made by the bundle"):
        make_delta(bundle, dataclasses.replace(Base.read(release.index), fingerprint="f" * 64), release.first)
    # A gap, and what is no delta, are found at the start too.
    first.save(tmp_path / "all" / "1")
    AdIndex.load(release.index).save(tmp_path / "all" / "index")
    with pytest.raises(DeltaError, match="all/index"):
        load(release.bundle, release.index, tmp_path / "all", max_k=16, warm=False)
    second.save(tmp_path / "gap" / "2")
    with pytest.raises(DeltaError, match="gap/2: out of sequence"):
        load(release.bundle, release.index, tmp_path / "gap", max_k=16, warm=False)
    with pytest.raises(DeltaError, match="none: expected a directory of deltas"):
        load(release.bundle, release.index, tmp_path / "none", max_k=16, warm=False)


def test_every_changed_missing_or_added_file_is_refused_by_name(release: Release, tmp_path: Path) -> None:
    delta = Delta.load_all(release.deltas)[0]
    delta.save(tmp_path / "d")
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "d").iterdir()):
        for _ in damages(path, rng):
            with pytest.raises(DeltaError, match=path.name):
                Delta.load(tmp_path / "d")
    (tmp_path / "d" / "more.npy").write_bytes(b"")
    with pytest.raises(DeltaError, match=r"more\.npy: not in the manifest"):
        Delta.load(tmp_path / "d")
    with pytest.raises(DeltaError, match="none: expected a directory with a manifest"):
        Delta.load(tmp_path / "none")


def test_a_delta_made_by_hand_must_make_sense(release: Release, tmp_path: Path) -> None:
    """Files that the manifest agrees with, but that do not fit together."""
    root, delta = tmp_path / "d", Delta.load_all(release.deltas)[1]
    delta.save(root)

    def refused(message: str, **changes: Any) -> None:
        fields = json.loads((root / "manifest.json").read_text())
        del fields["digest"], fields["files"]
        fields = {**fields, "shape": tuple(fields["shape"])}
        write_manifest(root, DeltaManifest(**{**fields, **changes}, files=describe_files(root)))
        with pytest.raises(DeltaError, match=message):
            Delta.load(root)
        write_manifest(root, DeltaManifest(**fields, files=describe_files(root)))

    refused("expected 'tt-jax ad delta' version 1", format="tt-jax ad index")
    refused("do not lead from", sequence=3)
    refused("do not lead from", follows="0" * 64)
    refused("do not lead from", chain="0" * 64)
    refused(r"ids\.json", id_dtype="string")
    refused("created|isoformat", created="today")
    for name, array, message in (
        ("marked_bids", np.array([-1.0] * 6, np.float32), r"updates\.bids: expected float32 numbers >= 0, got -1"),
        ("marked_valid", np.array([2] * 6, np.int8), r"updates\.valid: expected 1, 0 or -1"),
        ("removed", np.zeros(6), r"updates\.removed: expected 6 bool, got float64"),
        ("marked_ids", np.zeros(6, np.int64), r"updates\[1\]: expected each ad once, but 0 is updates\[0\] too"),
        ("vectors", np.zeros((0, 3)), "vectors: expected f32, bf16, int8"),
    ):
        saved = (root / f"{name}.npy").read_bytes()
        np.save(root / f"{name}.npy", array)
        refused(message)
        (root / f"{name}.npy").write_bytes(saved)


def test_the_command_line_writes_deltas(call: Call, release: Release, tmp_path: Path) -> None:
    pq.write_table(release.first.slice(3, 4), tmp_path / "ads.parquet")
    ids = release.first.column("ad_id").to_pylist()
    pq.write_table(pa.table({"ad_id": ids[:2], "bid": [1.0, 2.0]}), tmp_path / "changes.parquet")
    base = ("index", f"--bundle={release.bundle}", f"--delta-of={release.index}")
    out, ads, changes = f"--out={tmp_path / 'd'}", f"--ads={tmp_path / 'ads.parquet'}", tmp_path / "changes.parquet"
    code, _, err = call(*base, ads, f"--changes={changes}", out)
    assert (code, err) == (0, f"4 ads embedded and 2 changed to {tmp_path / 'd'}\n")
    delta = Delta.load(tmp_path / "d")
    ads_after, _ = AdTable.of(AdIndex.load(release.index)).changed(delta.changes, delta.created)
    assert ads_after.bids[:2].tolist() == [1.0, 2.0]
    assert "already exists" in call.refused(*base, ads, out)
    out = f"--out={tmp_path / 'e'}"
    assert call.refused(*base, out) == "expected --ads, --changes or both"
    assert "--dtype" in call.refused(*base, ads, "--dtype=f32", out)
    assert "--runner=ray: a delta" in call.refused(*base, ads, "--runner=ray", out)
    assert "--delta-of" in call.refused(*base[:2], f"--changes={changes}", out)
    assert call.refused(*base[:2], out) == "expected --ads"
    for table, message in (
        ({"ad_id": [*ids[:2], None], "bid": [1.0] * 3}, "column 'ad_id', row 2: expected an id, got null"),
        (
            {"ad_id": ids[:2], "bid": [1.0, float("nan")]},
            "column 'bid', row 1: expected a float32 number >= 0, got nan",
        ),
        ({"ad_id": ids[:2], "eligible": [1, 0]}, "column 'eligible': expected booleans, got int64"),
        (
            {"ad_id": ids[:2], "removed": [True, True]},
            "column 'removed': unknown column of changes; did you mean 'remove'",
        ),
        ({"ad_id": ids[:2]}, "column 'ad_id': expected columns ad_id and any of bid, eligible, remove"),
        ({"ad_id": ids[3:4], "bid": [1.0]}, f"updates[0]: expected each ad once, but {ids[3]} is ads[0] too"),
    ):
        pq.write_table(pa.table(table), changes)
        assert message in call.refused(*base, ads, f"--changes={changes}", out)
    assert not (tmp_path / "e").exists()


# Publishes deltas and indexes in children that die at the n-th step of it, each n in turn, and tells what is there.
_KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    import tt_jax.io.publish as publish
    from serving.index.delta import Delta
    from serving.index.ad_index import AdIndex

    root, release = Path(sys.argv[1]), Path(sys.argv[2])
    index, deltas = AdIndex.load(release / "index"), Delta.load_all(release / "deltas")

    def die_at(step):
        count = 0
        def counted(function):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == step:
                    if function is np_save:  # half of the file
                        Path(args[0]).write_bytes(b"x" * 10)
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return call
        np_save = np.save
        np.save, publish.sync, os.rename = counted(np.save), counted(publish.sync), counted(os.rename)

    for name, what in (("index", index), ("deltas/2", deltas[1])):
        for step in range(1, 100):
            if (child := os.fork()) == 0:
                die_at(step)
                what.save(root / name)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            there = (root / name).exists()
            if there:  # complete, although the process may have died right after
                (Delta if name != "index" else AdIndex).load(root / name)
                if os.WIFSIGNALED(status):
                    print(name, "complete")
                    what_is_left = [p.name for p in (root / name).parent.iterdir() if p.name.startswith(".")]
                    assert not what_is_left, what_is_left
            else:
                assert os.WIFSIGNALED(status)
                print(name, "absent")
                found = [d.before.sequence for d in Delta.load_all(root / "deltas")]
                assert found == [0], found
            if there:
                break
"""


def test_a_killed_publication_leaves_the_last_complete_one(release: Release, tmp_path: Path) -> None:
    Delta.load_all(release.deltas)[0].save(tmp_path / "deltas" / "1")
    command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(tmp_path), str(release.index.parent)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    for name in ("index", "deltas/2"):
        assert lines.count(f"{name} absent") >= 8  # in files, between them, before the rename
        assert lines.count(f"{name} complete") == 1  # killed after the rename
    whole = load(release.bundle, tmp_path / "index", tmp_path / "deltas", max_k=16, warm=False)
    assert whole.ads.version.sequence == 2
