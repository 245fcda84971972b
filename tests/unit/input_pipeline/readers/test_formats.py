"""Every format gives the same prepared set, from a disk or a URL; what is wrong in a file is told by row and column."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk, ReadError, arrow_types, list_files, read
from input_pipeline.sources.crc32c import crc32c
from input_pipeline.sources.detect_format import FORMATS, JSON_ARRAY, by_name
from tests.support import log_files, tiny

ROWS = 250
TYPES = arrow_types(tiny.SCHEMA)


@pytest.fixture(scope="module")
def log() -> pa.Table:
    """Rows whose numbers are exact in the float32 of an Example."""
    found = tiny.columns(np.random.default_rng(3), ROWS)
    for name in ("price", "importance", "teacher_score", "age"):
        found[name] = [None if v is None else round(v * 64) / 64 for v in found[name]]
    for name in ("query_embedding", "ad_embedding"):
        found[name] = [None if v is None else [round(x * 64) / 64 for x in v] for v in found[name]]
    return pa.table(found)


def _chunks(source: str | Path) -> Iterator[Chunk]:
    return (Chunk("train", file, row, table) for file, row, table in read(source, TYPES))


@pytest.fixture(scope="module")
def fingerprint(log: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the rows prepared from memory."""
    out = tmp_path_factory.mktemp("formats") / "set"
    return prepare(tiny.SCHEMA, [Chunk("train", "log", 0, log)], out, 64).fingerprint


def test_every_row_of_the_table_of_formats_is_tested_here() -> None:
    """A JSON array is tested with the listing, which tells it from an object a line."""
    assert {by_name(name)[0] for name in log_files.WRITERS} == FORMATS.keys() - {JSON_ARRAY}


@pytest.mark.parametrize("name", log_files.WRITERS)
def test_every_format_prepares_to_the_same_fingerprint(
    name: str, log: pa.Table, fingerprint: str, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    log_files.WRITERS[name](log, tmp_path / "logs" / name)
    assert prepare(tiny.SCHEMA, _chunks(tmp_path / "logs" / name), tmp_path / "a", 64).fingerprint == fingerprint
    memory = fsspec.filesystem("memory")
    folder = f"/{tmp_path.name}"
    memory.put_file(str(tmp_path / "logs" / name), f"{folder}/{name}")
    for url in (f"memory:/{folder}", f"memory:/{folder}/*", f"memory:/{folder}/{name}"):
        [file] = list_files(url)
        assert file.startswith("memory://")
        assert file.endswith(f"{folder}/{name}")
    assert prepare(tiny.SCHEMA, _chunks(f"memory:/{folder}"), tmp_path / "b", 64).fingerprint == fingerprint


def test_formats_mix_in_one_directory(log: pa.Table, fingerprint: str, tmp_path: Path) -> None:
    step = -(-ROWS // len(log_files.WRITERS))
    for i, (name, write) in enumerate(log_files.WRITERS.items()):
        (tmp_path / "logs" / f"part={i:02d}").mkdir(parents=True)
        write(log.slice(i * step, step), tmp_path / "logs" / f"part={i:02d}" / name)
    assert prepare(tiny.SCHEMA, _chunks(tmp_path / "logs"), tmp_path / "set", 64).fingerprint == fingerprint


def test_checksums_are_those_of_the_definition() -> None:
    assert log_files.crc32c(b"123456789") == 0xE3069283
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(n)) for n in (0, 1, 300, 7, 7, 64, 0, 299)]
    assert crc32c(records).tolist() == [log_files.crc32c(r) for r in records]
    assert crc32c([]).tolist() == []


def test_without_types_the_look_decides(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": "x"}\n\n{"a": 2.5, "c": [1]}\n')
    rows = [row for _, _, table in read(tmp_path / "a.jsonl") for row in table.to_pylist()]
    assert rows == [{"a": 1, "b": "x"}, {"a": 2.5, "b": None, "c": [1]}]


_LINES = "n,text,tags\n1,a,[1]\n2,b,[]\nthree,c,[3]\n4,d\n5,e,[5\n6,f,[6]\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", _LINES.replace("4,d", '4,d,""'), r"row 2: column 'n': expected int64, got 'three'"),
        ("b.csv", _LINES.replace("three", "3"), r"row 3: expected 3 columns, got 2: '4,d'"),
        ("c.csv", _LINES.replace("three", "3").replace("4,d", '4,d,""'), r"row 4: column 'tags': .* JSON array"),
        ("a.jsonl", '{"n": 1}\n{"n": \n', r"row 1: not a JSON object"),
        ("b.jsonl", '{"n": 1}\n[1]\n', r"row 1: not a JSON object"),
        ("c.jsonl", '{"n": 1}\n{"n": "x"}\n', r"row 1: column 'n': expected int64, got 'x'"),
        ("d.jsonl", '{"n": 1}\n{"tags": [1, "x"]}\n', r"row 1: column 'tags': expected list<.*int64>, got \[1, 'x'\]"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_by_file_row_column_and_value(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ReadError, match=message) as error:
        list(read(tmp_path / name, {"n": pa.int64(), "tags": pa.list_(pa.int64())}))
    assert str(error.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("name", [n for n in log_files.WRITERS if n not in ("log.csv", "log.jsonl")])
def test_a_truncated_file_is_an_error(name: str, log: pa.Table, tmp_path: Path) -> None:
    log_files.WRITERS[name](log, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for part in (2, 3):
        (tmp_path / name).write_bytes(content[: len(content) * part // 4])
        with pytest.raises(ReadError) as error:
            list(read(tmp_path / name, TYPES))
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "row " in str(error.value)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_text_file_cut_within_a_row_is_an_error(name: str, log: pa.Table, tmp_path: Path) -> None:
    log_files.WRITERS[name](log, tmp_path / name)
    lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
    (tmp_path / name).write_bytes(b"".join(lines[:100]) + lines[100][:30])
    with pytest.raises(ReadError, match=f"{name}.*: row {100 - (name == 'log.csv')}: "):
        list(read(tmp_path / name, TYPES))


def test_a_flipped_bit_in_a_tfrecord_is_found(log: pa.Table, tmp_path: Path) -> None:
    records = [log_files.framed(r) for r in log_files.examples(log.slice(0, 10))]
    for at, message in ((3, "row 4: the checksum of the record's length"), (40, "row 4: the record's checksum")):
        damaged = bytearray(records[4])
        damaged[at] ^= 1
        (tmp_path / "a.tfrecord").write_bytes(b"".join([*records[:4], bytes(damaged), *records[5:]]))
        with pytest.raises(ReadError, match=message):
            list(read(tmp_path / "a.tfrecord", TYPES))


def test_an_example_that_does_not_fit_is_named(log: pa.Table, tmp_path: Path) -> None:
    wrong = pa.table({"ad_id": [[1], [1, 2]]})
    log_files.write_tfrecord(wrong, tmp_path / "a.tfrecord")
    with pytest.raises(ReadError, match=r"row 1: column 'ad_id': expected one value, got 2: \[1, 2\]"):
        list(read(tmp_path / "a.tfrecord", TYPES))
    (tmp_path / "b.tfrecord").write_bytes(log_files.framed(b"\xff" * 20))
    with pytest.raises(ReadError, match=r"row 0: not a tf\.train\.Example"):
        list(read(tmp_path / "b.tfrecord", TYPES))


def test_a_url_that_cannot_be_listed_is_named() -> None:
    for url, message in (("memory://no/such", "no such file"), ("nosuchprotocol://a/b", "cannot be listed")):
        with pytest.raises(ReadError, match=message) as error:
            list(read(url))
        assert str(error.value).startswith(url)


def test_no_reader_imports_tensorflow() -> None:
    code = "import input_pipeline.readers, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
