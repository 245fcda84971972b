"""`tt-jax inspect`: the report against plain counting, its bounds, drift, the page."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from input_pipeline.inspect.label_counts import Roles
from input_pipeline.inspect.report import report_of
from input_pipeline.inspect.statistics import Bounds
from input_pipeline.inspect.survey import Survey, survey
from input_pipeline.readers import Chunk, ReadError
from tests.support import tiny
from tests.support.cli import Call
from tests.support.html_page import Page

RAW = Roles({"click": "click"}, {}, "surface", "time")
DAY_MS = 86_400_000


def log(rng: np.random.Generator, rows: int, shift: float = 0.0) -> dict[str, Any]:
    """Columns of every type, some values missing; `leak` is the label with a little noise."""
    click = (rng.random(rows) < 0.3).astype(np.int8)
    number = rng.normal(shift, 1.0, rows)
    return {
        "click": click,
        "surface": pa.array(np.array(["home", "search"])[rng.integers(0, 2, rows)]).dictionary_encode(),
        "time": 1_700_006_400_000 + rng.integers(0, 3 * DAY_MS, rows),
        "user": rng.integers(0, 10**6, rows),
        "number": pa.array(number, mask=rng.random(rows) < 0.2),
        "leak": click + rng.normal(0.0, 0.1, rows),
        "words": [[str(w) for w in rng.integers(0, 9, n)] for n in rng.integers(0, 4, rows)],
        "day": pa.array(rng.integers(0, 9, rows), pa.int32()).cast(pa.date32()),
        "constant": [True] * rows,
        "empty": pa.nulls(rows),
    }


def chunk(split: str, columns: dict[str, Any], first_row: int = 0) -> Chunk:
    return Chunk(split, f"{split}.parquet", first_row, pa.table(columns))


# ---- the survey ------------------------------------------------------------------------------------------------------


def test_the_report_is_that_of_plain_counting() -> None:
    rng = np.random.default_rng(6)
    columns, later = log(rng, 6_000), log(rng, 2_000, shift=2.0)
    later["number"] = pa.array(np.where(np.arange(2_000) == 3, np.inf, later["number"].fill_null(0).to_numpy()))
    table = pa.table(columns)
    copies = table.slice(0, 300)
    chunks = [Chunk("train", "a", 0, table.slice(0, 2_500)), Chunk("train", "a", 2_500, table.slice(2_500)),
              Chunk("train", "b", 0, copies), chunk("eval", later)]  # fmt: skip
    report = report_of(survey(chunks, RAW), {"data": "x", "recipe": None})
    json.dumps(report, allow_nan=False)
    assert (report["rows"], report["splits"]["train"]["rows"]) == (8_300, 6_300)
    assert report["duplicates"] == {"share": pytest.approx(300 / 8_300), "rows": 300, "exact": True}
    whole = {name: [*columns[name], *copies.column(name), *later[name]] for name in columns}
    clicks = np.array([int(str(v)) for v in whole["click"]])
    days = np.array([int(str(v)) for v in whole["time"]]) // DAY_MS
    homes = np.array([str(v) == "home" for v in whole["surface"]])
    assert report["labels"]["click"] == {"labelled": 8_300, "rate": pytest.approx(clicks.mean())}
    assert [d["day"] for d in report["days"]] == ["2023-11-15", "2023-11-16", "2023-11-17"]
    for day, found in zip(np.unique(days), report["days"], strict=True):
        assert found["labels"]["click"]["rate"] == pytest.approx(clicks[days == day].mean())
        of_home = found["scenarios"]["home"]
        assert of_home["rows"] == (homes & (days == day)).sum()
    assert report["scenarios"]["home"]["labels"]["click"]["rate"] == pytest.approx(clicks[homes].mean())

    number = report["columns"]["number"]
    train = table.column("number")
    absent = train.null_count + copies.column("number").null_count
    assert number["missing_by_split"] == {"train": absent / 6_300, "eval": 0.0}
    assert number["numbers"]["infinite"] == 1
    assert number["numbers"]["min"] == min(v.as_py() for v in train if v.is_valid)
    before = pa.concat_arrays([*train.chunks, *copies.column("number").chunks]).drop_null().to_numpy()
    finite = np.concatenate([before, np.delete(later["number"].to_numpy(), 3)])
    assert number["numbers"]["mean"] == pytest.approx(finite.mean())
    assert number["numbers"]["quantiles"]["0.5"] == pytest.approx(np.quantile(finite, 0.5))  # the sample is all rows
    assert report["columns"]["user"]["distinct"]["count"] == len({str(v) for v in whole["user"]})
    lists = [*table.column("words").to_pylist(), *copies.column("words").to_pylist(), *later["words"]]
    words = Counter(word for of_row in lists for word in of_row)
    assert {t["value"]: t["count"] for t in report["columns"]["words"]["top"]} == words
    assert report["columns"]["words"]["lengths"]["longest"] == 3

    drift = report["drift"]["columns"]
    expected = scipy.stats.ks_2samp(before, finite[-1_999:]).statistic
    assert drift["number"]["eval"]["ks"] == pytest.approx(expected, abs=1e-9)
    assert drift["user"]["eval"]["psi"] < 0.05
    assert "time" not in drift
    leaks = {found["column"]: found["auc"] for found in report["leaks"]["click"]}
    assert leaks["leak"] > 0.99
    assert max(auc for name, auc in leaks.items() if name != "leak") < 0.55
    said = "\n".join(report["findings"])
    for line in (
        "leak: alone it has an AUC of",
        "number: eval differs from train: PSI",
        "constant: one value only, true",
        "empty: missing in 100.0%",
        "number: 1 infinite numbers",
        "3.6% of the rows are duplicates",
    ):
        assert line in said
    assert len(report["findings"]) == 6


def test_the_last_days_are_compared_with_the_first_ones_where_there_is_one_split() -> None:
    rng = np.random.default_rng(10)
    days = np.repeat(np.arange(6), (100, 300, 500, 500, 300, 100))[rng.permutation(1_800)]
    early, late = days <= 2, days >= 3  # a third of the rows is reached in the days 2 and 3, of the end counted back
    columns = {
        "time": 1_700_006_400_000 + days * DAY_MS + rng.integers(0, DAY_MS, 1_800),
        "number": pa.array(rng.normal(np.where(late, 0.8, 0.0), 1.0), mask=rng.random(1_800) < 0.1),
        "text": np.where(rng.random(1_800) < 0.3 + 0.4 * late, "a", "b"),
        "flag": rng.integers(0, 2, 1_800),
        "words": [["x"]] * 1_800,
    }
    one = Roles({}, {}, time="time")
    report = report_of(survey([chunk("all", columns)], one), {})
    drift = report["drift"]
    assert drift["reference"] == "the time to 2023-11-17"
    found = {name: splits.pop("the time from 2023-11-18 on") for name, splits in drift["columns"].items()}
    assert set(found) == {"number", "text", "flag"}
    number = columns["number"]
    sides = [number.filter(pa.array(rows)).drop_null().to_numpy() for rows in (early, late)]
    assert found["number"]["ks"] == pytest.approx(scipy.stats.ks_2samp(*sides).statistic, abs=1e-12)
    rates = [(columns["text"][rows] == "a").mean() for rows in (early, late)]
    exact = sum((q - p) * np.log(q / p) for p, q in (rates, [1 - r for r in rates]))
    assert found["text"] == {"psi": pytest.approx(exact, abs=0.01), "ks": None}
    assert found["flag"]["psi"] < 0.05
    said = "number: the time from 2023-11-18 on differs from the time to 2023-11-17: PSI"
    assert [line.startswith(said) for line in report["findings"] if line.startswith("number")] == [True]
    day_one = {name: values for name, values in columns.items() if name != "time"} | {"time": [1_700_006_400] * 1_800}
    for part, roles in ((columns, Roles({}, {})), (day_one, one)):
        assert report_of(survey([chunk("all", part)], roles), {})["drift"] == {}


def test_memory_does_not_grow_with_the_rows() -> None:
    bounds = Bounds(distinct=200, frequent=50, sample=100, rows=500, days=2, scenarios=2)
    rng, found, sizes = np.random.default_rng(7), Survey(RAW, bounds), []
    for i in range(100):
        columns = log(rng, 400)
        columns["surface"] = [f"surface {n}" for n in rng.integers(0, 10**6, 400)]
        columns["time"] = columns["time"] + 7 * i * DAY_MS
        found.add(chunk("train", columns, 400 * i))
        sizes.append(len(pickle.dumps(found)))
    assert max(sizes[2:]) < 1.75 * sizes[1]  # the sketches are full; how much is pending in them differs
    report = report_of(found, {"data": "", "recipe": None})
    assert report["rows"] == sum(s["rows"] for s in report["scenarios"].values()) == 40_000
    assert report["scenarios"]["(others)"]["rows"] > 39_000
    assert [d["day"] is None for d in report["days"]] == [False, False, True]
    assert report["duplicates"] == {"share": 0.0, "rows": 0, "exact": False}
    assert report["columns"]["user"]["distinct"]["count"] == pytest.approx(39_200, rel=0.3)


def test_a_column_that_comes_goes_or_changes_is_told_and_counted() -> None:
    parts = [{"a": [1, 2], "b": ["x", "y"]}, {"a": [3.5], "b": ["z"]}, {"b": ["x"], "c": [1]}]
    report = report_of(survey([chunk("train", p, i) for i, p in enumerate(parts)], Roles({}, {})), {})
    assert report["troubles"] == [
        "train.parquet, row 1: column 'a' is double and was int before; its values are counted as missing",
        "train.parquet: column 'c' is new here: missing in files before",
    ]
    missing = {name: c["missing"] for name, c in report["columns"].items()}
    assert missing == {"a": 0.5, "b": 0.0, "c": 0.75}
    for columns, message in (
        ({"clik": [1], "surface": ["a"], "time": [1]}, "train.parquet: no column 'click'; did you mean 'clik'?"),
        ({"click": ["yes"], "surface": ["a"], "time": [1]}, "train.parquet: column 'click': expected numbers"),
        ({"click": [1], "surface": ["a"], "time": ["noon"]}, "train.parquet: row 0: column 'time': expected a time, "),
    ):
        with pytest.raises(ReadError, match=message.replace("?", r"\?")):
            survey([chunk("train", columns)], RAW)


def test_a_recipe_gives_roles_tables_and_masks() -> None:
    rng = np.random.default_rng(8)

    def chunks() -> Iterator[Chunk]:
        for split, rows in (("train", 900), ("eval", 300)):
            yield chunk(split, tiny.columns(rng, rows))

    roles = Roles.of(tiny.SCHEMA)
    report = report_of(survey(chunks(), roles), {})
    hashed = {f.name: f for f in tiny.SCHEMA.features if f.hash_size}
    assert set(report["tables"]) == set(hashed)
    rng = np.random.default_rng(8)
    tables = [pa.table(tiny.columns(rng, rows)) for rows in (900, 300)]
    for name, found in report["tables"].items():
        ids: set[Any] = set()
        for feature in found["features"]:
            for value in (v for t in tables for v in t.column(feature).to_pylist() if v is not None):
                ids |= {v for v in value if v is not None} if isinstance(value, list) else {value}
        assert found["ids"] == len(ids)
        assert found["collisions"] == pytest.approx(1 - (1 - 1 / (hashed[name].hash_size - 2)) ** (len(ids) - 1))
    for f in tiny.SCHEMA.features:
        assert report["columns"][f.name]["role"] == f"{f.tower}, {f.kind}"
        assert ("numbers" in report["columns"][f.name]) == (not f.is_ids)
    for task in tiny.SCHEMA.tasks:
        y, counts = [], []
        for t in tables:
            y += t.column(task.label).to_pylist()
            counts += t.column(task.mask).to_pylist() if task.mask else [1] * len(t)
        kept = [v for v, c in zip(y, counts, strict=True) if v is not None and c == 1]
        assert report["labels"][task.name] == {"labelled": len(kept), "rate": pytest.approx(np.mean(kept), abs=1e-6)}


# ---- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_writes_a_page_that_needs_nothing_else(call: Call, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    for name, shift in (("train", 0.0), ("eval", 3.0)):
        columns = log(rng, 2_000, shift)
        columns["<b>"] = ["<script>"] * 2_000
        pq.write_table(pa.table(columns), tmp_path / f"{name}-0.parquet")
    out_dir = tmp_path / "inspected"
    flags = ("--labels=click", "--scenario=surface", "--time=time", f"--out={out_dir}")
    code, out, err = call("inspect", f"--data={tmp_path}", *flags)
    assert code == 0
    assert "inspect: 4,000 rows in" in err
    report = json.loads((out_dir / "inspect.json").read_text())
    text = (out_dir / "inspect.html").read_text()
    page = Page(text)
    assert (page.sources, page.links) == ([], [])
    assert not {"script", "link", "img", "iframe", "b"} & set(page.tags)
    assert page.tags.count("svg") == 3  # rows by day, the rate of the task, what is missing
    assert {"train", "eval"} == set(report["splits"])
    assert len(report["findings"]) > 3
    for finding in report["findings"]:
        assert finding in out
    rate = f"{report['labels']['click']['rate']:.2f}"
    for shows in ("By day, 2023-11-15 to 2023-11-17", "leak: alone it has an AUC of", rate):
        assert shows in text
    assert call.refused("inspect", "--data=x", "--recipe=census", "--time=t") == "--time: the recipe census has its own"
    assert "no such file" in call.refused("inspect", f"--data={tmp_path / 'none'}")
    assert "unknown recipe 'cencus'; did you mean 'census'?" in call.refused("inspect", "--data=x", "--recipe=cencus")
