"""Which files of a directory, a pattern or a URL are read, as what, and what is said of the others."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.inspect.label_counts import Roles
from input_pipeline.inspect.survey import Log
from input_pipeline.inspect.survey import surveys as surveys_of
from input_pipeline.readers import ReadError, SkipUnknown, list_files, read
from input_pipeline.runner import Local, OnRay
from tests.support import log_files

TABLE = pa.table({"item": ["x1", "x2", "x3"], "price": [1.5, 2.5, None]})
LINES = b"item,price\nx1,1.5\nx2,2.5\nx3,\n"
OBJECTS = b"".join(json.dumps(row).encode() + b"\n" for row in TABLE.to_pylist())
ARRAY = json.dumps(TABLE.to_pylist(), indent=2).encode()
ROWS = TABLE.to_pylist()


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    return sink.getvalue().to_pybytes()


def _written(write: Callable[[pa.Table, Path], None], name: str) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        write(TABLE, folder / name)
        return (folder / name).read_bytes()

    return content


def _rows(source: object) -> list[dict]:
    return [row for _, _, table in read(str(source)) for row in table.to_pylist()]


TSV = LINES.replace(b",", b"\t")
lz4 = lambda content: pa.Codec("lz4").compress(content, asbytes=True)  # noqa: E731
zstd = lambda content: pa.Codec("zstd").compress(content, asbytes=True)  # noqa: E731
CONTENT = {
    "A.CSV": LINES, "a.csv.bz2": bz2.compress(LINES), "a.Csv.XZ": lzma.compress(LINES), "a.csv.lz4": lz4(LINES),
    "part-00000-4b1c.c000.csv.gz": gzip.compress(LINES), "a.tab": TSV, "a.TSV.zstd": zstd(TSV),
    "a.json": OBJECTS, "b.json": ARRAY, "c.json.gz": gzip.compress(ARRAY), "a.jsonl.xz": lzma.compress(OBJECTS),
    "a.ndjson.bz2": bz2.compress(OBJECTS),
    "a.pq": _parquet(), "a.PARQ": _parquet(), "part-00000-4b1c.c000.snappy.parquet": _parquet(),
    "part-00001.gz.parquet": _parquet(),
    "tf.tfrecords": _written(log_files.write_tfrecord, "w.tfrecord"),
    # By content.
    "000000_0": LINES, "000001_0": gzip.compress(TSV), "000002_0.bz2": bz2.compress(OBJECTS),
    "part-00000-4b1c": _parquet(),
    "part-00001-4b1c.c000": ARRAY, "log.txt": LINES, "log.dat": b"\xef\xbb\xbf" + TSV, "log.2024-01-07": OBJECTS,
    "log.data.zst": zstd(LINES), "000003_0": lzma.compress(LINES), "000004_0": lz4(OBJECTS),
    "tf": _written(log_files.write_tfrecord, "w.tfrecord"),
    "data_tfrecord-00000-of-00001.gz": _written(log_files.write_tfrecord, "w.tfrecord.gz"),
    "records-00000-of-00002": _written(log_files.write_array_record, "w.array_record"),
    "arrow": _written(log_files.write_arrow, "file.arrow"), "arrow_1": _written(log_files.write_arrow, "stream.arrow"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENT)
def test_every_spelling_of_a_format_is_read_by_name_or_by_content(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = CONTENT[name]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / name).write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    for source in (tmp_path / "log", tmp_path / "log" / name, f"{tmp_path}/l*/*"):
        assert _rows(source) == ROWS
    says = "read by their content" in capsys.readouterr().err
    assert says == (name in list(CONTENT)[list(CONTENT).index("000000_0") :])
    memory = fsspec.filesystem("memory")
    memory.put_file(str(tmp_path / "log" / name), f"/{tmp_path.name}/{name}")
    assert _rows(f"memory://{tmp_path.name}") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pq", LINES, "not readable as Parquet"),
        ("a.json", b'{\n "item": "x1"\n}\n', "neither an object a line nor one array"),
        ("a.json", b"[[1, 2], [3, 4]]", "neither an object a line nor one array"),
        ("a.json", LINES, "by its name JSON, by its content not"),
        ("a.orc", b"ORC\x0a\x00\xff\x00", "ORC: write it as Parquet"),
        ("a.csv.zip", b"PK\x03\x04\x00\xff", "a zip archive"),
        ("notes", b"Some words, not many.\nOthers.\n", "not of one number of cells in each line"),
        ("000000_0", b"x1\x011.5\nx2\x012.5\n", "without a line of names: it begins with"),
        ("a.bin", bytes(range(256)), "neither its name nor its first bytes tell"),
        ("a.parquet.gz", gzip.compress(_parquet()), "parquet inside of gzip: decompress it"),
        ("a.csv.bak", LINES, "by its name a backup"),
        ("a.csv~", LINES, "by its name a backup"),
        ("a.txt.gz", b"not gzip", "not readable as gzip"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_with_its_reason(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match=message) as error:
        _rows(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


UNREAD = {"b.orc": b"ORC\x00\xff", "c.xyz": b"\x00\x01", "day=1/notes.txt": b"words.\nSome more, words.\n"}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("where", ["directory", "pattern", "url"])
def test_a_data_file_that_is_not_read_is_an_error_unless_it_is_to_be_skipped(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path, {"a.csv": LINES, **UNREAD})
    source, unread = {"directory": str(tmp_path), "pattern": f"{tmp_path}/*"}.get(where, ""), 4
    if where == "url":
        source, unread = f"memory://{tmp_path.name}", 3
        fsspec.filesystem("memory").put(f"{tmp_path}/", f"/{tmp_path.name}", recursive=True)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    with pytest.raises(ReadError, match=f"{unread} files cannot be read: .*--skip-unknown") as error:
        list_files(source)
    for name in UNREAD:
        assert name in str(error.value)
    assert [f.rsplit("/", 1)[-1] for f in list_files(source, SkipUnknown())] == ["a.csv"]
    err = capsys.readouterr().err
    assert err.startswith(f"{source}: left out: {unread} files cannot be read: ")
    list_files(source, SkipUnknown())
    assert capsys.readouterr().err == ""  # told once


def test_what_holds_no_data_is_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("_SUCCESS", ".a.csv.crc", "README.txt", "LICENSE", "index.html", "_temporary/0/b.csv", ".ipynb/c.csv")
    _write(tmp_path, {"a.csv": LINES, "_day=2/a.csv": LINES, **dict.fromkeys(names, b"x")})
    assert len(_rows(tmp_path)) == 6
    line = "left out as no data, by name or as links to others, 7: "
    assert f"{tmp_path}: {line}" in capsys.readouterr().err
    fsspec.filesystem("memory").put(f"{tmp_path}/", f"/{tmp_path.name}", recursive=True)
    assert len(list_files(f"memory://{tmp_path.name}")) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("log", ["_delta_log/0.json", ".hoodie/hoodie.properties", "metadata/v1.metadata.json"])
def test_a_table_with_a_log_of_changes_is_not_read_as_plain_files(log: str, tmp_path: Path) -> None:
    _write(tmp_path, {"a.parquet": _parquet(), log: b"{}"})
    fsspec.filesystem("memory").put(f"{tmp_path}/", f"/{tmp_path.name}", recursive=True)
    sources = [str(tmp_path), f"memory://{tmp_path.name}"]
    for source in [*sources, f"{tmp_path}/*.parquet"] if log.startswith(("_", ".")) else sources:
        with pytest.raises(ReadError, match="rows that were deleted or replaced"):
            _rows(source)
        assert len(list_files(source, SkipUnknown())) == 1


def test_links_are_followed_each_real_folder_and_file_once(tmp_path: Path) -> None:
    _write(tmp_path, {"log/day=1/a.csv": LINES, "log/day=2/b.csv": LINES, "other/day=3/c.csv": LINES})
    log = tmp_path / "log"
    (log / "current").symlink_to(log / "day=2")  # before the folder itself in the order of names
    (log / "0.csv").symlink_to(log / "day=1" / "a.csv")
    (log / "day=1" / "up").symlink_to(log)
    (log / "more").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(log)
    names = [name.removeprefix(f"{log}/") for name in list_files(log)]
    assert names == ["day=1/a.csv", "day=2/b.csv", "more/day=3/c.csv"]
    assert [row["day"] for row in _rows(log)] == [1] * 3 + [2] * 3 + [3] * 3
    assert list_files(f"file://{log}") == list_files(log)


def test_a_pattern_that_matches_folders_reads_all_below_them_but_what_is_hidden(tmp_path: Path) -> None:
    hidden = dict.fromkeys(("_temporary/0/d.csv", "day=1/_tmp/e.csv", "day=1/.f.csv", "_SUCCESS", "g.crc"), b"x")
    _write(tmp_path / "_log", {"day=1/a.csv": LINES, "day=1/x/b.csv": LINES, "day=2/c.csv": LINES, **hidden})
    fsspec.filesystem("memory").put(f"{tmp_path}/", f"/{tmp_path.name}", recursive=True)
    for root in (f"{tmp_path}/_log", f"memory://{tmp_path.name}/_log"):
        for pattern in ("/day=*", "/*", "/**", "/*/**", "", "/"):
            assert [n.rsplit("/", 1)[-1] for n in list_files(root + pattern)] == ["a.csv", "b.csv", "c.csv"], pattern
        assert len(list_files(f"{root}/*/*")) == 3
        assert len(list_files(f"{root}/day=1/_tmp/*", SkipUnknown())) == 1


def test_empty_parts_are_told_and_have_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = {"b.csv": b"", "c.csv.gz": gzip.compress(b""), "000000_0": b"", "d.jsonl": b"", "e.tsv.bz2": b""}
    _write(tmp_path, {"a.csv": LINES, "header.csv": b"item,price\n", **empty})
    assert _rows(tmp_path) == ROWS
    err = capsys.readouterr().err
    assert f"{tmp_path}: empty files, without rows, 5: " in err
    assert all(str(tmp_path / name) in err for name in empty)
    assert "header" not in err


def test_values_of_folders_are_decoded_and_typed(tmp_path: Path) -> None:
    folders = (
        "city=S%C3%A3o%20Paulo/hour=07/n=1",
        "city=a%3Db/hour=10/n=-2",
        "city=__HIVE_DEFAULT_PARTITION__/hour=11/n=3",
    )
    for folder in folders:
        _write(tmp_path / folder, {"a.csv": b"item,price\nx1,1\n"})
    rows = {row["hour"]: row for row in _rows(tmp_path)}
    assert {(r["city"], r["hour"], r["n"]) for r in rows.values()} == {
        ("São Paulo", "07", 1), ("a=b", "10", -2), (None, "11", 3)
    }  # fmt: skip
    typed = {"hour": pa.int64(), "n": pa.string(), "city": pa.string()}
    found = [table for _, _, table in read(tmp_path, typed)]
    assert {(t["city"][0].as_py(), t["hour"][0].as_py(), t["n"][0].as_py()) for t in found} == {
        ("São Paulo", 7, "1"), ("a=b", 10, "-2"), (None, 11, "3")
    }  # fmt: skip
    assert {t.schema.field("city").type for t in found} == {pa.string()}
    with pytest.raises(ReadError, match="column 'city': expected int64, got"):
        list(read(tmp_path, {"city": pa.int64()}))
    _write(tmp_path / f"n={2**70}", {"a.csv": b"item,price\nx1,1\n"})
    assert {r["n"] for r in _rows(tmp_path)} == {"1", "-2", "3", str(2**70)}


def test_workers_tell_and_raise_as_here(on_ray: OnRay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, {"a.csv": b",item\n0,x\n", "b.csv": LINES, "c.orc": b"ORC\x00\xff"})
    for runner in (Local(), on_ray):
        with pytest.raises(ReadError, match="1 file cannot be read"):
            list(surveys_of(Log(str(tmp_path)), Roles({}, {}), runner))
    assert sum(s.rows for s in surveys_of(Log(str(tmp_path), errors=SkipUnknown()), Roles({}, {}), on_ray)) == 4
    err = capsys.readouterr().err
    assert f"{tmp_path}: column number 1 has no name; it is left out\n" in err
