"""`tt-jax inspect`: sketches against exact counts, figures against SciPy and simulation, bounds, the page."""

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
import sklearn.metrics

from input_pipeline.inspect import figures
from input_pipeline.inspect.column import Bounds
from input_pipeline.inspect.report import report_of
from input_pipeline.inspect.sketches import Distinct, Frequent, RowSample
from input_pipeline.inspect.survey import Roles, Survey, days_of, survey
from input_pipeline.inspect.values import row_keys, shown, values_of
from input_pipeline.readers import Chunk, ReadError
from tests import tiny
from tests.test_cli import Call
from tests.test_cli import call as call
from tests.test_report import Page
from tt_jax.hashing import hashed_rows, table_seed

RAW = Roles({"click": "click"}, {}, "surface", "time")
DAY_MS = 86_400_000


def ones(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return keys.astype(np.uint64), np.ones(keys.size, np.int64)


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


# ---- sketches --------------------------------------------------------------------------------------------------------


def test_distinct_is_exact_to_its_bound_and_near_beyond_it() -> None:
    rng = np.random.default_rng(0)
    small = Distinct(1000)
    for _ in range(3):
        small.add(*ones(rng.permutation(1000)))
    small.add(np.array([7], np.uint64), np.array([5]))
    assert (len(small), small.error, small.once) == (1000, 0.0, 0.0)
    assert small.repeated == pytest.approx(1 - 1000 / 3005)
    small.add(*ones(np.array([1000])))
    assert small.error > 0
    keys = rng.integers(0, 300_000, 500_000)
    many = Distinct(4096)
    for part in np.array_split(keys, 50):
        many.add(*ones(part))
    counts = np.array(list(Counter(keys.tolist()).values()))
    assert len(many) == pytest.approx(counts.size, rel=4 * many.error)
    assert many.once == pytest.approx((counts == 1).mean(), abs=4 * 0.5 / 64)
    assert many.repeated == pytest.approx(1 - counts.size / counts.sum(), abs=0.03)


def test_a_merged_sketch_is_the_sketch_of_all() -> None:
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 20_000, 40_000)
    for bound, parts in ((500, (100, 30_000)), (500, (39_990,)), (500, (20_000,)), (50_000, (9_000,)), (500, (0,))):
        whole, merged = Distinct(bound), Distinct(bound)
        whole.add(*ones(keys))
        for part in np.split(keys, parts):
            sketch = Distinct(bound)
            sketch.add(*ones(part))
            merged.merge(sketch)
        figures_of = [(len(d), d.error, d.once, d.repeated) for d in (whole, merged)]
        assert figures_of[0] == figures_of[1]
    one, two = Distinct(100), Distinct(100)  # no new value: the bound is reached by one that is beyond it
    one.add(*ones(np.arange(1000)))
    two.add(*ones(np.arange(50)))
    two.merge(one)
    assert len(two) == len(one)


def test_frequent_keeps_its_error_bound_alone_and_merged() -> None:
    rng = np.random.default_rng(2)
    keys = rng.zipf(1.3, 60_000).clip(max=10**6)
    exact = Counter(keys.tolist())
    parts = [Frequent(100) for _ in range(3)]
    for part, of_part in zip(parts, np.array_split(keys, 3), strict=True):
        for some in np.array_split(of_part, 10):
            part.add(*ones(some))
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert 0 < parts[0].error <= keys.size / 101
    found = dict(parts[0].top(100))
    for key, count in exact.items():
        assert 0 <= count - found.get(key, 0) <= parts[0].error
    assert [key for key, _ in parts[0].top(5)] == [key for key, _ in exact.most_common(5)]
    few = Frequent(10)
    few.add(*ones(np.repeat(np.arange(10), np.arange(1, 11))))
    assert (few.error, few.top(2)) == (0, [(9, 10), (8, 9)])


def test_a_row_sample_is_uniform_whole_rows_and_merges() -> None:
    seen = np.zeros(200)
    for seed in range(300):
        parts = [RowSample(20, 2 * seed), RowSample(20, 2 * seed + 1)]
        for i, part in enumerate(parts):
            for first in range(100 * i, 100 * i + 100, 25):
                keys = np.arange(first, first + 25, dtype=np.uint64)
                columns = {"a": (keys, np.ones(25, bool)), "b": (keys + np.uint64(7), np.ones(25, bool))}
                part.add(25, columns if first else {"a": columns["a"]})
        parts[0].merge(parts[1])
        (a, valid), (b, known) = parts[0].columns["a"], parts[0].columns["b"]
        assert len(parts[0]) == len(set(a.tolist())) == 20
        assert valid.all()
        np.testing.assert_array_equal(known, a >= 25)
        np.testing.assert_array_equal(b[known], a[known] + 7)
        seen[a.astype(int)] += 1
    assert scipy.stats.chisquare(seen).pvalue > 1e-3


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "kind", "texts"),
    [
        (pa.array([3, None, -4]), "int", ["3", "-4"]),
        (pa.array([2**64 - 1, None], pa.uint64()), "text", ["18446744073709551615"]),
        (pa.array([0.5, float("nan"), -0.0, None]), "float", ["0.5", "0"]),
        (pa.array([True, None, False]), "bool", ["true", "false"]),
        (pa.array(["a", None, "b"]).dictionary_encode(), "text", ["a", "b"]),
        (pa.array([b"\xff", None]), "text", ["ff"]),
        (pa.array([3, None], pa.int32()).dictionary_encode(), "int", ["3"]),
        (pa.array([20, None], pa.date32()), "time", ["1970-01-21T00:00:00.000000"]),
        (pa.array([1500, None], pa.timestamp("ms", "UTC")), "time", ["1970-01-01T00:00:01.500000"]),
        (pa.array([["a", None, "b"], [], None]), "text", ["a", "b"]),
        (pa.array([[1.5], None], pa.list_(pa.float32(), 1)), "float", ["1.5"]),
        (pa.nulls(2), "none", []),
        (pa.array([1, None], pa.duration("s")), "other", None),
    ],
)
def test_values_keep_what_they_are(column: Any, kind: str, texts: list[str] | None) -> None:
    values = values_of(pa.chunked_array([column.slice(0, 1), column.slice(1)]))
    assert values.kind == kind
    if texts is not None:
        assert [shown(values.kind, key, values.texts) for key in values.elements.tolist()] == texts
    nan = [i for i, v in enumerate(column.to_pylist()) if v is None or v != v]
    assert np.flatnonzero(~values.valid).tolist() == nan


def test_rows_have_one_hash_if_they_are_equal_and_other_ones_if_not() -> None:
    rows = [(1, "x", [1, 2]), (1, "x", [2, 1]), (2, "x", [1, 2]), (1, None, [1, 2]), (1, "x", []), (1, "x", None),
            (1, "x", [1, 2])]  # fmt: skip
    columns = {name: pa.chunked_array([[row[i] for row in rows]]) for i, name in enumerate("abc")}
    hashes = row_keys([(name, values_of(column)) for name, column in columns.items()], len(rows))
    backwards = row_keys([(name, values_of(columns[name])) for name in "cba"], len(rows))
    np.testing.assert_array_equal(hashes, backwards)
    assert hashes[0] == hashes[-1]
    assert len(set(hashes.tolist())) == len(rows) - 1
    swapped = row_keys([(name, values_of(pa.chunked_array([[v]]))) for name, v in (("a", 2), ("b", 1))], 1)
    plain = row_keys([(name, values_of(pa.chunked_array([[v]]))) for name, v in (("a", 1), ("b", 2))], 1)
    assert swapped[0] != plain[0]


def test_a_time_of_any_unit_is_its_day() -> None:
    day = np.datetime64("2024-02-29", "D")
    us = int((day + np.timedelta64(1, "D")).astype("M8[us]").astype(np.int64)) - 1_000_000
    for value in (us, us // 10**3, us // 10**6, us * 10**3, us / 1e6, 20_240_229, day.item()):
        days, valid = days_of(values_of(pa.chunked_array([pa.array([value, None])])))
        assert (days[0], valid.tolist()) == (day.astype(np.int64), [True, False]), value


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_ks_and_psi_are_those_of_scipy_and_numpy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=900).round(1), rng.normal(0.4, 1.3, 700).round(1)
    assert figures.ks(a, b) == pytest.approx(scipy.stats.ks_2samp(a, b).statistic, abs=1e-12)
    edges = figures.number_bins(a)
    counts = [np.histogram(x, [-np.inf, *np.nextafter(edges, np.inf), np.inf])[0] for x in (a, b)]
    ours = [figures.number_histogram(edges, x, missing) for x, missing in ((a, 9.0), (b, 40.0))]
    np.testing.assert_array_equal(ours, [[*counts[0], 9], [*counts[1], 40]])
    p, q = ((c + 0.5) / (c + 0.5).sum() for c in ours)
    assert figures.psi(*ours) == pytest.approx(scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p))
    assert figures.psi(ours[0], ours[0] * 1000) == pytest.approx(0, abs=1e-3)


def test_collisions_are_those_of_the_hash() -> None:
    rng = np.random.default_rng(4)
    for ids, rows in ((2_000, 4_096), (20_000, 4_096), (300, 100_000)):
        shares = []
        for name in range(10):
            keys = rng.integers(0, 2**62, ids).astype(np.uint64)
            taken = np.bincount(hashed_rows(keys, table_seed(str(name)), np.uint64(rows)))
            shares.append(1 - (taken == 1).sum() / ids)
        assert figures.collisions(ids, rows - 2) == pytest.approx(np.mean(shares), abs=0.01)
    assert figures.collisions(1, 50) == figures.collisions(0, 50) == 0
    needed = figures.rows_for(5_000, 0.05)
    assert figures.collisions(5_000, needed) <= 0.05 < figures.collisions(5_000, needed - 2)


def test_a_column_alone_is_scored_on_rows_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(5)
    labels = rng.random(8_000) < 0.3
    unique = np.arange(8_000)
    assert figures.single_auc(unique, labels) == 0.5
    assert figures.single_auc(labels.astype(int), labels) == 1.0
    noise = figures.single_auc(rng.integers(-1, 50, 8_000), labels)
    assert noise == pytest.approx(0.5, abs=0.03)
    number = rng.normal(labels * 1.0, 1.0)
    codes = figures.leak_codes(number.view(np.uint64), np.ones(8_000, bool), number)
    assert figures.single_auc(codes, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, number), abs=0.02)
    assert figures.single_auc(unique, np.zeros(8_000, bool)) is None


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
        ({"click": [1], "surface": ["a"], "time": ["noon"]}, "train.parquet: column 'time': expected times"),
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
