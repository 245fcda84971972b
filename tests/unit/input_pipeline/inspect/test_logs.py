"""`tt-jax inspect` of logs as they come: recipes of one's own, delimiters, markers, labels that compare, times."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Call

ROWS = 1200
START = datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC)
TIMES = [START + datetime.timedelta(minutes=5 * i) for i in range(ROWS)]  # four days and four hours


def _inspect(call: Call, tmp_path: Path, data: Path, *flags: str) -> dict[str, Any]:
    code, _, err = call("inspect", f"--data={data}", *flags, f"--out={tmp_path / 'inspected'}")
    assert code == 0, err
    return json.loads((tmp_path / "inspected" / "inspect.json").read_text())


def _write(path: Path, columns: dict[str, list[Any]], delimiter: str = ",") -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in [list(columns), *rows]))
    return path


def test_delimiter_and_markers_of_missing_values_are_flags(call: Call, tmp_path: Path) -> None:
    columns = {
        "user": [f"u{i % 7}" if i % 5 else "NA" for i in range(ROWS)],
        "price": [i if i % 4 else "-" for i in range(ROWS)],
    }
    data = _write(tmp_path / "log.csv", columns, ";")
    report = _inspect(call, tmp_path, data, "--delimiter=;", "--missing=NA,-")
    assert {n: (c["kind"], c["missing"]) for n, c in report["columns"].items()} == {
        "user": ("text", 0.2), "price": ("int", 0.25)
    }  # fmt: skip
    findings = _inspect(call, tmp_path, data)["findings"]
    for said in ("user: 20.0% are 'NA': if it means missing", "price: 25.0% are '-': if it means missing"):
        assert any(line.startswith(said) for line in findings)
    assert _inspect(call, tmp_path, data, "--missing=NA,-")["columns"] == report["columns"]  # the delimiter is found
    for delimiter in "\t|;\x01 ":
        found = _inspect(call, tmp_path, _write(tmp_path / "log.dat", columns, delimiter), "--missing=NA,-")
        assert found["columns"] == report["columns"]
    report = _inspect(call, tmp_path, tmp_path / "log.dat", "--delimiter=space")
    assert report["columns"]["user"]["missing"] == 0.0
    assert "delimiter: expected one" in call.refused("inspect", f"--data={data}", "--delimiter=::")


RECIPE = """
from input_pipeline import logs
from tt_jax.schema import Feature, Schema, Task

SCHEMA = Schema(
    "mine", (Feature("user", "categorical", "query", "string", hash_size=64), Feature("ad", "categorical", "ad", hash_size=64)),
    (Task("good", "rating>=4"),), scenario=logs.EVERY_ROW, scenarios=("all",), ad_id="ad",
)

def schema(source):
    return SCHEMA

def read(source, errors=logs.STRICT, parts=None):
    return logs.read_logs(source, SCHEMA, logs.every(4), errors=errors, parts=parts)

def parts(source):
    return logs.parts_of_logs(source)

def ads(source):
    return logs.ads_of_logs(source, SCHEMA)
"""  # noqa: E501


def test_a_recipe_of_ones_own_and_a_label_that_compares(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RECIPE)
    (tmp_path / "log").mkdir()
    columns = {"user": [f"u{i % 9}" for i in range(ROWS)], "ad": [i % 5 for i in range(ROWS)],
               "rating": [1 + i % 5 for i in range(ROWS)]}  # fmt: skip
    _write(tmp_path / "log" / "a.csv", columns)
    report = _inspect(call, tmp_path, tmp_path / "log", f"--recipe={tmp_path / 'mine.py'}")
    assert {s: c["rows"] for s, c in report["splits"].items()} == {"train": 900, "eval": 300}
    assert report["labels"]["good"] == {"labelled": ROWS, "rate": 0.4}
    (tmp_path / "log" / "a.xyz").write_bytes(b"\0")
    assert "--skip-unknown" in call.refused("inspect", f"--recipe={tmp_path / 'mine.py'}", f"--data={tmp_path / 'log'}")
    report = _inspect(call, tmp_path, tmp_path / "log", f"--recipe={tmp_path / 'mine.py'}", "--skip-unknown")
    assert report["rows"] == ROWS
    report = _inspect(call, tmp_path, tmp_path / "log" / "a.csv", "--labels=rating>=4,rating=2")
    assert report["labels"]["rating>=4"]["rate"] == 0.4
    assert report["labels"]["rating=2"]["rate"] == 0.2
    (tmp_path / "none.py").write_text("")
    refused = call.refused("inspect", f"--recipe={tmp_path / 'none.py'}", "--data=x")
    assert refused == f"inspect {tmp_path / 'none.py'}: expected a function schema(source) in it"


SPELLINGS = {
    "iso_z": "%Y-%m-%dT%H:%M:%SZ", "iso_fraction": "%Y-%m-%d %H:%M:%S.125", "offset": "%Y-%m-%dT%H:%M:%S+00:00",
    "hours": "%Y%m%d%H", "short_hours": "%y%m%d%H", "date": "%Y-%m-%d", "digits": "%Y%m%d",
}  # fmt: skip
UNITS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}


@pytest.mark.parametrize("spelling", [*SPELLINGS, *UNITS])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_times_of_every_spelling_make_days(spelling: str, suffix: str, call: Call, tmp_path: Path) -> None:
    if spelling in UNITS:
        times: list[Any] = [int(t.timestamp()) * UNITS[spelling] for t in TIMES]
    else:
        times = [t.strftime(SPELLINGS[spelling]) for t in TIMES]
    columns = {"click": [int(i % 4 == 0) for i in range(ROWS)], "when": times}
    data = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        _write(data, columns)
    else:
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = _inspect(call, tmp_path, data, "--labels=click", "--time=when")
    assert [(d["day"], d["rows"]) for d in report["days"]] == [
        ("2024-03-01", 288), ("2024-03-02", 288), ("2024-03-03", 288), ("2024-03-04", 288), ("2024-03-05", 48)
    ]  # fmt: skip
    assert report["columns"]["when"]["kind"] == "time"
    assert report["drift"]["reference"] == "the time to 2024-03-02"


def test_a_text_without_characters_is_missing_in_every_format(call: Call, tmp_path: Path) -> None:
    columns = {"user": [f"u{i % 7}" if i % 4 else "" for i in range(ROWS)], "n": list(range(ROWS))}
    _write(tmp_path / "a.csv", columns)
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [_inspect(call, tmp_path, tmp_path / name)["columns"] for name in ("a.csv", "b.jsonl")]
    assert found[0] == found[1]
    assert found[0]["user"]["missing"] == 0.25
    assert found[0]["user"]["distinct"]["count"] == 7


def test_a_label_of_text_is_to_be_compared_and_quotes_may_be_text(call: Call, tmp_path: Path) -> None:
    rows = [json.dumps({"clicked": str(i % 2), "age": i % 9}) for i in range(ROWS)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    refused = call.refused("inspect", f"--data={tmp_path / 'a.jsonl'}", "--labels=clicked")
    assert "column 'clicked': expected numbers of a label, or a comparison as 'clicked=1', got text" in refused
    report = _inspect(call, tmp_path, tmp_path / "a.jsonl", "--labels=clicked=1")
    assert report["labels"]["clicked=1"]["rate"] == 0.5
    data = _write(tmp_path / "b.tsv", {"title": ['"A" b', "c"] * 50, "x": [1, 2] * 50}, "\t")
    assert "TextFormat(quotes=False)" in call.refused("inspect", f"--data={data}")
    assert _inspect(call, tmp_path, data, "--no-quotes")["columns"]["title"]["missing"] == 0.0
