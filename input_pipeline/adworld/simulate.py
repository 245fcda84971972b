"""AdWorld, the synthetic ads world: seeded logs of an ads funnel whose true probabilities are known.

    world (population) -> truth (probabilities) -> funnel -> features (what shows of it) -> logs, here

Two logs of the same columns: `impressions`, the auction's winners with what users did, and `candidates`, a sample of
each auction's candidates, whose outcomes are null if they were not shown. Both have the heavy ranker's probabilities.
The true ones stand in an oracle table apart, aligned row by row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline.adworld.features import ads_on, observe, schema, strings, users_on
from input_pipeline.adworld.funnel import (
    Inventory,
    Labels,
    Memory,
    auction,
    engage,
    retrieve,
    sample_requests,
    take_inventory,
)
from input_pipeline.adworld.truth import Requests, click_logit, log_logits, probabilities, sigmoid
from input_pipeline.adworld.world import SCENARIOS, SURFACES, AdWorldConfig, World, build_world
from tt_jax.io.publish import published_directory

__all__ = ["AdWorldConfig", "Batch", "candidates", "generate", "impressions", "schema", "simulate", "split_of_day"]

Log = Literal["impressions", "candidates"]
LOGS: tuple[Log, ...] = ("impressions", "candidates")
ORACLE_COLUMNS = ("true_click", "true_long_click", "true_conversion")
_CHUNK = 4096  # requests: cache-sized, and a row group of the written logs


@dataclass(frozen=True)
class Batch:
    """Some rows of one log, day and scenario, in time order.

    `table`: the columns of the schema; `bid`; `teacher_*`, the heavy ranker's probabilities; and the outcomes
    `position` (slot, from 0), `price` (per click, second price), `cost` (paid: the price where there was a click),
    `click`, `long_click`, `conversion`. `oracle`: request_id, ad_id and `ORACLE_COLUMNS` of the same rows.
    `true_conversion` and `teacher_conversion` are given a click, the others are not.
    """

    log: Log
    day: int
    scenario: str
    table: pa.Table
    oracle: pa.Table


@dataclass(frozen=True)
class _Funnel:
    """What one chunk of N requests, with C candidates each, went through to make R impressions.

    `ad` int32, `valid` bool, `logit` float32 (the true click logit): `[N, C]`. `noise` float32 `[N, C, 3]`: the heavy
    ranker's errors. `impression` int32 `[N, C]`: that of a candidate, or -1. Of the impressions, `[R]` each: `request`
    and `column` (where they stand in `[N, C]`), `position` (slot, from 0), `price` per click, `labels`.
    """

    requests: Requests
    ad: np.ndarray
    valid: np.ndarray
    logit: np.ndarray
    noise: np.ndarray
    impression: np.ndarray
    request: np.ndarray
    column: np.ndarray
    position: np.ndarray
    price: np.ndarray
    labels: Labels


def split_of_day(config: AdWorldConfig, day: int) -> Literal["train", "eval", "test"]:
    """The split of a day: the last is test, the last but one eval. Raises ValueError for a day outside the world."""
    if not 0 <= day < config.days:
        raise ValueError(f"AdWorld day: expected 0..{config.days - 1}, got {day}")
    return "test" if day == config.days - 1 else "eval" if day == config.days - 2 else "train"


def days_of(config: AdWorldConfig, split: str) -> tuple[int, ...]:
    """The days of a split."""
    return tuple(day for day in range(config.days) if split_of_day(config, day) == split)


def impressions(config: AdWorldConfig) -> Iterator[Batch]:
    """The impression log, by day, then scenario, then time. Memory does not grow with the number of requests."""
    return simulate(config, ("impressions",))


def candidates(config: AdWorldConfig) -> Iterator[Batch]:
    """The candidate log, by day, then scenario, then time."""
    return simulate(config, ("candidates",))


def simulate(
    config: AdWorldConfig, logs: tuple[Log, ...] = LOGS, days: Collection[int] | None = None
) -> Iterator[Batch]:
    """Runs the world; yields logs of some days, by default of all. Rows do not depend on what else is asked for."""
    world = build_world(config)
    seen, memory = observe(world), Memory(world)
    for day in range(config.days if days is None else max(days, default=-1) + 1):
        if days is not None and day not in days:
            _live(world, memory, day)
            continue
        users, ads = users_on(seen, memory), ads_on(world, seen, day)
        for funnel, sample in _run_day(world, memory, day):
            for log in logs:
                shown = (funnel.request, funnel.column)
                picked = shown if log == "impressions" else _sample_candidates(config, funnel, sample)
                scenario = SCENARIOS[funnel.requests.scenario]
                yield Batch(log, day, scenario, *_log_tables(world, users, ads, funnel, *picked))


def memory_before(world: World, day: int) -> Memory:
    """What users have seen and clicked when a day begins."""
    memory = Memory(world)
    for past in range(day):
        _live(world, memory, past)
    return memory


def _live(world: World, memory: Memory, day: int) -> None:
    for _ in _run_day(world, memory, day):
        pass


def _run_day(world: World, memory: Memory, day: int) -> Iterator[tuple[_Funnel, np.random.Generator]]:
    """The day's chunks of requests, and the stream that samples their candidates; then it is midnight."""
    config = world.config
    for scenario in range(len(SCENARIOS)):
        # One stream per stage, so that a change of one stage leaves the draws of the others alone. Day + 1: NumPy
        # seeds [s] and [s, 0, 0, 0] alike, and [s] is the world's.
        arrive, rank, act, sample = (np.random.default_rng([config.seed, day + 1, scenario, i]) for i in range(4))
        inventory = take_inventory(world, day, scenario, arrive)
        for first in range(0, config.requests_per_day, _CHUNK):
            count = min(_CHUNK, config.requests_per_day - first)
            requests = sample_requests(world, day, scenario, first, count, arrive)
            yield _run_funnel(world, inventory, memory, requests, arrive, rank, act), sample
    memory.midnight()


def _run_funnel(
    world: World,
    inventory: Inventory,
    memory: Memory,
    requests: Requests,
    arrive: np.random.Generator,
    rank: np.random.Generator,
    act: np.random.Generator,
) -> _Funnel:
    """One chunk of requests through the funnel; what users saw and clicked goes to `memory`."""
    config, s = world.config, requests.scenario
    ad, valid = retrieve(world, inventory, requests, arrive)
    exposures = memory.exposures(requests.user[:, None], ad)
    logit = click_logit(world, inventory.quality, requests, ad, exposures)
    noise = rank.standard_normal((*ad.shape, 3), np.float32) * np.float32(config.heavy_noise)
    sold = auction(world.ads.bid[ad], sigmoid(logit + noise[:, :, 0]), valid, config.slots, config.reserve)
    request, position = np.nonzero(sold.shown)
    column = sold.winners[request, position]
    user, shown_ad = requests.user[request], ad[request, column]
    truth = probabilities(log_logits(world, s, logit[request, column], user, shown_ad))
    labels = engage(truth, act.random((len(request), 2), np.float32))
    memory.record(requests.time[request], user, shown_ad, labels.click)
    impression = np.full(ad.shape, -1, np.int32)
    impression[request, column] = np.arange(len(request), dtype=np.int32)
    return _Funnel(
        requests, ad, valid, logit, noise, impression, request, column, position, sold.price[request, position], labels
    )


def _sample_candidates(
    config: AdWorldConfig, funnel: _Funnel, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Requests and columns of the candidates to log, drawn uniformly without repetition."""
    key = rng.random(funnel.ad.shape, np.float32)
    key[~funnel.valid] = 2  # a repeated ad comes last, and is dropped if even so it is drawn
    column = np.argpartition(key, config.logged_candidates - 1, axis=1)[:, : config.logged_candidates]
    request, nth = np.nonzero(np.take_along_axis(funnel.valid, column, axis=1))
    return request, column[request, nth]


def _log_tables(
    world: World, users: pa.RecordBatch, ads: pa.RecordBatch, funnel: _Funnel, request: np.ndarray, column: np.ndarray
) -> tuple[pa.Table, pa.Table]:
    """The log rows of the candidates `funnel.ad[request, column]`, and their oracle."""
    r, s = funnel.requests, funnel.requests.scenario
    user, ad, row = r.user[request], funnel.ad[request, column], funnel.impression[request, column]
    logits = log_logits(world, s, funnel.logit[request, column], user, ad)
    truth, teacher = probabilities(logits), probabilities(logits + funnel.noise[request, column])
    lost = row < 0

    def outcome(values: np.ndarray) -> pa.Array:
        return pa.array(values[row], mask=lost)

    request_id, labels = pa.array(r.request_id[request]), funnel.labels
    user_columns, ad_columns = users.take(pa.array(user)), ads.take(pa.array(ad))
    columns = {
        "request_id": request_id,
        "time": pa.array(r.time[request]),
        "scenario": strings(np.full(len(request), s), SCENARIOS),
        "surface": strings(r.surface[request], SURFACES),
        "hour": pa.array(r.hour[request].astype(np.int32)),
        **dict(zip(user_columns.schema.names, user_columns.columns, strict=True)),
        **dict(zip(ad_columns.schema.names, ad_columns.columns, strict=True)),
        "bid": pa.array(world.ads.bid[ad]),
        "teacher_click": pa.array(teacher.click),
        "teacher_long_click": pa.array(teacher.long_click),
        "teacher_conversion": pa.array(teacher.conversion),
        "position": outcome(funnel.position.astype(np.int8)),
        "price": outcome(funnel.price),
        "cost": outcome(funnel.price * labels.click),
        "click": outcome(labels.click.astype(np.int8)),
        "long_click": outcome(labels.long_click.astype(np.int8)),
        "conversion": outcome(labels.conversion.astype(np.int8)),
    }
    true = zip(ORACLE_COLUMNS, (truth.click, truth.long_click, truth.conversion), strict=True)
    oracle = {"request_id": request_id, "ad_id": columns["ad_id"], **{name: pa.array(p) for name, p in true}}
    return pa.table(columns), pa.table(oracle)


def corpus(config: AdWorldConfig, day: int | None = None) -> pa.Table:
    """All ads as of a day, by default the last: the ad features, scenario, bid (currency per click), eligible (alive).

    Ads of later days are there too, and not eligible. Raises ValueError for a day outside the world.
    """
    split_of_day(config, day or 0)
    world, day = build_world(config), config.days - 1 if day is None else day
    ads = ads_on(world, observe(world), day)
    columns = {
        "scenario": strings(world.ads.scenario, SCENARIOS),
        "bid": pa.array(world.ads.bid),
        "eligible": pa.array((world.ads.birth <= day) & (world.ads.end > day)),
    }
    return pa.table({**dict(zip(ads.schema.names, ads.columns, strict=True)), **columns})


def generate(config: AdWorldConfig, out_dir: str | Path, logs: tuple[Log, ...] = LOGS) -> None:
    """Writes a world to `out_dir`, which appears complete or not at all.

    `<log>/scenario=<s>/day=<d>/part-0.parquet` for each log, the same under `oracle/`, `ads.parquet` (see `corpus`) and
    `world.json`, the config. Raises `PublishError` if `out_dir` exists or another run is writing it.
    """
    with published_directory(out_dir) as folder:
        _write_logs(folder, config, logs)
        pq.write_table(corpus(config), folder / "ads.parquet", compression="lz4")
        (folder / "world.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True) + "\n")


def _open_writer(path: Path, columns: pa.Schema) -> pq.ParquetWriter:
    # Dictionaries of floats do not pay, nearly all of them differ; lists have none by this name. 1.5x as fast to write.
    repeating: Any = [f.name for f in columns if not pa.types.is_floating(f.type)]  # annotated as bool in pyarrow
    return pq.ParquetWriter(path, columns, compression="lz4", use_dictionary=repeating)


def _write_logs(folder: Path, config: AdWorldConfig, logs: tuple[Log, ...]) -> None:
    part, writers = (-1, ""), {}
    with ExitStack() as open_files:
        for batch in simulate(config, logs):
            if (batch.day, batch.scenario) != part:
                open_files.close()
                part, writers = (batch.day, batch.scenario), {}
            for log, table in ((batch.log, batch.table), (f"oracle/{batch.log}", batch.oracle)):
                if log not in writers:
                    path = folder / log / f"scenario={batch.scenario}" / f"day={batch.day}" / "part-0.parquet"
                    path.parent.mkdir(parents=True)
                    writers[log] = open_files.enter_context(_open_writer(path, table.schema))
                writers[log].write_table(table)
