"""AdWorld, the synthetic ads world, as a recipe: simulated on the way, or read from what `simulate.generate` wrote.

The splits are days. `train`, `eval` and `test` are of the impression log, the auctions' winners; with `_candidates` to
their names, of the candidate log. Of chosen days, all rows are in `train` and `train_candidates`: a set that a run goes
on with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from input_pipeline.adworld import simulate
from input_pipeline.adworld.simulate import LOGS, AdWorldConfig, Log
from input_pipeline.readers import STRICT, Chunk, Errors, ReadError
from input_pipeline.readers import read as read_tables
from tt_jax.io.strict_json import dataclass_from_dict, nearest, parse_json
from tt_jax.schema import Schema

# A world to simulate (None: the default one; a file: its configuration), or the directory that `generate` wrote.
Source = AdWorldConfig | str | Path | None
SPLITS = ("train", "eval", "test", "train_candidates", "eval_candidates", "test_candidates")
WORLD = "world.json"  # a world's configuration, in what `generate`, `tt-jax prepare` and the quickstart wrote


def schema(source: Source) -> Schema:
    """The world's schema."""
    return simulate.schema(config_of(source))


def read(
    source: Source,
    logs: tuple[Log, ...] = LOGS,
    errors: Errors = STRICT,
    days: Collection[int] | None = None,
) -> Iterator[Chunk]:
    """Logs of the world, by day, then scenario, then time (a generated one: by scenario, then day, then time).

    `errors` gets the bad rows of a generated one. `days`: only these, all in the split `train`; None = all, in splits.
    Raises ValueError for a day outside the world.
    """
    config = config_of(source)
    for day in days or ():
        simulate.split_of_day(config, day)
    if source is None or isinstance(source, AdWorldConfig) or Path(source).is_file():
        rows: Counter[str] = Counter()
        for batch in simulate.simulate(config, logs, days):
            file = f"AdWorld seed {config.seed}, {batch.log} of day {batch.day}, {batch.scenario}"
            yield Chunk(_split(config, batch.log, batch.day, days), file, rows[file], batch.table)
            rows[file] += batch.table.num_rows
        return
    for log in logs:
        for file, first_row, table in read_tables(Path(source) / log, errors=errors):
            day = table.column("day")[0].as_py() if table.num_rows else 0
            if days is None or day in days:
                yield Chunk(_split(config, log, day, days), file, first_row, table)


def ads(source: Source, days: Collection[int] | None = None) -> pa.Table:
    """All ads as of the last of the days: ad features, `bid`, `eligible`."""
    return simulate.corpus(config_of(source), None if days is None else max(days))


def _split(config: AdWorldConfig, log: Log, day: int, days: Collection[int] | None) -> str:
    split = "train" if days is not None else simulate.split_of_day(config, day)
    return split if log == "impressions" else f"{split}_candidates"


def log_of(split: str) -> tuple[str, Log]:
    """The split of days, and the log, of one of `SPLITS`. Raises `ReadError` for another."""
    if split not in SPLITS:
        raise ReadError(f"unknown split {split!r} of AdWorld{nearest(split, SPLITS)}")
    return split.removesuffix("_candidates"), "candidates" if split.endswith("_candidates") else "impressions"


def config_of(source: Source) -> AdWorldConfig:
    """The world's configuration; `source` may be a `world.json` too. Raises `ReadError` naming a file that is none."""
    if source is None:
        return AdWorldConfig()
    if isinstance(source, AdWorldConfig):
        return source
    if "://" in str(source):
        raise ReadError(f"{source}: a generated AdWorld is read from a local directory, not from a URL")
    path = Path(source)
    path = path if path.is_file() else path / WORLD
    try:
        data = parse_json(path.read_text(), "world", ReadError)
        return dataclass_from_dict(AdWorldConfig, data, "world", ReadError)
    except (OSError, ValueError) as e:
        raise ReadError(f"{path}: not the config of a generated AdWorld: {e}") from e
