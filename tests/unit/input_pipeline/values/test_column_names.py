"""The names of columns: one rule, in every format, for `init`, `inspect` and `prepare`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from input_pipeline.inspect.label_counts import Roles
from input_pipeline.inspect.report import report_of
from input_pipeline.inspect.survey import survey
from input_pipeline.readers import Chunk, Errors, ReadError, read
from tests.support.cli import Call

FORMATS = ("csv", "tsv", "parquet", "arrow", "feather")


def _write(path: Path, names: list[str], columns: list[list[Any]]) -> Path:
    """A file of columns, whose names may be the same."""
    table = pa.Table.from_arrays([pa.array(c) for c in columns], names=names)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path), compression="uncompressed")
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        between = "\t" if path.suffix == ".tsv" else ","
        rows = [names, *([str(v) for v in row] for row in zip(*columns, strict=True))]
        path.write_text("".join(between.join(row) + "\n" for row in rows))
    return path


def _table(path: Path, **flags: Any) -> pa.Table:
    [(_, _, table)] = read(path, **flags)
    return table


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_without_a_name_and_the_index_of_pandas_are_left_out_and_told_once(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["", "ad", "Unnamed: 7", " ", "__index_level_0__", "__index__"]
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.{suffix}", names, [[i, 9] for i in range(6)])
    for _ in range(2):
        assert [table.column_names for _, _, table in read(tmp_path)] == [["ad", "__index__"]] * 2
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: column number 1 has no name; it is left out",
        f"{tmp_path}: column number 3 is named 'Unnamed: 7', as the index of pandas; it is left out",
        f"{tmp_path}: column number 4 has no name; it is left out",
        f"{tmp_path}: column number 5 is named '__index_level_0__', as the index of pandas; it is left out",
    ]
    assert _table(tmp_path / f"a.{suffix}", types={"Unnamed: 7": pa.int64()}).column_names[1] == "Unnamed: 7"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("second", ["price", " price"])
def test_two_columns_of_one_name_are_an_error(suffix: str, second: str, tmp_path: Path) -> None:
    path = _write(tmp_path / f"a.{suffix}", ["", "price", "ad", second], [[1], [2], [3], [4]])
    for dictionaries in (False, True):
        with pytest.raises(ReadError, match="two columns are named 'price', number 2 and number 4") as error:
            _table(path, dictionaries=dictionaries)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_lose_the_spaces_around_them_and_keep_their_case(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / f"a.{suffix}", ["\ufeffuser", " ad", "Ad"], [[1], ["007"], [3]])
    table = _table(path, types={"ad": pa.string()})
    assert table.to_pylist() == [{"user": 1, "ad": "007", "Ad": 3}]
    err = capsys.readouterr().err
    assert f"{path}: names are read without the spaces around them: " in err
    assert f"{path}: columns 'ad' and 'Ad' differ in case only; they are two columns" in err


class Kept(Errors):
    def __init__(self) -> None:
        self.rows: list[tuple[int, str]] = []

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        self.rows.append((row, reason))


LINES = [
    '{"a": 1, "b": {"c": 1, "d": ":"}}',
    '{"a": 1, "b": null, "a": 2}',
    '{"a" : 1, "\\u0061" :2}',
    '{"a": 1, "b": {"c": 1, "c": 2}}',
    '{"a": 4, "b": {"c": 5, "d": "\\":1,\\"a\\": "}}',
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_json_object_with_a_key_twice_is_a_bad_row(name: str, tmp_path: Path) -> None:
    content = "\n".join(LINES) if name == "a.jsonl" else f"[{','.join(LINES)}]"
    (tmp_path / name).write_text(content)
    errors = Kept()
    found = [row for _, _, table in read(tmp_path / name, errors=errors) for row in table.to_pylist()]
    assert found == [json.loads(LINES[0]), json.loads(LINES[4])]
    assert [row for row, _ in errors.rows] == [1, 2, 3]
    assert all(f"the key {key!r} comes twice" in why for key, (_, why) in zip("aac", errors.rows, strict=True))


def test_fields_of_a_struct_are_columns_of_inspect_by_different_names() -> None:
    fields = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["b", "c"])
    table = pa.table({"a": fields, "a.c": [5, 6]})
    report = report_of(survey([Chunk("all", "f", 0, table.select(["a"]))], Roles({}, {})), {})
    assert set(report["columns"]) == {"a.b", "a.c"}
    with pytest.raises(ReadError, match=r"f: two columns are named 'a\.c', number 2 and number 3"):
        survey([Chunk("all", "f", 0, table)], Roles({}, {}))


# ---- the verbs -------------------------------------------------------------------------------------------------------


def _log(path: Path, names: list[str]) -> None:
    """2,000 rows; a quarter of them clicked."""
    rng = random.Random(5)
    columns = [list(range(2000)), [rng.randrange(90) for _ in range(2000)], [rng.choice("abc") for _ in range(2000)],
               [rng.randrange(40) for _ in range(2000)], [int(i % 4 == 0) for i in range(2000)]]  # fmt: skip
    _write(path, names, columns)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_with_an_index_goes_through_every_verb(suffix: str, call: Call, tmp_path: Path) -> None:
    names = ["" if suffix == "csv" else "__index_level_0__", "user_id", " country", "ad_id", "clicked"]
    _log(tmp_path / f"log.{suffix}", names)
    log, recipe = str(tmp_path / f"log.{suffix}"), str(tmp_path / "mine.py")
    code, out, err = call("inspect", f"--data={log}", "--labels=clicked", f"--out={tmp_path / 'i'}")
    assert (code, "clicked 0.2500" in out) == (0, True), err
    assert {"user_id", "country", "ad_id", "clicked"} == set(
        json.loads((tmp_path / "i" / "inspect.json").read_text())["columns"]
    )
    assert call("init", f"--data={log}", f"--out={recipe}")[0] == 0
    text = Path(recipe).read_text()
    assert '"country"' in text
    assert "index_level" not in text
    code, out, err = call("prepare", recipe, f"--source={log}", f"--out={tmp_path / 'set'}")
    assert (code, "clicked 0.2" in out) == (0, True), err


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_with_a_name_twice_is_refused_by_every_verb(suffix: str, call: Call, tmp_path: Path) -> None:
    names = ["n", "user_id", "country", "ad_id", "clicked"]
    _log(tmp_path / f"log.{suffix}", names)
    log, recipe = str(tmp_path / f"log.{suffix}"), str(tmp_path / "mine.py")
    assert call("init", f"--data={log}", f"--out={recipe}")[0] == 0
    _log(tmp_path / f"log.{suffix}", ["country", *names[1:]])
    message = "two columns are named 'country', number 1 and number 3"
    assert message in call.refused("inspect", f"--data={log}")
    assert message in call.refused("init", f"--data={log}", f"--out={tmp_path / 'new.py'}")
    assert message in call.refused("prepare", recipe, f"--source={log}", f"--out={tmp_path / 'set'}")


def test_a_column_named_by_the_empty_text_is_no_mask() -> None:
    """As a recipe of one's own may have it."""
    columns = {"": list(range(100)), "clicked": [1, 0, 0, 0] * 25, "time": [1_700_000_000] * 100}
    report = report_of(survey([Chunk("all", "f", 0, pa.table(columns))], Roles({"clicked": "clicked"}, {})), {})
    assert report["labels"]["clicked"] == {"labelled": 100, "rate": 0.25}
    assert report["scenarios"] == {}
    assert report["days"] == []
