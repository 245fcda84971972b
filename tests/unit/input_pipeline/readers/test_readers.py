"""Readers: every format gives the same rows, in order, with file and row; what cannot be read is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from input_pipeline.readers import ReadError, delimited, parquet, read


def _table(first: int, rows: int) -> pa.Table:
    numbers = list(range(first, first + rows))
    texts = [f"t{i}" if i % 7 else None for i in numbers]
    return pa.table({"n": numbers, "text": texts, "half": [i / 2 for i in numbers]})


def _rows(source: object) -> list[dict]:
    return [row for _, _, table in read(str(source)) for row in table.to_pylist()]


def test_parquet_streams_chunks_that_know_their_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CHUNK_ROWS", 100)
    table = _table(0, 250)
    pq.write_table(table, tmp_path / "a.parquet")
    chunks = list(read(tmp_path / "a.parquet"))
    assert [(file, first, t.num_rows) for file, first, t in chunks] == [
        (str(tmp_path / "a.parquet"), first, rows) for first, rows in ((0, 100), (100, 100), (200, 50))
    ]
    assert pa.concat_tables([t for _, _, t in chunks]).to_pylist() == table.to_pylist()


def test_csv_and_gzip_equal_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 1000)
    table = _table(0, 500)
    csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for name in ("a.csv", "b.csv.gz"):
        chunks = list(read(tmp_path / name))
        assert len(chunks) > 3
        sizes = [t.num_rows for _, _, t in chunks]
        assert [first for _, first, _ in chunks] == [sum(sizes[:i]) for i in range(len(sizes))]
        assert _rows(tmp_path / name) == table.to_pylist()


def test_directory_and_glob_read_partition_columns_in_path_order(tmp_path: Path) -> None:
    for day, scenario in ((2, "shop"), (1, "home"), (1, "shop")):
        folder = tmp_path / f"scenario={scenario}" / f"day={day}"
        folder.mkdir(parents=True)
        pq.write_table(_table(10 * day, 3), folder / "part-0.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.parquet").write_text("not Parquet")
    for source in (tmp_path, tmp_path / "*" / "*" / "*.parquet"):
        rows = _rows(source)
        assert [(r["scenario"], r["day"]) for r in rows[::3]] == [("home", 1), ("shop", 1), ("shop", 2)]
        assert [r["n"] for r in rows] == [10, 11, 12, 10, 11, 12, 20, 21, 22]


def test_partition_values_are_text_unless_all_are_whole_numbers(tmp_path: Path) -> None:
    for key in ("1", "01"):
        (tmp_path / f"day={key}").mkdir()
        pq.write_table(_table(0, 1), tmp_path / f"day={key}" / "a.parquet")
    assert [r["day"] for r in _rows(tmp_path)] == ["01", "1"]


def test_a_file_without_rows_still_shows_its_columns(tmp_path: Path) -> None:
    pq.write_table(_table(0, 0), tmp_path / "a.parquet")
    [(_, first_row, table)] = read(tmp_path / "a.parquet")
    assert (first_row, table.num_rows, table.column_names) == (0, 0, ["n", "text", "half"])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    pq.write_table(_table(0, 5000), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.parquet").write_text("n,text\n1,a\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "ragged.csv").write_text("n,text\n1,a\n2,b,c\n")
    (tmp_path / "log.json").write_text('{\n "n": 1\n}')
    (tmp_path / "none").mkdir()
    damaged = bytearray(content)
    damaged[4:2000] = bytes(1996)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    cases = {
        "cut.parquet": "not readable as Parquet", "text.parquet": "not readable as Parquet",
        "damaged.parquet": "from row 0", "empty.csv": "no rows",
        "ragged.csv": "row 1: expected 2 columns, got 3",
        "log.json": "unknown format: JSON, but neither",
        "none": "holds no", "absent.parquet": "no such file", "*.arrow": "no file matches",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(ReadError, match=message) as error:
            list(read(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)
