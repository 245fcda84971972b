"""The ad index: vectors against the model in NumPy, what is stored, and the corpora and directories it turns away."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

from serving.index.ad_index import AdIndex, AdIndexError, IndexManifest, index_table
from tests.support import tiny
from tests.support.corpora import with_column, with_string_ids
from tests.support.damage import damages
from tests.support.reference_model import Reference
from tt_jax.bundle.reader import Bundle
from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoder
from tt_jax.io.publish import PublishError, describe_files, write_manifest


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def _table(n: int = 50, seed: int = 0) -> pa.Table:
    return tiny.ads_table(np.random.default_rng(seed), n)


def test_vectors_are_the_ad_towers(bundle: Bundle) -> None:
    table = _table()
    index = index_table(bundle, table)
    columns = {name: table.column(name) for name in table.column_names}
    arrays = Encoder(tiny.SCHEMA).encode(columns, ("ad",), outcomes=False).arrays
    reference = Reference(tiny.SCHEMA, tiny.CONFIG.model, bundle.params, bundle.tables)
    np.testing.assert_allclose(
        index.vectors, reference.tower("ad", arrays["ad_ids"], arrays["ad_floats"]), rtol=1e-4, atol=1e-4
    )
    assert (index.vectors.dtype, index.dtype) == (np.float32, "f32")
    np.testing.assert_array_equal(index.ids, table.column("ad_id").to_numpy())
    np.testing.assert_array_equal(index.bids, table.column("bid").to_numpy().astype(np.float32))
    np.testing.assert_array_equal(index.valid, table.column("eligible").to_numpy())
    assert index.fingerprint == bundle.fingerprint


def test_bf16_is_f32_rounded(bundle: Bundle) -> None:
    f32, bf16 = (index_table(bundle, _table(), dtype).vectors for dtype in ("f32", "bf16"))
    assert bf16.dtype == ml_dtypes.bfloat16
    # The programs differ, so a value next to a tie may round the other way.
    np.testing.assert_allclose(bf16.astype(np.float32), f32.astype(bf16.dtype).astype(np.float32), rtol=2**-7)
    assert not np.array_equal(bf16.astype(np.float32), f32)


def test_int8_is_within_half_a_scale_of_f32(bundle: Bundle) -> None:
    """The scale, a float32, follows the numbers of each ad and task; the largest number is 127."""
    f32, int8 = (index_table(bundle, _table(), dtype).vectors for dtype in ("f32", "int8"))
    assert (int8.dtype, int8.shape) == (np.int8, (*f32.shape[:2], f32.shape[2] + 4))
    numbers, scales = int8[..., :-4].astype(np.float32), np.ascontiguousarray(int8[..., -4:]).view(np.float32)
    assert (np.abs(numbers).max(axis=-1) == 127).all()
    assert (np.abs(numbers * scales - f32) <= 0.501 * scales).all()


def test_batches_make_no_difference_and_share_one_program(bundle: Bundle) -> None:
    compiled = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    whole = index_table(bundle, _table()).vectors
    jax.monitoring.register_event_duration_secs_listener(listen)
    parts = index_table(bundle, _table(), batch=16).vectors
    jax.monitoring.unregister_event_duration_listener(listen)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)
    assert len(compiled) == 1


@pytest.mark.parametrize(("dtype", "ids"), [("f32", "int"), ("bf16", "string"), ("int8", "int")])
def test_an_index_reads_back(bundle: Bundle, tmp_path: Path, dtype: Any, ids: str) -> None:
    table = _table()
    if ids == "string":
        bundle = with_string_ids(bundle)
        table = table.append_column("name", pa.array([f"ad {i} \u00e9\U0001f600" for i in range(len(table))]))
    index = index_table(bundle, table, dtype)
    index.save(tmp_path / "new" / "index")
    read = AdIndex.load(tmp_path / "new" / "index")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["index"]
    for name in ("vectors", "bids", "valid"):
        assert getattr(read, name).dtype == getattr(index, name).dtype
        np.testing.assert_array_equal(getattr(read, name), getattr(index, name))
    assert list(read.ids) == list(index.ids) == table.column(bundle.schema.ad_id).to_pylist()
    for name in ("fingerprint", "index_id", "created", "dtype"):
        assert getattr(read, name) == getattr(index, name)
    with pytest.raises(PublishError, match="already exists"):
        index.save(tmp_path / "new" / "index")


def test_the_id_is_that_of_the_content(bundle: Bundle) -> None:
    table = _table()
    first = index_table(bundle, table)
    assert index_table(bundle, table).index_id == first.index_id
    bids = table.column("bid").to_pylist()
    eligible = table.column("eligible").to_pylist()
    others = (
        _table(seed=1),
        table.slice(1),
        with_column(table, "bid", [bids[0] + 1, *bids[1:]]),
        with_column(table, "eligible", [not eligible[0], *eligible[1:]]),
    )
    found = {index_table(bundle, t).index_id for t in others} | {index_table(bundle, table, "bf16").index_id}
    other_bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, fingerprint="0"))
    found |= {index_table(other_bundle, table).index_id}
    assert len(found | {first.index_id}) == 7


def test_a_corpus_that_does_not_fit_is_refused(bundle: Bundle) -> None:
    table = _table()
    ids, bids = table.column("ad_id").to_pylist(), table.column("bid").to_pylist()
    eligible = table.column("eligible").to_pylist()

    def refused(table: pa.Table, message: str, bundle: Bundle = bundle) -> None:
        with pytest.raises(EncodeError, match=message):
            index_table(bundle, table, batch=16)

    refused(table.slice(0, 0), "'ad_id': the corpus is empty")
    refused(table.rename_columns([n.replace("bid", "bids") for n in table.column_names]), "'bid': .*missing.*'bids'")
    for name in ("price", "eligible", "ad_id"):
        refused(table.drop_columns([name]), f"'{name}': the column is missing")
    refused(with_column(table, "ad_id", [*ids[:20], ids[3], *ids[21:]]), rf"'ad_id', row 20: .*{ids[3]} as in row 3")
    refused(with_column(table, "ad_id", [*ids[:20], None, *ids[21:]]), "'ad_id', row 20: expected an id, got null")
    refused(with_column(table, "ad_id", [str(i) for i in ids]), "'ad_id': expected integers, got string")
    for bad, shown in ((float("nan"), "nan"), (None, "nan"), (-0.5, "-0.5"), (float("inf"), "inf"), (1e39, r"1e\+39")):
        refused(with_column(table, "bid", [*bids[:30], bad, *bids[31:]]), f"'bid', row 30: expected a float32.*{shown}")
    refused(with_column(table, "bid", ["1"] * 50), "'bid': expected numbers, got string")
    refused(with_column(table, "eligible", [*eligible[:9], None, *eligible[10:]]), "'eligible', row 9: .*null")
    refused(with_column(table, "eligible", [1] * 50), "'eligible': expected booleans, got int64")
    embeddings = [[0.0, 1.0, 2.0]] * 50
    embeddings[40] = [0.0]  # in the third batch
    refused(with_column(table, "ad_embedding", embeddings), "'ad_embedding', row 40: expected 3 numbers, got 1")
    strings = with_string_ids(bundle)
    refused(table.append_column("name", pa.array(["a", "b"] * 25)), "'name', row 2: .*'a' as in row 0", strings)
    refused(table.append_column("name", pa.array([*"a" * 49, None])), "'name', row 49: .*null", strings)


def test_every_changed_missing_or_added_file_is_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    index_table(bundle, _table()).save(tmp_path / "i")
    rng = np.random.default_rng(0)
    files = sorted((tmp_path / "i").iterdir())
    assert [p.name for p in files] == ["bids.npy", "ids.npy", "manifest.json", "valid.npy", "vectors.npy"]
    for path in files:
        for _ in damages(path, rng):
            with pytest.raises(AdIndexError, match=path.name):
                AdIndex.load(tmp_path / "i")
    (tmp_path / "i" / "more.npy").write_bytes(b"")
    with pytest.raises(AdIndexError, match=r"more\.npy: not in the manifest"):
        AdIndex.load(tmp_path / "i")
    with pytest.raises(AdIndexError, match="expected a directory with a manifest"):
        AdIndex.load(tmp_path / "none")


def test_an_index_made_by_hand_must_make_sense(bundle: Bundle, tmp_path: Path) -> None:
    """Files that the manifest agrees with, but that do not fit together."""
    root, index = tmp_path / "i", index_table(bundle, _table())
    index.save(root)

    def rewrite(**changes: Any) -> None:
        fields = json.loads((root / "manifest.json").read_text())
        del fields["digest"], fields["files"]
        fields = {**fields, "shape": tuple(fields["shape"]), **changes}
        write_manifest(root, IndexManifest(**fields, files=describe_files(root)))

    def refused(message: str) -> None:
        with pytest.raises(AdIndexError, match=message):
            AdIndex.load(root)

    rewrite(format="tt-jax bundle")
    refused("expected 'tt-jax ad index' version 1")
    rewrite(format="tt-jax ad index", shape=(1, 2, 3))
    refused(r"vectors\.npy: expected f32 \(1, 2, 3\), got f32 \(50, 3, 8\)")
    rewrite(shape=(50, 3, 8), id_dtype="string")
    refused(r"ids\.json")
    rewrite(id_dtype="int", dtype="bf16")
    refused(r"vectors\.npy: expected bf16 \(50, 3, 8\), got bf16 \(50, 3, 16\)")
    rewrite(dtype="f16")
    refused(r"manifest\.dtype: 'f16' is none of f32, bf16, int8")
    rewrite(dtype="f32")
    AdIndex.load(root)
    np.save(root / "bids.npy", index.bids[:-1])
    rewrite()
    refused(r"bids: expected float32 \(50,\), got float32 \(49,\)")
    np.save(root / "bids.npy", np.array([None, "code"], object), allow_pickle=True)
    rewrite()
    refused("pickle")
    np.save(root / "bids.npy", index.bids)
    for name, array, message in (
        ("vectors", np.zeros((0, 3, 8), np.float32), "at least one ad"),
        ("vectors", np.zeros((50, 3, 8)), "vectors: expected float32"),
        ("ids", np.arange(50, dtype=np.int32), "ids: expected int64"),
        ("valid", np.ones(50), "valid: expected bool"),
    ):
        with pytest.raises(AdIndexError, match=message):
            dataclasses.replace(index, **{name: array})
    with pytest.raises(AdIndexError, match="ids: expected 50 strings"):
        dataclasses.replace(index, ids=["a"] * 49)
