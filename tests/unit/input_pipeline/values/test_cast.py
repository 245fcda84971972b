"""What is read is what is in the file: exactly, as the types that are asked for, or refused by row, column, value."""

from __future__ import annotations

import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.readers import ReadError, TextFormat, delimited, read
from tests.support import log_files
from tests.support.quarantined import kept_rows
from tt_jax.features.arrow import plain
from tt_jax.features.columns import read_ids, read_lists

LARGE = 1_234_567_890_123_456_789
STRINGS, INTS, NUMBERS = pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.float64())


def found(path: Path, types: dict[str, pa.DataType] | None = None, text: TextFormat | None = None) -> dict[str, Any]:
    """The columns of a file, and their types as text."""
    tables = [table for _, _, table in read(path, types or {}, text=text or TextFormat())]
    whole = pa.concat_tables(tables)
    return {name: (str(whole.schema.field(name).type), whole.column(name).to_pylist()) for name in whole.column_names}


def csv_of(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("cells", "type_", "values"),
    [
        (["1", "", "NaN", str(LARGE)], "int64", [1, None, None, LARGE]),
        (["1", "null", str(2**64 - 1)], "uint64", [1, None, 2**64 - 1]),
        (["-1", str(2**63)], "string", ["-1", str(2**63)]),
        (["1", str(2**64)], "string", ["1", str(2**64)]),
        (["1", "007"], "string", ["1", "007"]),
        (["0.5", "007.5"], "string", ["0.5", "007.5"]),
        (["1", "+1"], "string", ["1", "+1"]),
        (["10", "0x1F"], "string", ["10", "0x1F"]),
        (["0.5", "7", " 8 ", "inf", "nan", "1e3"], "double", [0.5, 7, 8, np.inf, None, 1000]),
        (["0.5", str(2**53 + 1)], "string", ["0.5", str(2**53 + 1)]),
        (["0.5", "-0", "-0.25"], "double", [0.5, 0.0, -0.25]),
        (["true", "False", "NULL"], "bool", [True, False, None]),
        (["true", "1"], "string", ["true", "1"]),
        (["NULL", "x"], "string", ["NULL", "x"]),
        (["NULL", ""], "null", [None, None]),
        (["2024-01-31", "2024-02-01"], "string", ["2024-01-31", "2024-02-01"]),
    ],
)
def test_an_untyped_column_of_text_has_the_type_of_all_its_cells(
    cells: list[str], type_: str, values: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cell that decides is behind the first block."""
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 64)
    for order in (cells[:1] * 60 + cells, cells + cells[:1] * 60):
        path = csv_of(tmp_path, "x,y\n" + "".join(f"{cell},a\n" for cell in order))
        of_cell = dict(zip(cells, values, strict=True))
        assert found(path)["x"] == (type_, [None if of_cell[c] != of_cell[c] else of_cell[c] for c in order])


def test_a_number_that_is_whole_for_long_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 64)
    path = csv_of(tmp_path, "x\n" + "3\n" * 100 + "0.5\n")
    assert found(path, {"x": pa.float64()})["x"] == found(path)["x"] == ("double", [3.0] * 100 + [0.5])


WRONG = {
    "a float that may have been rounded": (pa.array([2.0**53]), pa.int64(), "may have been rounded"),
    "a fraction": (pa.array([1.5]), pa.string(), r"expected string, got 1\.5"),
    "an infinity": (pa.array([np.inf]), pa.int64(), "got inf"),
    "more than int64": (pa.array([2**63], pa.uint64()), pa.int64(), "got 9223372036854775808"),
    "more digits than int64": (pa.array(["9223372036854775808"]), pa.int64(), "got '9223372036854775808'"),
    "hexadecimal": (pa.array(["0x10"]), pa.int64(), "got '0x10'"),
    "other digits": (pa.array(["\u0663"]), pa.int64(), "got '\u0663'"),
    "a fraction by its exponent": (pa.array(["15e-1"]), pa.int64(), "got '15e-1'"),
    "a rounded power": (pa.array(["1.23E+17"]), pa.int64(), r"got '1\.23E\+17'"),
    "a rounded text": (pa.array(["9007199254740993.0"]), pa.int64(), "got '9007199254740993"),
    "a word": (pa.array(["many"]), pa.float64(), "expected double, got 'many'"),
    "no UTF-8": (pa.array([b"\xff"]), pa.string(), "expected UTF-8 text"),
    "a number for a list": (pa.array([7]), INTS, "expected list<.*got 7"),
    "a word in a list": (pa.array([["x"]]), INTS, r"got \['x'\]"),
    "text without a separator": (pa.array(["a|b"]), STRINGS, r"JSON array, got 'a\|b'.*separators=\{.x.: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_by_row_column_and_value(name: str, tmp_path: Path) -> None:
    array, type_, message = WRONG[name]
    good = pa.nulls(3, array.type)
    pq.write_table(pa.table({"x": pa.concat_arrays([good, array])}), tmp_path / "a.parquet")
    with pytest.raises(ReadError, match=rf"a\.parquet: row 3: column 'x': .*{message}"):
        found(tmp_path / "a.parquet", {"x": type_})


def test_whole_numbers_are_their_digits_where_text_is_wanted(tmp_path: Path) -> None:
    big = 2**64 - 1
    columns = {
        "ints": pa.array([LARGE, None]), "unsigned": pa.array([big, None], pa.uint64()),
        "floats": pa.array([7.0, np.nan]), "decimals": pa.array([decimal.Decimal(10**25), None], pa.decimal128(38)),
        "version": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(5, 2)),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    texts = {name: v for name, (_, v) in found(tmp_path / "a.parquet", dict.fromkeys(columns, pa.string())).items()}
    assert texts == {"ints": [str(LARGE), None], "unsigned": [str(big), None], "floats": ["7", None],
                     "decimals": [str(10**25), None], "version": ["1.10", None]}  # fmt: skip
    (tmp_path / "a.jsonl").write_text(f'{{"x": {10**25}, "y": {LARGE}}}\n{{"x": "007", "y": "8"}}\n')
    assert found(tmp_path / "a.jsonl", {"x": pa.string(), "y": pa.int64()}) == {
        "x": ("string", [str(10**25), "007"]), "y": ("int64", [LARGE, 8])
    }  # fmt: skip


ELEMENTS = [["home & garden", "Children's", ""], ["a,b"], None, ['say "x"', "[1]", " é "]]


@pytest.mark.parametrize("separator", ["|", "^", ";", "\t", " > "])
def test_lists_of_text_are_split_by_the_separator_and_by_nothing_else(separator: str, tmp_path: Path) -> None:
    texts = [None if row is None else separator.join(row) for row in ELEMENTS]
    table, text = pa.table({"x": texts, "n": range(4)}), TextFormat(separators={"x": separator})
    for name in ("log.csv", "log.jsonl", "log.parquet", "file.arrow"):
        log_files.WRITERS[name](table, tmp_path / name)
        assert found(tmp_path / name, {"x": STRINGS}, text)["x"] == ("list<item: string>", ELEMENTS), name


@pytest.mark.parametrize(
    ("cell", "separator"),
    [
        ("0.5 -1 2e3", " "), ("[0.5  -1\n 2000.]", " "), ("0.5,-1,2000", ","), ("(0.5; -1; 2000)", ";"),
        ("0.5|-1|2000", "|"), ("[0.5, -1, 2000]", "json"), ("[0.5, -1, 2000]", ""),
    ],
)  # fmt: skip
def test_a_vector_may_be_text(cell: str, separator: str, tmp_path: Path) -> None:
    text = TextFormat(separators={"v": separator} if separator else {})
    for name in ("log.csv", "log.jsonl", "log.parquet"):
        log_files.WRITERS[name](pa.table({"v": [cell, None], "n": [1, 2]}), tmp_path / name)
        assert found(tmp_path / name, {"v": NUMBERS}, text)["v"][1] == [[0.5, -1, 2000], None]


def test_a_list_as_python_prints_it(tmp_path: Path) -> None:
    path = csv_of(tmp_path, 'x,n\n"[\'a\', ""it\'s"", \'b, c\']",1\n')
    assert found(path, {"x": STRINGS})["x"][1] == [["a", "it's", "b, c"]]
    path = csv_of(tmp_path, 'x,n\n"[NaN, 0.5, -Infinity]",1\n')
    assert str(found(path, {"x": NUMBERS})["x"][1]) == "[[nan, 0.5, -inf]]"


def test_declared_markers_are_missing_in_every_column_of_text(tmp_path: Path) -> None:
    text = TextFormat(missing=("\\N", "-"), separators={"l": "|"})
    types = {"s": pa.string(), "n": pa.float64(), "i": pa.int64(), "l": STRINGS}
    rows = {"s": ["\\N", "NA"], "n": ["-", "1.5"], "i": ["-", "7.0"], "l": ["a|-|b", "\\N"]}
    expected = {"s": [None, "NA"], "n": [None, 1.5], "i": [None, 7], "l": [["a", None, "b"], None]}
    for name in ("log.csv", "log.jsonl", "log.parquet"):
        log_files.WRITERS[name](pa.table(rows), tmp_path / name)
        assert {n: values for n, (_, values) in found(tmp_path / name, types, text).items()} == expected, name


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_named_and_can_be_declared(delimiter: str, tmp_path: Path) -> None:
    path = csv_of(tmp_path, f"x{delimiter}y\n1{delimiter}a\n")
    with pytest.raises(ReadError, match=r"a\.csv: expected the delimiter ','.*declare TextFormat\(delimiter="):
        found(path)
    assert found(path, {}, TextFormat(delimiter=delimiter)) == {"x": ("int64", [1]), "y": ("string", ["a"])}
    for wrong in ("::", "é", '"'):
        with pytest.raises(ValueError, match="delimiter: expected one ASCII character"):
            TextFormat(delimiter=wrong)


def test_bytes_of_text(tmp_path: Path) -> None:
    """A mark of UTF-8, line ends of Windows, a line end and a NUL in a cell are read; other encodings are named."""
    content = '\ufeffx,y\r\n"a\r\nb","c\0"\r\n'
    assert found(csv_of(tmp_path, content)) == {"x": ("string", ["a\r\nb"]), "y": ("string", ["c\0"])}
    for content, message in (
        (b"x,y\n1,a\n2,caf\xe9\n", r"row 1: column 'y': expected UTF-8 text, got b'caf\\xe9'"),
        (b"caf\xe9,y\n1,a\n", "expected text in UTF-8, got the name"),
        ("x,y\n1,a\n".encode("utf-16"), "UTF-16"),
    ):
        with pytest.raises(ReadError, match=rf"a\.csv: .*{message}"):
            found(csv_of(tmp_path, content))


TEXTS = ["a", None, "", "é", "a"]
LISTS = [["a"], None, ["b", None], [], ["a", "é"]]
LAYOUTS = {
    "string": pa.array(TEXTS), "large": pa.array(TEXTS, pa.large_string()), "view": pa.array(TEXTS, pa.string_view()),
    "binary": pa.array([t and t.encode() if t else t if t is None else b"" for t in TEXTS]),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "large dictionary": pa.array(TEXTS, pa.dictionary(pa.int8(), pa.large_string())),
    "runs": pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4, 5], pa.array(TEXTS)),
}  # fmt: skip
LIST_LAYOUTS = [
    pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_view(pa.string()), pa.large_list_view(pa.string_view()),
    pa.list_(pa.string_view()), pa.list_(pa.large_string()), pa.list_(pa.dictionary(pa.int32(), pa.string())),
]  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_text_is_read(name: str, tmp_path: Path) -> None:
    with pa.ipc.new_file(tmp_path / "a.arrow", pa.schema([("x", LAYOUTS[name].type)])) as writer:
        writer.write_table(pa.table({"x": LAYOUTS[name]}))
    for types in ({}, {"x": pa.string()}):
        assert found(tmp_path / "a.arrow", types)["x"][1] == TEXTS
    if name != "binary":
        ids = read_ids("x", LAYOUTS[name].slice(1), "string", empty_is_id=False)
        assert ids.valid.tolist() == [False, False, True, True]


@pytest.mark.parametrize("type_", LIST_LAYOUTS, ids=str)
def test_every_layout_of_lists_is_read(type_: pa.DataType, tmp_path: Path) -> None:
    array = pa.array(LISTS, type_)
    with pa.ipc.new_stream(tmp_path / "a.arrow", pa.schema([("x", type_)])) as writer:
        writer.write_table(pa.table({"x": array}))
    assert found(tmp_path / "a.arrow", {"x": STRINGS})["x"] == ("list<item: string>", LISTS)
    assert read_lists("x", array.slice(2)).lengths.tolist() == [1, 0, 2]
    assert plain(array.slice(1, 3)).to_pylist() == LISTS[1:4]


def test_files_without_rows_among_others(tmp_path: Path) -> None:
    """Of text they may have no byte, or their line of names only; the others tell the types."""
    (tmp_path / "1.csv").write_text("")
    (tmp_path / "2.csv").write_text("x,y\n")
    (tmp_path / "3.jsonl").write_text("")
    (tmp_path / "4.csv").write_text("x,y\n1,a\n")
    pq.write_table(pa.table({"x": pa.array([], pa.int64()), "y": pa.array([], pa.string())}), tmp_path / "5.parquet")
    tables = [table for _, _, table in read(tmp_path)]
    assert pa.concat_tables(tables, promote_options="permissive").to_pylist() == [{"x": 1, "y": "a"}]


def test_the_values_of_a_bad_row_are_kept_as_they_are(tmp_path: Path) -> None:
    from input_pipeline.prepare.quarantine import QUARANTINE, Quarantine

    pq.write_table(pa.table({"x": ["1", "many"], "y": [0.5, np.inf], "z": [1, LARGE]}), tmp_path / "a.parquet")
    quarantine = Quarantine(1)
    quarantine.write_to(tmp_path)
    tables = [table for _, _, table in read(tmp_path / "a.parquet", {"x": pa.float64()}, quarantine)]
    assert pa.concat_tables(tables).to_pylist() == [{"x": 1.0, "y": 0.5, "z": 1}]
    (kept,) = kept_rows(tmp_path)
    assert kept["values"] == {"x": "many", "y": "inf", "z": LARGE}
    json.loads((tmp_path / QUARANTINE).read_text(), parse_constant=lambda name: pytest.fail(name))


def test_samples_are_json_that_a_request_can_say() -> None:
    from input_pipeline.blocks.samples import json_value

    found = json_value([np.inf, -np.inf, float("nan"), 0.5, LARGE, "x"])
    assert found == [1.7976931348623157e308, -1.7976931348623157e308, None, 0.5, LARGE, "x"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_matrix_without_columns_is_shuffled_though_it_comes_first() -> None:
    from input_pipeline.batches import _Shuffle

    block = {"query_ids": np.zeros((4, 0), np.int32), "labels": np.arange(4, dtype=np.float32)[:, None]}
    found = _Shuffle()([block], np.random.default_rng(0))
    assert found["query_ids"].shape == (4, 0)
    assert sorted(found["labels"][:, 0].tolist()) == [0, 1, 2, 3]
