"""Logs of ads that were shown, in the shapes of public ones."""

from __future__ import annotations

import numpy as np

from tests.support.public_logs.maker import ROWS, START, Columns, Found, clicks, ids, log, moments


@log(
    Found(
        ("click",),
        "device_id",
        time="hour",
        kinds={"device_id": "categorical", "C14": "numeric"},
        out=("id", "hour", "banner_pos"),
    )
)
def avazu(rng: np.random.Generator) -> tuple[str, Columns]:
    """YYMMDDHH, hashed texts, a row id."""
    return "train.csv", {
        "id": [str(10**18 + 7 * i) for i in range(ROWS)],
        "click": clicks(rng),
        "hour": [f"{t:%y%m%d%H}" for t in moments()],
        "C1": rng.choice([1002, 1005], ROWS),
        "banner_pos": rng.choice([0, 1], ROWS),
        "site_id": [f"{i:08x}" for i in rng.integers(0, 50, ROWS) * 99991],
        "device_id": [f"{i:08x}" for i in rng.integers(0, 80, ROWS) * 7919],
        "C14": rng.integers(300, 24000, ROWS),
    }


@log(
    Found(
        ("clk",),
        "user",
        "adgroup_id",
        "time_stamp",
        {"pid": "categorical", "cate_id": "categorical"},
        ("nonclk", "clk"),
    )
)
def taobao(rng: np.random.Generator) -> tuple[str, Columns]:
    """The answer and its opposite, ad groups, Unix seconds."""
    clk = clicks(rng, 0.1)
    return "raw_sample.csv", {
        "user": ids(rng, 50),
        "time_stamp": [START + 60 * i for i in range(ROWS)],
        "adgroup_id": ids(rng, 70),
        "pid": rng.choice(["430548_1007", "430539_1007"], ROWS),
        "nonclk": 1 - clk,
        "clk": clk,
        "cate_id": ids(rng, 30),
    }


@log(Found(("label=1",), "user_id", "item_id", "ts", {"gender": "categorical"}, ("label",)))
def signed(rng: np.random.Generator) -> tuple[str, Columns]:
    """Labels of -1 and 1, beside columns of two values."""
    return "log.parquet", {
        "user_id": ids(rng, 40, "u"),
        "item_id": ids(rng, 50),
        "label": 2 * clicks(rng) - 1,
        "ts": [START + i for i in range(ROWS)],
        "gender": rng.choice([0, 1], ROWS),
        "price_band": rng.choice([1, 2, 3], ROWS),
    }


@log(
    Found(
        ("click",),
        time="timestamp",
        ad="item_id",
        kinds={"user_feature_0": "categorical"},
        out=("position", "propensity_score"),
    )
)
def open_bandit(rng: np.random.Generator) -> tuple[str, Columns]:
    """pandas' row number without a name, a position, text of ISO with a zone."""
    return "all.csv", {
        "": range(ROWS),
        "timestamp": [f"{t:%Y-%m-%d %H:%M:%S.%f}+00:00" for t in moments()],
        "item_id": ids(rng, 34),
        "position": rng.integers(1, 4, ROWS),
        "click": clicks(rng),
        "propensity_score": rng.random(ROWS).round(4),
        "user_feature_0": rng.choice(["81ce123cbb5bd8ce818f60fb3586bba5", "4ae385d792f81dde128124a925a830de"], ROWS),
        "user-item_affinity_0": rng.random(ROWS).round(3),
    }


@log(
    Found(
        ("is_click", "long_view", "is_like"),
        "user_id",
        "video_id",
        "time_ms",
        {"tab": "categorical"},
        ("play_time_ms", "date"),
    )
)
def kuairand(rng: np.random.Generator) -> tuple[str, Columns]:
    """Several outcomes, Unix milliseconds, a scenario that is a number."""
    click = clicks(rng, 0.4)
    return "log_standard.csv", {
        "user_id": ids(rng, 40),
        "video_id": ids(rng, 60),
        "date": [f"{t:%Y%m%d}" for t in moments(600)],
        "hourmin": [t.hour * 100 for t in moments(600)],
        "time_ms": [1000 * (START + 600 * i) for i in range(ROWS)],
        "is_click": click,
        "is_like": click * clicks(rng, 0.4),
        "long_view": click * clicks(rng, 0.7),
        "is_hate": [0] * ROWS,
        "play_time_ms": rng.integers(0, 10**5, ROWS),
        "duration_ms": rng.integers(5000, 10**5, ROWS),
        "tab": rng.choice([0, 1, 4], ROWS),
    }


@log(Found(("visit", "conversion"), kinds={"f0": "numeric", "treatment": "categorical"}, out=("conversion", "visit")))
def criteo_uplift(rng: np.random.Generator) -> tuple[str, Columns]:
    """Numbers without ids or a time, and a treatment of two values."""
    visit = clicks(rng, 0.3)
    return "uplift.csv", {
        "f0": rng.normal(size=ROWS).round(4),
        "f1": rng.exponential(size=ROWS).round(4),
        "f2": rng.normal(size=ROWS).round(4),
        "treatment": clicks(rng, 0.8),
        "conversion": visit * clicks(rng, 0.4),
        "visit": visit,
        "exposure": clicks(rng, 0.4) * clicks(rng, 0.5),
    }


@log(
    Found(
        ("click", "conversion"),
        "uid",
        "campaign",
        "timestamp",
        {"cat1": "categorical"},
        ("cost", "click_pos", "conversion_timestamp", "conversion_id"),
    )
)
def criteo_attribution(rng: np.random.Generator) -> tuple[str, Columns]:
    """Seconds from 0 on, campaigns as ads, what is known afterwards as -1."""
    click = clicks(rng, 0.35)
    bought = click * clicks(rng, 0.3)
    return "attribution.tsv", {
        "timestamp": np.arange(ROWS) * 37,
        "uid": ids(rng, 60),
        "campaign": ids(rng, 20),
        "conversion": bought,
        "conversion_timestamp": np.where(bought, np.arange(ROWS) * 37 + 9000, -1),
        "conversion_id": np.where(bought, np.arange(ROWS), -1),
        "click": click,
        "click_pos": np.where(bought, 0, -1),
        "cost": rng.random(ROWS).round(6),
        "cat1": rng.integers(10**6, 10**6 + 40, ROWS),
    }


@log(
    Found(
        ("IsClicked=True",),
        "UserID",
        "CreativeID",
        "Timestamp",
        {"Region": "categorical"},
        ("BidID", "AdSlotPosition", "BidPrice"),
    )
)
def camel_case(rng: np.random.Generator) -> tuple[str, Columns]:
    """Names in camel case, truth as text with a missing one, times without a separator."""
    truth = np.where(clicks(rng), "True", "False").tolist()
    return "imp.parquet", {
        "BidID": [f"b{i}" for i in range(ROWS)],
        "Timestamp": [f"{t:%Y%m%d%H%M%S}" for t in moments()],
        "UserID": ids(rng, 40, "x"),
        "Region": ids(rng, 30),
        "AdvertiserID": ids(rng, 8),
        "CampaignID": ids(rng, 12),
        "CreativeID": ids(rng, 50),
        "AdSlotPosition": rng.integers(1, 5, ROWS),
        "AdSlotWidth": rng.choice([300, 728], ROWS),
        "BidPrice": rng.integers(200, 300, ROWS),
        "IsClicked": [None if i == 7 else t for i, t in enumerate(truth)],
        "Gender": rng.choice(["M", "F"], ROWS),
    }


@log(
    Found(("clicked=1",), "user_id", "ad_id", "created_at", out=("clicked",), text=("0 in 7 rows of other values (2)",))
)
def stray_values(rng: np.random.Generator) -> tuple[str, Columns]:
    """Seven rows of 2 among 0 and 1; dates with an offset."""
    clicked = clicks(rng)
    clicked[::90] = 2
    return "log.csv", {
        "user_id": ids(rng, 40, "u"),
        "ad_id": ids(rng, 50),
        "clicked": clicked,
        "gender": rng.choice([0, 1], ROWS),
        "created_at": [f"{t:%Y-%m-%dT%H:%M:%S.123}+02:00" for t in moments()],
        "size": rng.choice([1, 2, 3, 4], ROWS),
    }


@log(
    Found(
        ("is_attributed",),
        "ip",
        "row_number",
        "click_time",
        {"app": "categorical", "os": "categorical"},
        ("attributed_time",),
    )
)
def talking_data(rng: np.random.Generator) -> tuple[str, Columns]:
    """Codes, and the time of what came of it."""
    done = clicks(rng, 0.1)
    when = [f"{t:%Y-%m-%d %H:%M:%S}" for t in moments(60)]
    return "train.csv", {
        "ip": ids(rng, 60),
        "app": rng.integers(1, 20, ROWS),
        "device": rng.integers(0, 3, ROWS),
        "os": rng.integers(10, 25, ROWS),
        "channel": rng.choice([101, 120, 213], ROWS),
        "click_time": when,
        "attributed_time": [w if d else "" for w, d in zip(when, done, strict=True)],
        "is_attributed": done,
    }
