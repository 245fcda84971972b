"""Bad rows of what is beside a log: of the corpus that is made of it, and of tables that are joined to it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from input_pipeline import logs
from input_pipeline.blocks import PreparedSet
from input_pipeline.manifest import ADS
from input_pipeline.prepare import prepare
from input_pipeline.quarantine import Quarantine
from input_pipeline.readers import ReadError
from tt_jax.schema import Feature, Schema, Task

SCHEMA = Schema(
    "joined",
    (
        Feature("user", "categorical", "query", "int", hash_size=100),
        Feature("ad", "categorical", "ad", "int", hash_size=100),
        Feature("size", "numeric", "ad"),
    ),
    (Task("click", "clicked"),),
    logs.EVERY_ROW,
    ("all",),
    "ad",
)
JOINS = {"ads.csv": "ad"}
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
        (ADS_TABLE.replace("2.5", "wide"), r"ads\.csv: column 'size': expected double, got string: .*wide"),
        (ADS_TABLE.replace("size", "sizes"), r"no column 'size'; did you mean 'sizes'"),
        (ADS_TABLE.replace("0.25", "much"), r"column 'bid': expected float, got string: .*much"),
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
