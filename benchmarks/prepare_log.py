"""The log of `benchmarks.prepare`, and its recipe: impressions in many files, tables of users and ads to join."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline import logs
from input_pipeline.readers import Chunk, Errors
from tt_jax.schema import Feature, Schema, Task

FILE_ROWS = 250_000
USERS, ADS = 500_000, 100_000
_DAY_MS, _DAYS, _START_MS = 86_400_000, 10, 1_788_220_800_000
EVAL_FROM = _START_MS + (_DAYS - 1) * _DAY_MS  # the last of ten days
JOINS = {"users.parquet": "user_id", "ads.parquet": "ad_id"}


def log_in(workdir: Path, rows: int) -> Path:
    """The log of that many rows, written if it is not there."""
    log, unfinished = workdir / f"log-{rows}", workdir / "unfinished"
    if not log.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished, rows)
        unfinished.rename(log)
    return log


def write(folder: Path, rows: int, seed: int = 0) -> None:
    """Files `impressions/part-*.parquet`, ordered in time, 15 columns; `users.parquet`, 8; `ads.parquet`, 9."""
    (folder / "impressions").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    pq.write_table(_users(rng), folder / "users.parquet")
    pq.write_table(_ads(rng), folder / "ads.parquet")
    for first in range(0, rows, FILE_ROWS):
        n = min(FILE_ROWS, rows - first)
        at = np.sort(rng.random(n)) * n + first
        time = _START_MS + (at / rows * _DAYS * _DAY_MS).astype(np.int64)
        pq.write_table(_impressions(rng, time), folder / f"impressions/part-{first // FILE_ROWS:05d}.parquet")


def _impressions(rng: np.random.Generator, time: np.ndarray) -> pa.Table:
    n = len(time)
    ad = (ADS * rng.random(n) ** 3).astype(np.int64)  # a few ads have most of the impressions
    click = rng.random(n) < 0.05
    return pa.table({
        "request_id": rng.integers(0, 2**62, n), "time_ms": time,
        "user_id": 10_000_000 + rng.integers(0, USERS, n), "ad_id": 70_000_000 + ad,
        "scenario": _texts(rng, ["standard", "shopping"], n), "surface": _texts(rng, ["home", "search", "related"], n),
        "device": _texts(rng, ["ios", "android", "web", "tablet"], n),
        "os_version": _texts(rng, [f"{major}.{minor}" for major in range(9, 19) for minor in range(6)], n),
        "hour": (time // 3_600_000 % 24).astype(np.int32), "query_topic": rng.integers(0, 500, n).astype(np.int32),
        "session_seconds": rng.exponential(300.0, n),
        "recent_clicks": pa.array(rng.poisson(2.0, n), pa.int32(), mask=rng.random(n) < 0.1),
        "position": rng.integers(0, 40, n).astype(np.int32),
        "click": click.astype(np.int8), "long_click": (click & (rng.random(n) < 0.4)).astype(np.int8),
    })  # fmt: skip


def _users(rng: np.random.Generator) -> pa.Table:
    return pa.table({
        "user_id": 10_000_000 + rng.permutation(USERS),
        "country": _texts(rng, [f"C{i:03d}" for i in range(200)], USERS),
        "language": _texts(rng, [f"lang-{i}" for i in range(60)], USERS),
        "gender": _texts(rng, ["female", "male", "unknown"], USERS),
        "age_bucket": rng.integers(0, 9, USERS).astype(np.int32),
        "followers": pa.array(rng.lognormal(3.0, 2.0, USERS), mask=rng.random(USERS) < 0.2),
        "actions_28d": rng.lognormal(4.0, 1.0, USERS), "tenure_days": rng.integers(0, 4000, USERS).astype(np.float64),
    })  # fmt: skip


def _ads(rng: np.random.Generator) -> pa.Table:
    return pa.table({
        "ad_id": 70_000_000 + rng.permutation(ADS), "advertiser_id": rng.integers(0, 8000, ADS),
        "category": rng.integers(0, 40, ADS).astype(np.int32),
        "format": _texts(rng, ["image", "video", "carousel", "collection"], ADS),
        "domain": _texts(rng, [f"shop-{i}.example.com" for i in range(5000)], ADS),
        "price": pa.array(rng.lognormal(3.0, 1.0, ADS), mask=rng.random(ADS) < 0.3),
        "ctr_28d": rng.beta(2.0, 50.0, ADS), "quality": rng.random(ADS), "bid": rng.lognormal(0.0, 0.5, ADS),
    })  # fmt: skip


def _texts(rng: np.random.Generator, values: list[str], n: int) -> pa.Array:
    return pa.array(values).take(pa.array(rng.integers(0, len(values), n)))


# ---- The recipe ------------------------------------------------------------------------------------------------------


def schema(_source: str | None = None) -> Schema:
    """15 id features and 8 numbers, of which the side tables have 13."""

    def hashed(name: str, tower: str, dtype: str, size: int) -> Feature:
        return Feature(name, "categorical", tower, dtype, 16, hash_size=size)  # pyright: ignore[reportArgumentType]

    def named(name: str, tower: str, *values: str | int) -> Feature:
        dtype = "int" if isinstance(values[0], int) else "string"
        return Feature(name, "categorical", tower, dtype, 16, vocabulary=values)  # pyright: ignore[reportArgumentType]

    def number(name: str, tower: str, mean: float, std: float, transform: str = "log1p") -> Feature:
        return Feature(name, "numeric", tower, mean=mean, std=std, transform=transform)  # pyright: ignore[reportArgumentType]

    return Schema(
        "prepare_benchmark",
        (
            hashed("user_id", "query", "int", 1 << 20), named("scenario", "query", "standard", "shopping"),
            named("surface", "query", "home", "search", "related"),
            named("device", "query", "ios", "android", "web", "tablet"), hashed("os_version", "query", "string", 512),
            named("hour", "query", *range(24)), hashed("query_topic", "query", "int", 4096),
            hashed("country", "query", "string", 1024), hashed("language", "query", "string", 512),
            named("gender", "query", "female", "male", "unknown"), named("age_bucket", "query", *range(9)),
            number("session_seconds", "query", 5.1, 1.2), number("recent_clicks", "query", 1.0, 0.5),
            number("followers", "query", 3.2, 1.8), number("actions_28d", "query", 4.0, 1.0),
            number("tenure_days", "query", 7.3, 1.0),
            hashed("ad_id", "ad", "int", 1 << 18), hashed("advertiser_id", "ad", "int", 1 << 15),
            hashed("category", "ad", "int", 256), named("format", "ad", "image", "video", "carousel", "collection"),
            hashed("domain", "ad", "string", 1 << 14), number("price", "ad", 3.0, 1.0),
            number("ctr_28d", "ad", 0.04, 0.03, "none"), number("quality", "ad", 0.5, 0.3, "none"),
        ),
        (Task("click", "click"), Task("long_click", "long_click")),
        scenario="scenario", scenarios=("standard", "shopping"),
        user_id="user_id", ad_id="ad_id", request_id="request_id", time="time_ms",
    )  # fmt: skip


def read(source: str, errors: Errors = logs.STRICT, parts: Collection[str] | None = None) -> Iterator[Chunk]:
    """The impressions, joined."""
    return logs.read_logs(source, schema(), logs.by_time("time_ms", EVAL_FROM), JOINS, errors, parts)


def parts(source: str) -> list[str]:
    """The files of impressions."""
    return logs.parts_of_logs(source, JOINS)


def ads(source: str) -> pa.Table:
    """The table of ads."""
    table = pq.read_table(Path(source) / "ads.parquet")
    return table.append_column("eligible", pa.array(np.ones(len(table), bool)))
