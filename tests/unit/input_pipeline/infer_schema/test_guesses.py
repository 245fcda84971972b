"""What `tt-jax init` says of single columns: outcomes, ids, times, lists and marks in text, sizes of batches."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.infer_schema.guess_text_format import markers_of, separator_of
from input_pipeline.infer_schema.holdout import split_of, time_of
from input_pipeline.infer_schema.name_words import AD_WORDS, USER_WORDS, id_rank, is_of_the_auction, words_of
from input_pipeline.infer_schema.sampled_columns import Column, columns_of, values_counted
from input_pipeline.infer_schema.write import InferredRecipe, batch_size, infer_recipe

ROWS = 600
RNG = np.random.default_rng(0)
ONE = RNG.random(ROWS) < 0.3
NINETIETH = np.arange(ROWS) % 90 == 0  # 7 rows


def starter(folder: Path, **columns: Any) -> InferredRecipe:
    """Of a log with more columns: of two values each, which are no outcomes, on both sides of them."""
    two = {"gender": RNG.integers(0, 2, ROWS), "scenario": RNG.integers(0, 2, ROWS)}
    ids = {"user_id": RNG.integers(0, 40, ROWS), "ad_id": RNG.integers(0, 50, ROWS)}
    table = pa.table({**two, **ids, **columns, "is_vip": RNG.integers(0, 2, ROWS), "age": RNG.integers(1, 90, ROWS)})
    pq.write_table(table, folder / "log.parquet")
    return infer_recipe(str(folder / "log.parquet"), Path("mine.py"))


@pytest.mark.parametrize(
    ("name", "values", "label", "note"),
    [
        ("is_click", ONE, "is_click", ""),
        ("like", np.where(ONE, 1, -1), "like=1", "values -1, 1"),
        ("label", np.where(ONE, 2, 1), "label=2", ""),
        ("purchase", np.where(ONE, "yes", "no"), "purchase=yes", ""),
        ("isclick", np.where(ONE, "clk", "non-clk"), "isclick=clk", ""),
        ("isConverted", np.where(ONE, "True", "False"), "isConverted=True", ""),
        ("y", np.where(ONE, "subscribed", "not subscribed"), "y=subscribed", ""),
        ("watched", np.where(ONE, "seen", "skipped"), "watched=seen", ""),
        ("nclicks", RNG.poisson(0.6, ROWS), "nclicks>0", ""),
        ("purchase_count", RNG.poisson(0.6, ROWS).astype(float), "purchase_count>0", ""),
        ("orderAmount", np.where(ONE, RNG.random(ROWS), 0), "orderAmount>0", "from 0 to"),
        ("clicked", np.where(NINETIETH, 2, ONE), "clicked=1", "0 in 7 rows of other values (2)"),
        ("target", np.where(NINETIETH, 99, np.where(ONE, 1, -1)), "target=1", "0 in 7 rows of other values (99)"),
        (
            "bought",
            np.where(NINETIETH, "?!", np.where(ONE, "1", "0")),
            "bought=1",
            "0 in 7 rows of other values ('?!')",
        ),
        (
            "converted",
            [None if n else int(o) for n, o in zip(NINETIETH, ONE, strict=True)],
            "converted",
            "none in 7 rows",
        ),
        ("rating", RNG.integers(1, 6, ROWS), "rating>=4", ""),
        ("stars", RNG.integers(1, 21, ROWS) / 2, "stars>=8", ""),
        ("ctr_label", ONE.astype(int), "ctr_label", ""),
        ("feedback", RNG.choice([-1, 0, 1], ROWS), "feedback>0", ""),
    ],
)
def test_an_outcome_by_its_name_whatever_its_values(
    name: str, values: Any, label: str, note: str, tmp_path: Path
) -> None:
    found = starter(tmp_path, **{name: values})
    assert [t.label for t in found.schema.tasks] == [label]
    (line,) = (line for line in found.text.splitlines() if line.startswith("    Task("))
    assert note in line
    assert name not in {f.name for f in found.schema.features}
    assert ("other values" in note) == any("other values" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    "name", ["click_time_ago", "like_rate", "order_id", "hist_clicks_7d", "user_clicks", "viewer_new"]
)
def test_what_is_about_an_outcome_is_none(name: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 5, ROWS)
    assert [t.label for t in starter(tmp_path, liked=ONE, **{name: values}).schema.tasks] == ["liked"]


def test_without_an_outcome_by_name_the_file_says_so(tmp_path: Path) -> None:
    found = starter(tmp_path, kind_of_day=ONE)
    assert [t.label for t in found.schema.tasks] == ["kind_of_day"]  # neither the gender nor the scenario
    assert found.remarks == ("task kind_of_day: no column is an outcome by its name, and this one has two values",)
    found = starter(tmp_path, clicked=[0] * ROWS, label=RNG.choice(["cat", "dog", "cow"], ROWS))
    assert (
        "; 'clicked' is the same in all rows; 'label' has values that are not understood: 'cat', " in found.remarks[0]
    )
    assert "neither two, nor counts, nor ratings" in found.left_out["label"]


def test_the_opposite_of_an_outcome_is_neither_task_nor_feature(tmp_path: Path) -> None:
    found = starter(tmp_path, nonclk=1 - ONE, clk=ONE.astype(int))
    assert [t.label for t in found.schema.tasks] == ["clk"]
    assert found.left_out["nonclk"] == "says that an outcome did not come"


def best(names: Sequence[str], words: Sequence[str]) -> str:
    return min((r, n) for n in names if (r := id_rank(words_of(n), words)))[1]


@pytest.mark.parametrize(
    ("names", "ad"),
    [
        (["campaign_id", "adgroup_id", "creative_id"], "creative_id"),
        (["advertiser_id", "AdGroupID"], "AdGroupID"),
        (["ad_group_id", "campaign", "item"], "item"),
        (["cate_id", "goodsid", "brand_id"], "goodsid"),
        (["asin", "parent_asin"], "asin"),
        (["clicked_item_id", "campaign_id"], "campaign_id"),
        (["StockCode", "InvoiceNo"], "StockCode"),
        (["video", "videoId"], "videoId"),
    ],
)
def test_the_ad_is_the_most_specific(names: list[str], ad: str) -> None:
    assert best(names, AD_WORDS) == best(names[::-1], AD_WORDS) == ad


def test_users_and_places() -> None:
    for name in ("uid", "userid", "USER_ID", "member_id", "customerId", "visitorid", "device_id", "reviewerID"):
        assert best([name], USER_WORDS) == name
    assert all(id_rank(words_of(n), USER_WORDS) is None for n in ("device", "user_age", "client_ip"))
    assert best(["device_id", "ip", "uid"], USER_WORDS) == "uid"
    places = (
        "position",
        "adPosition",
        "pos",
        "banner_pos",
        "rank",
        "item_rank",
        "slot",
        "slot_no",
        "position_1",
        "adslot",
    )
    assert all(is_of_the_auction(words_of(n)) for n in places)
    no_places = ("time_slot", "page_rank", "slot_width", "position_id", "frank", "composition")
    assert not any(is_of_the_auction(words_of(n)) for n in no_places)


MOMENTS = [datetime.datetime.fromtimestamp(1_700_000_000 + 3600 * i, datetime.UTC) for i in range(200)]
TIMES = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+02:00", "%Y-%m-%d %H:%M:%S.%f", "%Y/%m/%d %H:%M", "%Y%m%d%H",
         "%y%m%d%H", "%Y%m%d%H%M%S", "%Y%m%d")  # fmt: skip


@pytest.mark.parametrize("name", ["hour", "event_time", "createdAt", "dt"])
@pytest.mark.parametrize("spelling", TIMES)
def test_times_are_seen_in_every_spelling(name: str, spelling: str) -> None:
    texts = [f"{t:{spelling}}" for t in MOMENTS]
    columns = columns_of(pa.table({"x": range(200), name: texts}))
    assert time_of(columns, [])[0] == name
    if texts[0].isdigit() and name != "createdAt":
        numbers = columns_of(pa.table({name: [int(t) for t in texts]}))
        assert time_of(numbers, [])[0] == name


def test_which_times_are_the_rows(tmp_path: Path) -> None:
    def time(**columns: Any) -> str:
        return time_of(columns_of(pa.table(columns)), [np.arange(200) % 20])[0]

    seconds = np.array([int(t.timestamp()) for t in MOMENTS])
    for unit in (1, 1000, 10**6, 10**9):
        assert time(request_ts=seconds * unit, user_age=seconds % 90) == "request_ts"
    born = [f"{MOMENTS[i % 20]:%Y-%m-%d %H:%M}" for i in range(200)]  # one for each ad
    assert time(published=born) == ""
    assert time(published=born, seen=[f"{t:%Y-%m-%d %H:%M}" for t in MOMENTS]) == "seen"
    assert time(hour=np.arange(200) % 24) == time(day_of_week=np.arange(200) % 7) == ""
    left_out = time_of(columns_of(pa.table({"when": [f"{t:%d.%m.%Y}" for t in MOMENTS]})), [])[1]
    assert "a spelling that is not read" in left_out["when"]


def text_column(texts: list[Any], name: str = "x") -> Column:
    array = pa.array(texts)
    return Column(name, array, values_counted(array), len(array))


def made_of(words: Sequence[str], separator: str, rows: int = 400, most: int = 4) -> list[str]:
    rng = np.random.default_rng(1)
    return [separator.join(rng.choice(words, rng.integers(1, most + 1))) for _ in range(rows)]


WORDS = ["red", "blue", "new", "great", "offer", "the", "shoes", "for", "men", "and"]


@pytest.mark.parametrize(
    ("name", "texts", "separator"),
    [
        *(("genres", made_of(["Sci-Fi", "Film Noir", "War", "Kids"], s), s) for s in ("|", "^", ";", "\t", "\x02")),
        ("history", made_of([f"N{i}" for i in range(40)], " "), " "),
        ("x", made_of([str(i) for i in range(30)], ","), ","),
        ("x", made_of(["3", "15", "7"], " ", most=6), " "),
        ("vector", [f"0.{i} 1e-3 -{i % 7}.5" for i in range(400)], " "),
        ("vector", [f"[0.{i}, 2, {i % 7}.5]" for i in range(400)], "json"),
        ("x", ["['a', \"it's\"]", "[]", "['b']"] * 9, "json"),
        ("title", made_of(WORDS, " ", most=6), ""),
        ("note", made_of(WORDS, ", ", most=6), ""),
        ("x", made_of(WORDS, " ", most=8), ""),
        ("state_of_previous_residence", made_of(["Not in universe", "North Dakota", "New York"], " "), ""),
        ("tag", [f"{i % 9},{i % 7}" for i in range(400)], ","),
        ("path", [f"a/{i % 9}/c" for i in range(400)], ""),
        ("x", ["a|b", "c|d", "e|f"] * 9, ""),  # no element stands in two texts
    ],
)
def test_separators_of_lists_and_vectors(name: str, texts: list[str], separator: str) -> None:
    assert separator_of(text_column(texts, name)) == separator


@pytest.mark.parametrize("marker", ["NaT", "\\N", "NA", "N/A", "None", "-", "?", "NaN"])
def test_marks_of_missing_values(marker: str) -> None:
    def markers(values: Sequence[str]) -> list[str]:
        return list(markers_of({"x": text_column([marker, *values])}))

    assert markers([str(i % 50) for i in range(300)]) == [marker]  # one cell among numbers
    assert markers(["0.5", "1e3", "-7"] * 50) == markers(["2024-01-31 10:00"] * 150) == [marker]
    assert markers([marker] * 9 + ["red", "blue"] * 100) == [marker]
    assert markers(["red", "blue"] * 100) == ([marker] if marker == "\\N" else [])


def test_marks_that_mean_something() -> None:
    assert not markers_of({"country": text_column(["DE", "NA", "FR", "NA"] * 50)})
    assert not markers_of({"x": text_column(["none", "school", "unknown"] * 50)})


def test_batches_fit_the_rows() -> None:
    assert [batch_size(rows) for rows in (1, 7, 20, 180, 1800, 36_000, 180_000, 10**7)] == [
        1,
        1,
        4,
        16,
        16,
        256,
        1024,
        4096,
    ]
    assert all(batch_size(rows) * 4 <= rows for rows in range(4, 5000, 7))


@pytest.mark.parametrize(
    ("times", "split", "share"),
    [
        ([0, *range(100, 299)], 'by_time("t", 279)', 0.9),
        ([20240101] * 100 + [20240102] * 100, 'by_time("t", 20240102)', 0.5),
        ([0] * 150 + [1] * 40 + [2] * 10, 'by_time("t", 2)', 0.95),
        ([5] * 200, "every(10)", 0.9),
        ([*range(10), *[99] * 190], "every(10)", 0.9),  # by time there were hardly any rows to train on
    ],
)
def test_a_split_by_time_leaves_rows_on_both_sides(times: list[int], split: str, share: float) -> None:
    found = split_of(columns_of(pa.table({"t": times})), "t", {"a.csv": 200})
    assert found[0] == split
    assert found[3] == pytest.approx(share)


def test_few_rows_are_split_too() -> None:
    assert [split_of({}, "", {"a.csv": n})[0] for n in (3, 9, 500)] == ["every(3)", "every(9)", "every(10)"]
    assert split_of({}, "", {"train.csv": 30, "test.csv": 10})[3] == 0.75
