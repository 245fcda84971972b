"""Labels that compare a column: the same from every format, missing where the column is, else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from input_pipeline.logs import EVERY_ROW, ROW_NUMBER, every, read_logs
from input_pipeline.readers import ReadError
from input_pipeline.values.label_expression import Comparison
from tests.support.log_files import WRITERS
from tt_jax.schema import Feature, Schema, Task

LOG = {
    "rating": [5.0, 3.5, None, 4.0, 0.5, 4.5],
    "clicked": [-1, 1, 1, None, -1, 1],
    "event": ["buy", "view", None, "a=b", "buy ", "Buy"],
    "u": range(6),
    "a": range(6),
}
EXPECTED = {
    "rating>=4": [1, 0, None, 1, 0, 1],
    "rating > 4": [1, 0, None, 0, 0, 1],
    "rating<3.5": [0, 0, None, 0, 1, 0],
    "rating<=3.5": [0, 1, None, 0, 1, 0],
    "rating=4": [0, 0, None, 1, 0, 0],
    "clicked=1": [0, 1, 1, None, 0, 1],
    "clicked=1.0": [0, 1, 1, None, 0, 1],
    "clicked=-1": [1, 0, 0, None, 1, 0],
    "clicked!=1": [1, 0, 0, None, 1, 0],
    "event=buy": [1, 0, None, 0, 0, 0],
    "event!=buy": [0, 1, None, 1, 1, 1],
    "event=a=b": [0, 0, None, 1, 0, 0],
}


def labels(source: Path, *names: str, mask: str = "") -> dict[str, list[Any]]:
    features = (Feature("u", "numeric", "query"), Feature("a", "numeric", "ad"))
    tasks = tuple(Task(name, name, mask=mask) for name in names)
    schema = Schema("s", features, tasks, EVERY_ROW, ("all",), ROW_NUMBER)
    table = pa.concat_tables([c.table for c in read_logs(source, schema, every(10**6))])
    return {name: table.column(name).to_pylist() for name in (*names, *([mask] if mask else []))}


@pytest.mark.parametrize("name", [n for n in WRITERS if "parquet" in n or "csv" in n or "jsonl" in n or "tfr" in n])
def test_a_comparison_is_the_same_label_in_every_format(name: str, tmp_path: Path) -> None:
    WRITERS[name](pa.table(LOG), tmp_path / name)
    assert labels(tmp_path / name, *EXPECTED) == EXPECTED
    assert labels(tmp_path / name, "clicked=1", mask="rating>=4")["rating>=4"] == EXPECTED["rating>=4"]


def test_numbers_written_as_text_and_truth() -> None:
    def holds(label: str, values: list[Any]) -> list[Any]:
        compared = Comparison.of(label, ["c"])
        assert compared is not None
        return compared.holds(pa.array(values), "f").to_pylist()

    assert holds("c=1", ["1", "1.0", " 1", "?", "", None]) == [True, True, True, False, None, None]
    assert holds("c>0", ["1", "0.0", " 2 ", "", None]) == [True, False, True, None, None]
    assert holds("c=1", [True, False, None]) == holds("c=True", ["TRUE", "false", None]) == [True, False, None]
    assert holds("c=true", [True, False, None]) == [True, False, None]
    assert holds("c>0", [1.0, float("nan"), None, float("inf")]) == [True, None, None, True]
    assert holds(f"c={2**62 + 1}", [2**62, 2**62 + 1]) == [False, True]  # which are one as doubles
    assert holds("c>0", [2**62 + 1, -(2**63)]) == [True, False]


def test_which_column_a_label_compares() -> None:
    assert Comparison.of("click") is None
    assert Comparison.of("a=b", ["a=b", "a"]) is None  # a column of that name goes first
    assert Comparison.of("a=b>=2", ["a=b"]) == Comparison("a=b", ">=", "2")
    assert Comparison.of("a <= 2", ["a"]) == Comparison("a", "<=", "2")
    assert Comparison.of("income= 50000+.", ["income"]) == Comparison("income", "=", " 50000+.")


def test_what_cannot_be_compared_is_refused_with_file_and_value(tmp_path: Path) -> None:
    WRITERS["log.parquet"](pa.table(LOG), tmp_path / "log.parquet")
    WRITERS["log.csv"](pa.table(LOG | {"rating": ["5", "3.5", "?", "4", "0", "4"]}), tmp_path / "log.csv")
    for file, label, message in (
        ("log.parquet", "rating>=four", r"log\.parquet: label 'rating>=four': expected a number after >=, got 'four'"),
        ("log.parquet", "rating=", r"label 'rating=': expected a value after ="),
        ("log.parquet", "event>1", r"column 'event': expected double, got 'buy'"),
        ("log.parquet", "stars>3", r"no column 'stars'"),
        ("log.parquet", "a=1", r"the column 'a' of its label is also a feature"),
        ("log.csv", "rating>=4", r"log\.csv: .*rating.*'\?'"),
    ):
        with pytest.raises(ReadError, match=message):
            labels(tmp_path / file, label)
