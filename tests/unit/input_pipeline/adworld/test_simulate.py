from __future__ import annotations

import dataclasses
import json
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.adworld.funnel import DAY, DAY_0
from input_pipeline.adworld.simulate import (
    ORACLE_COLUMNS,
    AdWorldConfig,
    Batch,
    candidates,
    generate,
    impressions,
    schema,
    simulate,
    split_of_day,
)
from input_pipeline.adworld.world import SCENARIOS, build_world
from tt_jax.features.encoder import Encoder
from tt_jax.schema import Schema

SMALL = AdWorldConfig(seed=7, users=1500, advertisers=40, ads=400, days=4, requests_per_day=5000, new_ads_per_day=20)


@cache
def logs() -> tuple[Batch, ...]:
    return tuple(simulate(SMALL))


def joined(log: str, column: str, scenario: str | None = None) -> np.ndarray:
    batches = [b for b in logs() if b.log == log and scenario in (None, b.scenario)]
    tables = [b.oracle if column in ORACLE_COLUMNS else b.table for b in batches]
    return np.concatenate([t.column(column).to_numpy() for t in tables])


def test_same_config_gives_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    tiny = dataclasses.replace(SMALL, requests_per_day=300, days=3)
    for name, config in (("a", tiny), ("b", tiny), ("c", dataclasses.replace(tiny, seed=8))):
        generate(config, tmp_path / name)
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert len(files) == 2 + 4 * tiny.days * len(SCENARIOS)
    for f in files:
        assert (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes(), f
        assert (tmp_path / "a" / f).read_bytes() != (tmp_path / "c" / f).read_bytes(), f


def test_a_log_does_not_depend_on_which_logs_are_asked_for() -> None:
    for log, alone in (("impressions", impressions(SMALL)), ("candidates", candidates(SMALL))):
        both = [b for b in logs() if b.log == log]
        for a, b in zip(islice(alone, 6), both, strict=False):
            assert (a.log, a.day, a.scenario) == (b.log, b.day, b.scenario)
            assert a.table.equals(b.table)
            assert a.oracle.equals(b.oracle)


def test_a_day_does_not_depend_on_which_days_are_asked_for() -> None:
    alone = list(simulate(SMALL, ("candidates",), (2,)))
    whole = [b for b in logs() if (b.log, b.day) == ("candidates", 2)]
    assert len(alone) == len(whole) > 1
    for a, b in zip(alone, whole, strict=True):
        assert a.table.equals(b.table)
        assert a.oracle.equals(b.oracle)


def test_schema_is_valid_has_every_kind_and_no_oracle_or_outcome_feature() -> None:
    s = schema(SMALL)
    assert Schema.from_json(s.to_json()) == s
    kinds = {t: {f.kind for f in s.tower_features(t)} for t in ("query", "ad")}
    assert kinds["query"] == {"categorical", "bag", "sequence", "numeric", "dense"}
    assert kinds["ad"] == {"categorical", "bag", "numeric", "dense"}
    hidden = {*ORACLE_COLUMNS, "bid", "price", "cost", "position", "click", "long_click", "conversion"}
    hidden |= {"teacher_click", "teacher_long_click", "teacher_conversion"}
    assert not hidden & {f.name for f in s.features}
    assert not set(ORACLE_COLUMNS) & {name for b in logs() for name in b.table.schema.names}


@pytest.mark.parametrize("log", ["impressions", "candidates"])
def test_every_schema_column_is_there_and_encodes(log: str) -> None:
    s = schema(SMALL)
    batch = [b for b in logs() if b.log == log][-1]
    encoded = Encoder(s).encode({name: batch.table.column(name) for name in batch.table.column_names})
    assert encoded.missing["user_id"] == encoded.missing["ad_id"] == encoded.missing["keywords"] == 0
    outcomes, teacher = encoded.arrays["labels"][:, :3], encoded.arrays["labels"][:, 3:]
    assert not np.isnan(teacher).any()
    assert np.isnan(outcomes[:, :2]).any() == (log == "candidates")
    np.testing.assert_array_equal(np.isnan(outcomes[:, 2]), outcomes[:, 0] != 1)  # a conversion is of a click


def test_types_of_the_columns() -> None:
    table = logs()[0].table
    string = pa.dictionary(pa.int32(), pa.string())
    expected = {
        "request_id": pa.int64(),
        "time": pa.int64(),
        "user_id": pa.int64(),
        "ad_id": pa.int64(),
        "scenario": string,
        "surface": string,
        "category": string,
        "interests": pa.list_(pa.string()),
        "recent_clicks": pa.list_(pa.int64()),
        "quality_index": pa.float32(),
        "price": pa.float32(),
        "click": pa.int8(),
        "teacher_click": pa.float32(),
    }
    for name, arrow_type in expected.items():
        assert table.schema.field(name).type == arrow_type, name
    for name in ("user_embedding", "creative_embedding"):
        field = table.schema.field(name).type
        assert (field.list_size, field.value_type) == (SMALL.embedding_dims, pa.float32())


@pytest.mark.parametrize("log", ["impressions", "candidates"])
def test_outcomes_agree_with_the_true_probabilities(log: str) -> None:
    shown = ~np.isnan(joined(log, "price"))
    click = joined(log, "click")[shown] == 1
    for label, seen in (("click", shown[shown]), ("long_click", shown[shown]), ("conversion", click)):
        y, p = joined(log, label)[shown][seen], joined(log, f"true_{label}")[shown][seen].astype(np.float64)
        z = (y - p).sum() / np.sqrt((p * (1 - p)).sum())
        assert abs(z) < 4.5, (label, z)
        # Also where it is high and where it is low: a label joined to another row's probability would pass the sum.
        middle = np.median(p)
        for half in (p > middle, p <= middle):
            assert abs((y - p)[half].sum()) < 4.5 * np.sqrt((p * (1 - p))[half].sum())
    long_click, conversion = joined(log, "long_click")[shown], joined(log, "conversion")[shown]
    assert not long_click[~click].any()
    assert not conversion[~click].any()


def test_rates_are_plausible_and_the_optimum_is_far_from_constant() -> None:
    for scenario, low, high in (("standard", 0.03, 0.08), ("shopping", 0.05, 0.1)):
        y = joined("impressions", "click", scenario).astype(np.float64)
        p = joined("impressions", "true_click", scenario).astype(np.float64)
        assert low < y.mean() < high
        bayes = -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))
        constant = -(y.mean() * np.log(y.mean()) + (1 - y.mean()) * np.log1p(-y.mean()))
        assert bayes < 0.85 * constant
        assert 0.1 < joined("impressions", "conversion", scenario)[y == 1].mean() < 0.25


def test_time_order_partitions_and_splits() -> None:
    requests = 0
    for log in ("impressions", "candidates"):
        last: dict[tuple[int, str], int] = {}
        for b in (b for b in logs() if b.log == log):
            time = b.table.column("time").to_numpy()
            assert (np.diff(time) >= 0).all()
            assert time[0] >= last.get((b.day, b.scenario), 0)
            assert ((time - DAY_0) // DAY == b.day).all()
            assert (((time - DAY_0) % DAY // 3600) == b.table.column("hour").to_numpy()).all()
            assert set(b.table.column("scenario").to_pylist()) == {b.scenario}
            assert b.table.column("request_id").equals(b.oracle.column("request_id"))
            assert b.table.column("ad_id").equals(b.oracle.column("ad_id"))
            last[b.day, b.scenario] = time[-1]
        assert list(last) == [(d, s) for d in range(SMALL.days) for s in SCENARIOS]
        requests = len(np.unique(joined(log, "request_id")))
        assert requests == SMALL.days * len(SCENARIOS) * SMALL.requests_per_day
    assert [split_of_day(SMALL, d) for d in range(4)] == ["train", "train", "eval", "test"]
    with pytest.raises(ValueError, match=r"expected 0\.\.3, got 4"):
        split_of_day(SMALL, 4)


def test_shopping_and_standard_ads_are_apart_and_only_live_ads_are_shown() -> None:
    ads = build_world(SMALL).ads
    for b in logs():
        row = b.table.column("ad_id").to_numpy() - 1_000_001
        assert (ads.scenario[row] == SCENARIOS.index(b.scenario)).all()
        assert (ads.birth[row] <= b.day).all()
        assert (b.day < ads.end[row]).all()
    born = [b.table.column("ad_id").to_numpy() - 1_000_001 for b in logs() if b.day == SMALL.days - 1]
    assert (ads.birth[np.concatenate(born)] == SMALL.days - 1).any()


def test_numbers_have_missing_values_and_new_ads_have_no_quality_index() -> None:
    share = {}
    for name in ("account_age_days", "engagement_index", "quality_index"):
        column = pa.chunked_array([c for b in logs() for c in b.table.column(name).chunks])
        share[name] = column.null_count / len(column)
    assert 0.05 < share["account_age_days"] < 0.15
    assert 0.08 < share["engagement_index"] < 0.22
    assert 0 < share["quality_index"] < 0.2
    for b in logs():
        ages = b.table.column("ad_age_days").to_numpy()
        missing = b.table.column("quality_index").is_null().to_numpy()
        assert (missing == ((ages == 0) & (b.day > 0))).all()
        assert b.table.column("product_price").null_count == (b.table.num_rows if b.scenario == "standard" else 0)


def test_recent_clicks_are_the_clicks_of_earlier_days() -> None:
    clicked: dict[int, list[int]] = {}
    today: list[tuple[int, int, int]] = []
    day = 0
    for b in (b for b in logs() if b.log == "impressions"):
        if b.day != day:
            for _, user, ad in sorted(today, key=lambda c: c[0]):
                clicked.setdefault(user, []).append(ad)
            today, day = [], b.day
        users, ads, time = (b.table.column(c).to_numpy() for c in ("user_id", "ad_id", "time"))
        history = b.table.column("recent_clicks").to_pylist()
        for i in range(0, len(users), 7):
            assert history[i] == clicked.get(int(users[i]), [])[-SMALL.max_history :]
        for i in np.flatnonzero(b.table.column("click").to_numpy() == 1):
            today.append((int(time[i]), int(users[i]), int(ads[i])))
    assert max(len(v) for v in clicked.values()) > SMALL.max_history


def test_files_hold_the_logs_and_the_corpus(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, requests_per_day=5000, days=3)
    out = tmp_path / "sub" / "world"
    generate(config, out)
    assert [p.name for p in out.parent.iterdir()] == ["world"]
    assert AdWorldConfig(**json.loads((out / "world.json").read_text())) == config
    batches = [b for b in simulate(config) if (b.day, b.scenario) == (1, "shopping")]
    for log in ("impressions", "candidates"):
        part = Path("scenario=shopping", "day=1", "part-0.parquet")
        mine = [b for b in batches if b.log == log]
        assert len(mine) == 2
        assert pq.ParquetFile(out / log / part).read().equals(pa.concat_tables([b.table for b in mine]))
        assert pq.ParquetFile(out / "oracle" / log / part).read().equals(pa.concat_tables([b.oracle for b in mine]))
    ads = pq.ParquetFile(out / "ads.parquet").read()
    features = {f.name for f in schema(config).tower_features("ad")}
    assert features | {"bid", "eligible", "scenario"} == set(ads.column_names)
    assert ads.num_rows == config.ads + 2 * config.new_ads_per_day
    shown = np.unique(joined_file(out / "impressions", "day=2", "ad_id"))
    eligible = ads.column("ad_id").to_numpy()[ads.column("eligible").to_numpy()]
    assert set(shown) <= set(eligible)
    assert len(eligible) < ads.num_rows
    with pytest.raises(ValueError, match="already exists"):
        generate(config, out)


def joined_file(folder: Path, day: str, column: str) -> np.ndarray:
    files = sorted(folder.glob(f"scenario=*/{day}/*.parquet"))
    return np.concatenate([pq.ParquetFile(f).read([column]).column(0).to_numpy() for f in files])


def test_a_failed_generation_leaves_nothing(tmp_path: Path) -> None:
    dying = dataclasses.replace(SMALL, ad_end_rate=1.0, new_ads_per_day=0)
    with pytest.raises(ValueError, match="day 1, scenario 'standard': 0 ads alive"):
        generate(dying, tmp_path / "world")
    assert list(tmp_path.iterdir()) == []
