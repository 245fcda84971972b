"""`serving/portable.py`: a copy of it, with nothing of ours to import, scores as the whole package does."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import serving.portable
from serving.index.ad_index import AdIndex, index_table
from serving.portable import FUNCTIONS, K, PortableBundle, PortableError, PortableIndex
from serving.scorer import Scorer
from tests.support import tiny
from tests.support.damage import damages
from tt_jax.bundle.fingerprint import fingerprint
from tt_jax.bundle.reader import Bundle, BundleError, Manifest
from tt_jax.bundle.writer import write_bundle
from tt_jax.calibration.maps import Calibration, Curve
from tt_jax.features.encoder import Encoder
from tt_jax.io.publish import read_published, write_manifest

pytestmark = pytest.mark.process

# Run as a script: a process in which nothing of ours, and nothing but JAX, NumPy and flatbuffers, can be imported.
ALONE = """
import json, runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tt_jax", "serving", "flax", "orbax", "msgspec", "pyarrow", "optax"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
file, bundle, index, queries = sys.argv[1:]
sys.argv = [file, bundle]
portable = runpy.run_path(file, run_name="__main__")
import numpy as np
encoded = np.load(queries)
ads = portable["PortableIndex"].load(index)
found = portable["PortableBundle"].load(bundle).rank(ads, encoded["ids"], encoded["floats"])
print(json.dumps([[int(ads.ids[p]) for p in found[0][0]], *(part[0].tolist() for part in found[1:])]))
"""


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose queries tell the scenario, with a map of its own for each; and an index of 130 ads."""
    home = tmp_path_factory.mktemp("calibrated")
    params, tables = tiny.weights(schema=tiny.TOLD)
    maps = {
        "standard": {"click": Curve(scale=0.5, shift=-1.0)},
        "shopping": {"click": Curve(knots=(-1.0, 0.0, 2.0), values=(-2.0, 0.5, 1.0))},
    }
    calibration = Calibration(
        "platt", fingerprint(tiny.TOLD, tiny.CONFIG, params, tables), "eval", {"click": "click"},
        {"click": Curve(scale=2.0)}, maps,
    )  # fmt: skip
    golden = tiny.golden_rows(np.random.default_rng(1), 6)
    for i, row in enumerate(golden):
        row["query"]["scenario"] = (*tiny.SCENARIOS, None)[i % 3]
    write_bundle(
        home / "bundle", schema=tiny.TOLD, config=tiny.CONFIG, params=params, tables=tables, metrics={},
        golden_rows=golden, calibration=calibration, platforms=("cpu",),
    )  # fmt: skip
    ads = tiny.ads_table(np.random.default_rng(3), 130)
    index_table(Bundle.load(home / "bundle"), ads).save(home / "index")
    return home


def queries(n: int, told: bool) -> list[dict]:
    found = tiny.queries(np.random.default_rng(9), n)
    return [{**q, **({"scenario": (*tiny.SCENARIOS, None)[i % 3]} if told else {})} for i, q in enumerate(found)]


def check(found: tuple, bundle: Path, index: Path, asked: list[dict], ids: list) -> None:
    """That a portable answer is the package's."""
    scorer = Scorer.load(bundle, index, max_k=K, warm=False)
    positions, utility, probabilities = found
    for b, answer in enumerate(scorer.top_k(asked, K)):
        np.testing.assert_allclose(utility[b, : len(answer)], [ad.score for ad in answer], rtol=1e-4)
        assert (utility[b, len(answer) :] == -np.inf).all()
        by_id = {ad.id: list(ad.probabilities.values()) for ad in answer}
        shown = [ids[p] for p in positions[b, : len(answer)]]
        assert set(shown) == set(by_id)
        np.testing.assert_allclose(probabilities[b, : len(answer)], [by_id[i] for i in shown], atol=1e-5)


def test_alone_it_scores_as_the_package_does(tiny_bundle: Path, tiny_index: Path, tmp_path: Path) -> None:
    file = tmp_path / "copied.py"
    shutil.copy(serving.portable.__file__, file)
    asked = queries(1, told=False)
    encoded = Encoder(tiny.SCHEMA).encode_queries(asked).arrays
    np.savez(tmp_path / "queries.npz", ids=encoded["query_ids"], floats=encoded["query_floats"])
    arguments = [str(p) for p in (file, tiny_bundle, tiny_index, tmp_path / "queries.npz")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, *arguments], capture_output=True, text=True, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told, answer = done.stdout.splitlines()
    assert told.startswith(f"{tiny_bundle}: sound; the golden rows differ by at most ")
    ids, *numbers = json.loads(answer)
    found = np.arange(K)[None], *(np.array(part)[None] for part in numbers)
    check(found, tiny_bundle, tiny_index, asked, ids)


def test_a_calibrated_bundle_by_scenario(calibrated: Path) -> None:
    bundle, index = PortableBundle.load(calibrated / "bundle"), PortableIndex.load(calibrated / "index")
    assert bundle.replay_golden() < 1e-5
    asked = queries(6, told=True)
    encoded = Encoder(tiny.TOLD).encode_queries(asked).arrays
    found = bundle.rank(index, encoded["query_ids"], encoded["query_floats"])
    check(found, calibrated / "bundle", calibrated / "index", asked, index.ids.tolist())


def test_an_index_of_few_ads_and_of_strings(calibrated: Path, tmp_path: Path) -> None:
    bundle, table = Bundle.load(calibrated / "bundle"), tiny.ads_table(np.random.default_rng(4), 30)
    few = index_table(bundle, table)
    named = AdIndex(few.vectors, [f"ad é {i}" for i in few.ids], few.bids, few.valid, few.fingerprint, "x", few.created)
    named.save(tmp_path / "index")
    index = PortableIndex.load(tmp_path / "index")
    assert index.ids == named.ids
    asked = queries(3, told=True)
    encoded = Encoder(tiny.TOLD).encode_queries(asked).arrays
    found = PortableBundle.load(calibrated / "bundle").rank(index, encoded["query_ids"], encoded["query_floats"])
    check(found, calibrated / "bundle", tmp_path / "index", asked, index.ids)
    rounded = index_table(bundle, table, "bf16")
    rounded.save(tmp_path / "rounded")
    np.testing.assert_array_equal(PortableIndex.load(tmp_path / "rounded").vectors, rounded.vectors.astype(np.float32))
    index_table(bundle, table, "int8").save(tmp_path / "int8")
    scale = np.abs(few.vectors).max(axis=-1, keepdims=True) / 127
    assert (np.abs(PortableIndex.load(tmp_path / "int8").vectors - few.vectors) <= 0.501 * scale).all()


@pytest.fixture
def expired(calibrated: Path, tmp_path: Path) -> Path:
    """The bundle, written long ago."""
    path = tmp_path / "expired"
    shutil.copytree(calibrated / "bundle", path)
    manifest = read_published(path, Manifest, BundleError)
    write_manifest(path, replace(manifest, stablehlo_expires="2024-02-29"))
    return path


def test_expired_stablehlo_is_refused_or_left_for_the_weights(
    expired: Path, calibrated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PortableError, match=r"its StableHLO expired on 2024-02-29; export the bundle again, or fall"):
        PortableBundle.load(expired)
    with caplog.at_level(logging.WARNING, "serving.portable"):
        bundle = PortableBundle.load(expired, expired="fall back")
    assert [r.getMessage() for r in caplog.records] == [
        f"{expired}: its StableHLO expired on 2024-02-29: computing from weights and configuration"
    ]
    assert bundle.replay_golden() < 1e-5
    index, asked = PortableIndex.load(calibrated / "index"), queries(3, told=True)
    encoded = Encoder(tiny.TOLD).encode_queries(asked).arrays
    found = bundle.rank(index, encoded["query_ids"], encoded["query_floats"])
    fresh = PortableBundle.load(calibrated / "bundle").rank(index, encoded["query_ids"], encoded["query_floats"])
    np.testing.assert_array_equal(found[0], fresh[0])
    np.testing.assert_allclose(found[1], fresh[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], fresh[2], atol=1e-6)


def test_stablehlo_that_this_jax_cannot_read(calibrated: Path, tmp_path: Path) -> None:
    path = tmp_path / "future"
    shutil.copytree(calibrated / "bundle", path)
    (path / "stablehlo" / "scorer.bin").write_bytes(b"of a version to come")
    _resign(path)
    with pytest.raises(PortableError, match=r"its StableHLO cannot be read by JAX \d"):
        PortableBundle.load(path)


def _resign(path: Path) -> None:
    """A manifest that agrees with the files as they are now."""
    from tt_jax.io.publish import describe_files

    old = json.loads((path / "manifest.json").read_text())
    manifest = {f.name: old[f.name] for f in fields(Manifest)} | {"files": describe_files(path)}
    write_manifest(path, Manifest(**manifest))


def test_every_changed_missing_or_added_byte_is_refused(calibrated: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, load in (("bundle", PortableBundle.load), ("index", PortableIndex.load)):
        root = tmp_path / kind
        shutil.copytree(calibrated / kind, root)
        files = sorted(p for p in root.rglob("*") if p.is_file())
        assert len(files) >= len(FUNCTIONS)
        for path in files:
            for _ in damages(path, rng):
                with pytest.raises(PortableError, match=path.name if path.name != "manifest.json" else "manifest"):
                    load(root)
        (root / "extra").write_text("")
        with pytest.raises(PortableError, match="extra: not in the manifest"):
            load(root)
        (root / "extra").unlink()
        (root / files[0].name).rename(tmp_path / "elsewhere")
        (root / files[0].name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(PortableError):
            load(root)
    with pytest.raises(PortableError, match="expected 'tt-jax bundle' version 2, found 'tt-jax ad index' version 3"):
        PortableBundle.load(calibrated / "index")
    with pytest.raises(PortableError, match="none: expected a directory with a manifest"):
        PortableBundle.load(tmp_path / "none")


def test_the_index_of_another_bundle_is_refused(calibrated: Path, tiny_index: Path) -> None:
    bundle, index = PortableBundle.load(calibrated / "bundle"), PortableIndex.load(tiny_index)
    with pytest.raises(PortableError, match=f"the index was made by the bundle {index.fingerprint}, but this one is "):
        bundle.rank(index, np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32))
