"""Tables that are joined to a log, and bad rows of what is beside it: of those tables, of the corpus made of it."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline import logs
from input_pipeline.blocks.manifest import ADS
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.logs.joins import join, read_side
from input_pipeline.prepare.quarantine import Quarantine
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import ReadError, read
from tests.support.joined_logs import JOINS, SCHEMA

LOG = "user,ad,clicked\n1,10,0\n2,11,1\n3,12,0\n"
ADS_TABLE = "ad,size,bid\n10,1.5,0.5\n11,2.5,0.25\n"


def _prepare(source: Path, quarantine: Quarantine | None = None) -> Path:
    chunks = logs.read_logs(source, SCHEMA, logs.every(2), JOINS, quarantine or logs.STRICT)
    ads = logs.ads_of_logs(source, SCHEMA, JOINS)
    prepare(SCHEMA, chunks, source / "set", ads=ads, quarantine=quarantine)
    return source / "set"


def _source(folder: Path, log: str, ads: str) -> Path:
    folder.mkdir()
    (folder / "log.csv").write_text(log)
    (folder / "ads.csv").write_text(ads)
    return folder


def test_a_bad_row_of_the_log_is_no_ad_of_the_corpus(tmp_path: Path) -> None:
    bad = LOG.replace("2,11,1", "2,11,1,9")
    with pytest.raises(ReadError, match=r"log\.csv: row 1: expected 3 columns, got 4"):
        _prepare(_source(tmp_path / "strict", bad, ADS_TABLE))
    out = _prepare(_source(tmp_path / "kept", bad, ADS_TABLE), Quarantine(1))
    assert PreparedSet.open(out).manifest.rejected == 1
    corpus = pq.read_table(out / ADS)
    assert corpus.select(["ad", "size"]).to_pylist() == [{"ad": 10, "size": 1.5}, {"ad": 12, "size": None}]


@pytest.mark.parametrize(
    ("ads", "message"),
    [
        (ADS_TABLE + "12,3.5\n", r"ads\.csv: row 2: expected 3 columns, got 2"),
        (ADS_TABLE + "11,3.5,1\n", r"ads\.csv: column 'ad' has duplicates"),
        (ADS_TABLE.replace("2.5", "wide"), r"ads\.csv: row 1: column 'size': expected double, got 'wide'"),
        (ADS_TABLE.replace("size", "sizes"), r"no column 'size'; did you mean 'sizes'"),
        (ADS_TABLE.replace("0.25", "much"), r"row 1: column 'bid': expected double, got 'much'"),
        (ADS_TABLE.replace("ad,", "id,"), r"ads\.csv: no column 'ad'"),
    ],
)
def test_what_is_wrong_in_a_joined_table_is_an_error_also_with_a_quarantine(
    ads: str, message: str, tmp_path: Path
) -> None:
    source = _source(tmp_path / "s", LOG, ads)
    with pytest.raises(ReadError, match=message) as error:
        _prepare(source, Quarantine(10))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(source))
    assert not (source / "set").exists()


SIDES = {
    "close numbers": pa.array([5, 3, None, 9, 4], pa.int32()),
    "far numbers": pa.array([2**60, -7, 12, None, 2**62]),
    "large numbers": pa.array([2**64 - 1, 0, 2**63], pa.uint64()),
    "texts": pa.array(["b", None, "", "ä"]),
    "dates": pa.array([datetime.date(2026, 1, day) for day in (4, 2, 9)]),
}


@pytest.mark.parametrize("kind", SIDES)
def test_a_join_is_a_lookup_by_key(kind: str, tmp_path: Path) -> None:
    keys = SIDES[kind]
    pq.write_table(pa.table({"key": keys, "x": range(len(keys)), "list": [[i, None] for i in range(len(keys))]}),
                   tmp_path / "side.parquet")  # fmt: skip
    side = read_side(tmp_path, "side.parquet", "key")
    row_of = {key: row for row, key in enumerate(keys.to_pylist()) if key is not None}
    absent = {"texts": "z", "dates": datetime.date(2020, 1, 1)}.get(kind, 77)
    asked = pa.array([*keys.to_pylist(), None, absent] * 3, keys.type)
    for own in (asked, asked.dictionary_encode(), asked.slice(2)):
        table = join(pa.table({"key": own, "list": pa.nulls(len(own))}), side, "log")
        expected = [row_of.get(key) for key in own.to_pylist()]
        assert table.column("x").to_pylist() == expected
        assert table.column("list").null_count == len(own)  # the log's own column


def test_the_texts_of_parquet_are_read_as_dictionaries_where_that_is_wanted(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None, "b", "a"], "number": [1, 2, 3, 4], "texts": [["a"], [], None, ["b"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    ((_, _, found),) = read(tmp_path / "a.parquet", dictionaries=True)
    assert found.schema.field("text").type == pa.dictionary(pa.int32(), pa.string())
    assert found.drop_columns("text").equals(table.drop_columns("text"))
    assert found.to_pylist() == table.to_pylist()


def test_a_joined_feature_is_encoded_as_if_the_files_had_it(tmp_path: Path) -> None:
    """Bytes of the set, of a log joined with its table and of one that has the columns, in chunks shorter than it."""
    rng = np.random.default_rng(0)
    sizes = [None if i % 7 == 0 else i / 8 for i in range(400)]
    log = pa.table({"user": rng.integers(0, 99, 60), "ad": rng.integers(0, 450, 60), "clicked": rng.integers(0, 2, 60)})
    for name in ("joined", "whole"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table({"ad": range(400), "size": sizes}), tmp_path / "joined" / "ads.parquet")
    pq.write_table(log, tmp_path / "joined" / "log.parquet")
    of_row = [sizes[ad] if ad < 400 else None for ad in log.column("ad").to_pylist()]
    pq.write_table(log.append_column("size", pa.array(of_row)), tmp_path / "whole" / "log.parquet")
    found = [
        prepare(SCHEMA, logs.read_logs(tmp_path / name, SCHEMA, logs.every(3), joins), tmp_path / f"{name}_set", 16)
        for name, joins in (("joined", {"ads.parquet": "ad"}), ("whole", {}))
    ]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].splits == found[1].splits
