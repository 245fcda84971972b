"""Bundles: what is written reads back, changes are refused, and the StableHLO computes what the model does."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.support import tiny
from tests.support.bundles import METRICS, SMALL, SMALL_CONFIG, _write, rewrite, write_small
from tests.support.damage import damages
from tests.support.paths import ROOT
from tt_jax.bundle.fingerprint import fingerprint
from tt_jax.bundle.reader import Bundle, BundleError
from tt_jax.bundle.stablehlo import SCORER_K
from tt_jax.bundle.writer import PLATFORMS
from tt_jax.features.encoder import Encoder
from tt_jax.schema import SchemaError


def test_a_bundle_reads_back(tmp_path: Path) -> None:
    golden = tiny.golden_rows(np.random.default_rng(1), 4)
    mark = _write(tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    bundle = Bundle.load(tmp_path / "b")
    params, tables = tiny.weights()
    assert (bundle.schema, bundle.config, bundle.metrics) == (tiny.SCHEMA, tiny.CONFIG, METRICS)
    for found, written in ((bundle.params, params), (bundle.tables, tables)):
        assert found.keys() == written.keys()
        for name, array in found.items():
            assert type(array) is np.ndarray
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, np.asarray(written[name]))
    assert [{"query": g.query, "ad": g.ad} for g in bundle.golden] == golden
    assert bundle.replay_golden() < 1e-6
    manifest = bundle.manifest
    assert bundle.fingerprint == mark == fingerprint(tiny.SCHEMA, tiny.CONFIG, params, tables)
    assert (manifest.tasks, manifest.utility) == (tiny.SCHEMA.task_names, "bid * click")
    assert manifest.stablehlo_platforms == PLATFORMS
    for file in (tmp_path / "b" / "stablehlo").glob("*.bin"):
        assert jax.export.deserialize(bytearray(file.read_bytes())).platforms == PLATFORMS, file
    assert manifest.stablehlo_expires > manifest.created[:10]
    assert manifest.jax == jax.__version__


def test_no_path_of_this_machine_is_in_a_bundle(tmp_path: Path) -> None:
    before = jax.config.jax_hlo_source_file_canonicalization_regex
    write_small(tmp_path / "b")
    assert jax.config.jax_hlo_source_file_canonicalization_regex == before
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file():
            for place in (ROOT, Path(sys.prefix), Path(jax.__file__).parent, tmp_path):
                assert str(place).encode() not in path.read_bytes(), path


def test_no_utility_means_the_first_task(tmp_path: Path) -> None:
    write_small(tmp_path / "b")
    assert Bundle.load(tmp_path / "b").manifest.utility == "click"


def test_every_changed_missing_or_added_file_is_refused_by_name(tmp_path: Path) -> None:
    write_small(tmp_path / "b")
    root = tmp_path / "b"
    files = sorted(p for p in root.rglob("*") if p.is_file())
    assert {"manifest.json", "schema.json", "golden.json", "scorer.bin"} <= {p.name for p in files}
    rng = np.random.default_rng(0)
    for path in files:
        for _ in damages(path, rng):
            with pytest.raises(BundleError, match=re.escape(path.name)):
                Bundle.load(root)
    (root / "stablehlo" / "extra").write_text("")
    with pytest.raises(BundleError, match=r"extra: not in the manifest"):
        Bundle.load(root)
    (root / "stablehlo" / "extra").unlink()
    assert Bundle.load(root).schema == SMALL
    with pytest.raises(BundleError, match="nothing: expected a directory"):
        Bundle.load(tmp_path / "nothing")


def test_a_bundle_made_by_hand_must_make_sense(tmp_path: Path) -> None:
    """Files that the manifest agrees with, but that do not fit together."""
    write_small(tmp_path / "b")
    _write(tmp_path / "other")
    files = ("schema.json", "config.json", "golden.json", "metrics.json")
    sound = {name: (tmp_path / "b" / name).read_text() for name in files}
    config, golden = json.loads(sound["config.json"]), json.loads(sound["golden.json"])
    model, probabilities = config["model"], {"click": 1.5}
    for name, text, message in (
        ("config.json", json.dumps({**config, "sed": 0}), r"config\.json: config: unknown key 'sed'"),
        ("schema.json", sound["schema.json"].replace("small", "smaller"), "fingerprint .* of its content"),
        ("schema.json", (tmp_path / "other" / "schema.json").read_text(), "tasks"),
        ("config.json", json.dumps({**config, "model": {**model, "experts": 2}}), r"weights\.npz: params .*missing"),
        ("config.json", json.dumps({**config, "model": {**model, "output_dim": 3}}), r"weights\.npz: params .*float32"),
        ("golden.json", "[]", r"golden\.json: expected a list of at least one row"),
        ("golden.json", json.dumps([{**golden[0], "probabilities": probabilities}]), "row 0: .*within 0..1"),
        ("golden.json", json.dumps([{**golden[0], "probabilities": {}}]), "row 0: expected probabilities of click"),
        ("golden.json", json.dumps([{"query": {}}]), "row 0: expected an object"),
        ("metrics.json", "3", r"metrics\.json: expected an object"),
        ("metrics.json", "[" * 100_000, r"metrics\.json"),
    ):
        rewrite(tmp_path / "b", {**sound, name: text})
        with pytest.raises(BundleError, match=message):
            Bundle.load(tmp_path / "b")
    rewrite(tmp_path / "b", sound)
    assert Bundle.load(tmp_path / "b").schema == SMALL
    for changes, message in (({"format": "x"}, "expected 'tt-jax bundle'"), ({"format_version": 1}, "version 1")):
        rewrite(tmp_path / "b", sound, **changes)
        with pytest.raises(BundleError, match=message):
            Bundle.load(tmp_path / "b")


def test_weights_that_numpy_cannot_read_are_refused(tmp_path: Path) -> None:
    write_small(tmp_path / "b")
    path = tmp_path / "b" / "weights.npz"
    sound = dict(np.load(path))
    name = "params/bias"

    def refused(message: str) -> None:
        rewrite(tmp_path / "b", {})
        with pytest.raises(BundleError, match=rf"weights\.npz: {message}"):
            Bundle.load(tmp_path / "b")

    np.savez_compressed(path, **sound)
    refused("packed arrays")
    np.savez(path, **{**sound, name: np.array([None])}, allow_pickle=True)
    refused("NumPy cannot read it: Object arrays")
    np.savez(path, **{**sound, "moments/bias": sound[name]})
    refused("'moments/bias': expected the arrays of 'params' and 'tables'")
    np.savez(path, **{**sound, name: sound[name].astype(np.float64)})
    refused("params 'bias': expected float32")
    path.write_bytes(b"")
    refused("NumPy cannot read it: File is not a zip file")
    np.savez(path, **sound)
    rewrite(tmp_path / "b", {})
    assert Bundle.load(tmp_path / "b").schema == SMALL


def test_orbax_restores_the_weights(tmp_path: Path) -> None:
    write_small(tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore((tmp_path / "b" / "orbax").resolve())
    for group, expected in (("params", bundle.params), ("tables", bundle.tables)):
        assert restored[group].keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(restored[group][name], array)


def test_the_fingerprint_is_that_of_schema_model_and_weights(tmp_path: Path) -> None:
    params, tables = tiny.weights()
    mark = fingerprint(tiny.SCHEMA, tiny.CONFIG, params, tables)
    assert mark == _write(tmp_path / "a", metrics={}) == _write(tmp_path / "b")
    assert mark == fingerprint(tiny.SCHEMA, dataclasses.replace(tiny.CONFIG, utility="click", seed=3), params, tables)
    assert mark == fingerprint(
        tiny.SCHEMA, tiny.CONFIG, dict(reversed(params.items())), {k: np.asarray(v) for k, v in tables.items()}
    )
    name = next(iter(tables))
    changed = np.array(tables[name])
    changed.reshape(-1).view(np.uint32)[-1] ^= 1
    wider = dataclasses.replace(tiny.CONFIG, model=dataclasses.replace(tiny.CONFIG.model, dropout=0.5))
    others = {
        mark,
        fingerprint(tiny.SCHEMA, tiny.CONFIG, params, {**tables, name: changed}),
        fingerprint(tiny.SCHEMA, tiny.CONFIG, {**params, "bias": -params["bias"]}, tables),
        fingerprint(tiny.SCHEMA, tiny.CONFIG, params, {**tables, name: np.array(tables[name]).reshape(-1)}),
        fingerprint(tiny.SCHEMA, wider, params, tables),
        fingerprint(dataclasses.replace(tiny.SCHEMA, name="x"), tiny.CONFIG, params, tables),
    }
    assert len(others) == 6


def test_golden_rows_catch_changed_weights_and_a_changed_encoder(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.replay_golden() < 1e-6
    bias = bundle.params["bias"].copy()
    bias[1] += 0.01
    with pytest.raises(BundleError, match=r"golden\.json: row \d+, task 'conversion': expected the probability"):
        dataclasses.replace(bundle, params={**bundle.params, "bias": bias}).replay_golden()
    with pytest.raises(BundleError, match=r"golden\.json"):
        dataclasses.replace(bundle, params={**bundle.params, "bias": bias * np.float32(np.nan)}).replay_golden()
    features = tuple(dataclasses.replace(f, std=14.0) if f.name == "age" else f for f in tiny.SCHEMA.features)
    with pytest.raises(BundleError, match=r"golden\.json"):
        dataclasses.replace(bundle, schema=dataclasses.replace(tiny.SCHEMA, features=features)).replay_golden()


def test_golden_rows_replay_in_bfloat16_within_its_tolerance(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    bf16 = dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, precision="bf16"))
    assert 1e-6 < bf16.replay_golden() < 5e-2


@pytest.mark.parametrize("tower", ["query", "ad"])
def test_stablehlo_towers_compute_what_the_model_does(tiny_bundle: Path, tower: Any) -> None:
    exported = jax.export.deserialize(bytearray((tiny_bundle / "stablehlo" / f"{tower}_tower.bin").read_bytes()))
    params, tables = tiny.weights()
    arrays = Encoder(tiny.SCHEMA).encode(tiny.columns(np.random.default_rng(0), 64), outcomes=False).arrays
    ids, floats = arrays[f"{tower}_ids"], arrays[f"{tower}_floats"]
    live = jax.jit(tiny.model().embed, static_argnums=2)(params, tables, tower, ids, floats)
    for n in (1, 7, 64):
        found = jax.jit(exported.call)(params, tables, ids[:n], floats[:n])
        np.testing.assert_allclose(found, live[:n], rtol=1e-5, atol=1e-5)


def test_the_stablehlo_scorer_ranks_as_numpy_does(tiny_bundle: Path) -> None:
    exported = jax.export.deserialize(bytearray((tiny_bundle / "stablehlo" / "scorer.bin").read_bytes()))
    tasks, width = len(tiny.SCHEMA.tasks), tiny.CONFIG.model.output_dim
    for b, n, share in ((1, 100, 0.5), (3, 257, 0.9), (9, 1000, 0.05)):
        rng = np.random.default_rng(n)
        queries, ads = (rng.normal(size=(size, tasks, width)).astype(np.float32) for size in (b, n))
        bias, bids = rng.normal(size=tasks).astype(np.float32), rng.exponential(size=n).astype(np.float32)
        valid = rng.random(n) < share
        scenarios = np.zeros(b, np.int32)
        positions, utility, probabilities = map(np.asarray, exported.call(queries, ads, bias, bids, valid, scenarios))
        logits = np.einsum("btd,ntd->bnt", queries.astype(np.float64), ads) + bias
        expected = 1 / (1 + np.exp(-logits))
        ranked = np.where(valid, bids * expected[:, :, 0], -np.inf)
        best = -np.sort(-ranked, axis=1)[:, :SCORER_K]
        np.testing.assert_allclose(utility, best, rtol=1e-4)
        shown = np.isfinite(utility)
        assert shown.sum() == b * min(valid.sum(), SCORER_K)
        for row in range(b):
            at = positions[row, shown[row]]
            assert valid[at].all()
            assert len(set(at)) == len(at)
            np.testing.assert_allclose(probabilities[row, shown[row]], expected[row, at], atol=1e-5)


def test_a_failure_leaves_nothing_half_written(tmp_path: Path) -> None:
    params, tables = tiny.weights(schema=SMALL, config=SMALL_CONFIG)
    unknown = [{"query": {"usr": "u"}, "ad": {}}]
    wrong = [{"query": {"user": 3}, "ad": {"ad": "x"}}]
    for changes, error, message in (
        ({"metrics": {"auc": float("nan")}}, ValueError, "JSON compliant"),  # when half of it has been written
        ({"golden_rows": []}, ValueError, "at least one row"),
        ({"golden_rows": unknown}, ValueError, r"golden_rows\[0\]: 'usr' is no feature of the query tower"),
        ({"golden_rows": wrong}, SchemaError, "column 'user', row 0: expected a string, got 3"),
        ({"config": dataclasses.replace(SMALL_CONFIG, utility="clik")}, ValueError, "unknown name 'clik'"),
        ({"params": {}}, BundleError, "params .*missing"),
        ({"tables": {**tables, "dim9": tables["dim2"]}}, BundleError, "tables 'dim9': unknown to the model"),
        ({"tables": {"dim2": tables["dim2"][:-1]}}, BundleError, r"expected float32 \(10, 2\), got float32 \(9, 2\)"),
        ({"params": {**params, "bias": np.zeros(1)}}, BundleError, "'bias': expected float32 .* got float64"),
    ):
        with pytest.raises(error, match=message):
            write_small(tmp_path / "b", **changes)
        assert list(tmp_path.iterdir()) == []
    write_small(tmp_path / "b")
    with pytest.raises(ValueError, match="already exists"):
        write_small(tmp_path / "b")
