"""An index of a file, made range by range here or by workers that are killed, is that of `index_table` of its table."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.runner import OnRay
from serving.index import build as indexing
from serving.index import parquet_corpus as ads_file
from serving.index.ad_index import AdIndex, index_table
from serving.index.build import build_index
from serving.index.parquet_corpus import ParquetCorpus, batches
from tests.support import tiny
from tests.support.corpora import with_column, with_string_ids
from tt_jax.bundle.reader import Bundle, BundleError
from tt_jax.features.columns import EncodeError
from tt_jax.io.publish import PublishError
from tt_jax.schema import SchemaError

pytestmark = pytest.mark.ray

N, BATCH = 203, 16
GROUPS = (40, 7, 3, 90, 63)  # ranges 0-48, 48-64, 64-144, 144-203


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ads_file, "_RANGE_BATCHES", 1)


def table(n: int = N) -> pa.Table:
    """Ads; one of the columns is a dictionary, which differs from row group to row group."""
    found = tiny.ads_table(np.random.default_rng(5), n)
    return with_column(found, "advertiser", found.column("advertiser").combine_chunks().dictionary_encode())


def write(ads: pa.Table, path: Path, groups: Sequence[int] = GROUPS) -> Path:
    with pq.ParquetWriter(path, ads.schema) as file:
        for start, rows in zip(np.cumsum([0, *groups[:-1]]), groups, strict=True):
            file.write_table(ads.slice(start, rows), row_group_size=max(rows, 1))
    assert pq.ParquetFile(path).metadata.num_rows == len(ads)
    return path


def content(index: Path) -> dict[str, bytes]:
    """Of all files; the manifest without its time and the digest, which depends on it."""
    found = {p.name: p.read_bytes() for p in index.iterdir()}
    manifest = json.loads(found["manifest.json"])
    del manifest["created"], manifest["digest"]
    return {**found, "manifest.json": json.dumps(manifest).encode()}


def by_table(bundle: Bundle, ads: pa.Table, out: Path, dtype: Any = "f32") -> dict[str, bytes]:
    index_table(bundle, ads, dtype, BATCH).save(out)
    return content(out)


@pytest.mark.parametrize(
    ("n", "groups", "ranges", "dtype"),
    [
        (N, GROUPS, [0, 48, 64, 144, N], "f32"),
        (N, (N,), [0, N], "bf16"),
        (N, (N,), [0, N], "int8"),
        (N, (1,) * N, [*range(0, N, BATCH), N], "f32"),
        (64, (32, 32), [0, 32, 64], "f32"),
        (BATCH + 1, (BATCH, 1), [0, BATCH, BATCH + 1], "f32"),
        (5, (2, 3), [0, 5], "f32"),  # fewer than a batch
    ],
)
def test_any_row_groups_give_the_index_of_the_table(
    n: int, groups: Sequence[int], ranges: list[int], dtype: Any, tiny_bundle: Path, tmp_path: Path
) -> None:
    ads, bundle = table(n), Bundle.load(tiny_bundle)
    file = write(ads, tmp_path / "ads.parquet", groups)
    assert ParquetCorpus.read(file, bundle.schema).ranges(min(n, BATCH)) == list(pairwise(ranges))
    expected = by_table(bundle, ads, tmp_path / "whole", dtype)
    assert build_index(tiny_bundle, file, tmp_path / "index", dtype, BATCH) == n
    assert content(tmp_path / "index") == expected
    assert AdIndex.load(tmp_path / "index").dtype == dtype
    assert sorted(os.listdir(tmp_path)) == ["ads.parquet", "index", "whole"]


def test_ids_may_be_strings(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_string_ids(Bundle.load(tiny_bundle))
    monkeypatch.setattr(Bundle, "load", lambda _: bundle)
    ads = table().append_column("name", pa.array([f"ad {i} \u00e9" for i in range(N)]))
    build_index(tiny_bundle, write(ads, tmp_path / "ads.parquet"), tmp_path / "index", batch=BATCH)
    assert content(tmp_path / "index") == by_table(bundle, ads, tmp_path / "whole")
    assert "ids.json" in content(tmp_path / "index")


def test_small_ranges_are_put_together(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ads_file, "_RANGE_BATCHES", 4)
    file = write(table(), tmp_path / "ads.parquet", (20,) * 10 + (3,))
    assert ParquetCorpus.read(file, tiny.SCHEMA).ranges(BATCH) == [(0, 64), (64, 128), (128, 192), (192, N)]


def test_parts_are_joined_as_they_are_made(tiny_bundle: Path, tmp_path: Path) -> None:
    seen = []

    def one_by_one(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            whole = Path(item.scratch).parent / "vectors.npy"
            seen.append((item.start, item.stop, os.listdir(item.scratch), whole.stat().st_size > 0 or item.start == 0))
            yield work(item)

    build_index(tiny_bundle, write(table(), tmp_path / "ads.parquet"), tmp_path / "i", batch=BATCH, map_work=one_by_one)
    assert [s[:2] for s in seen] == [(0, 48), (48, 64), (64, 144), (144, N)]
    assert [s[2:] for s in seen] == [([], True)] * 4


@dataclass(frozen=True)
class Deadly:
    """Work that kills its worker: once in the middle of a range, and once at the end of another."""

    flags: Path
    work: Callable[[Any], Any] = indexing._embed_range

    def __call__(self, item: Any) -> Any:
        embed = indexing.embed_batch

        def embed_or_die(encoder: Any, columns: Any, start: int, *rest: Any) -> np.ndarray:
            if start == 96:  # the third batch of the third range
                self.die("middle")
            return embed(encoder, columns, start, *rest)

        indexing.embed_batch = embed_or_die
        try:
            found = self.work(item)
        finally:
            indexing.embed_batch = embed
        if item.start == 144:
            self.die("end")
        return found

    def die(self, flag: str) -> None:
        if not (self.flags / flag).exists():
            (self.flags / flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_workers_change_nothing(tiny_bundle: Path, on_ray: OnRay, tmp_path: Path) -> None:
    ads, flags = table(), tmp_path / "flags"
    flags.mkdir()
    expected = by_table(Bundle.load(tiny_bundle), ads, tmp_path / "whole")
    file = write(ads, tmp_path / "ads.parquet")
    deadly = lambda _, items: on_ray.map(Deadly(flags), items)  # noqa: E731
    build_index(tiny_bundle, file, tmp_path / "index", batch=BATCH, map_work=deadly)
    assert content(tmp_path / "index") == expected
    assert sorted(os.listdir(flags)) == ["end", "middle"]
    assert sorted(os.listdir(tmp_path)) == ["ads.parquet", "flags", "index", "whole"]


def damaged(ads: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = ads.column(name).to_pylist()
    values[row] = value
    return with_column(ads, name, values)


def test_a_wrong_ad_is_told_the_same_wherever_it_is_read(tiny_bundle: Path, on_ray: OnRay, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    ids = table().column("ad_id").to_pylist()
    wrong = damaged(damaged(table(), "ad_embedding", 150, [1.0]), "ad_embedding", 100, [2.0])
    file = tmp_path / "ads.parquet"
    for ads, message, runs in (
        (wrong, "'ad_embedding', row 100: expected 3 numbers, got 1", (map, on_ray.map)),
        (
            damaged(wrong, "ad_id", 199, ids[3]),
            f"'ad_id', row 199: expected distinct ids, got {ids[3]} as in row 3",
            (map,),
        ),
        (damaged(table(), "bid", 150, -1.0), "'bid', row 150: expected a float32 number >= 0, got -1.0", (map,)),
        (table().drop_columns(["price"]), "'price': the column is missing; valid names: ", (map,)),
        (
            table().append_column("price", table().column("price")),
            "'price': two columns have this name, number",
            (map,),
        ),
        (table().slice(0, 0), "'ad_id': the corpus is empty", (map,)),
    ):
        write(ads, file, GROUPS if len(ads) else (0,))
        with pytest.raises(EncodeError) as told:
            index_table(bundle, ads, batch=BATCH)
        assert message in str(told.value)
        for run in runs:
            with pytest.raises(SchemaError) as error:
                build_index(tiny_bundle, file, tmp_path / "index", batch=BATCH, map_work=run)
            assert str(error.value) == f"{file}: {told.value}"
        assert os.listdir(tmp_path) == ["ads.parquet"]


def test_a_damaged_file_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    file = write(table(), tmp_path / "ads.parquet")
    whole = file.read_bytes()
    place = pq.ParquetFile(file).metadata.row_group(3).column(1).data_page_offset
    for data in (whole[:-9], whole[:place] + bytes(40) + whole[place + 40 :]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{file}: not a readable Parquet file: .") as error:
            build_index(tiny_bundle, file, tmp_path / "index", batch=BATCH)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        build_index(tiny_bundle, tmp_path / "none.parquet", tmp_path / "index")
    assert os.listdir(tmp_path) == ["ads.parquet"]


def test_a_bundle_that_changes_meanwhile_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    file = write(table(), tmp_path / "ads.parquet")

    def work_of_another(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return (work(replace(item, fingerprint="0" * 64)) for item in items)

    with pytest.raises(BundleError, match="another bundle since the index was begun"):
        build_index(tiny_bundle, file, tmp_path / "index", map_work=work_of_another)
    (tmp_path / "index").mkdir()
    with pytest.raises(PublishError, match="already exists"):
        build_index(tiny_bundle, file, tmp_path / "index")
    with pytest.raises(BundleError, match="expected a directory with a manifest"):
        build_index(tmp_path / "none", file, tmp_path / "other")


def test_batches_of_a_range_begin_where_it_does(tmp_path: Path) -> None:
    ads = table()
    file = write(ads, tmp_path / "ads.parquet")
    found = list(batches(file, ["price"], 48, 144, 40))
    assert [(start, rows.num_rows) for start, rows in found] == [(48, 40), (88, 40), (128, 16)]
    read = [v for _, rows in found for v in rows.column("price").to_pylist()]
    assert read == ads.column("price").to_pylist()[48:144]
