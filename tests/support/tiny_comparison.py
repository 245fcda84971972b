"""A small comparison on a small AdWorld, for the tests of `tt-jax compare` and of its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.adworld.simulate import AdWorldConfig
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from input_pipeline.recipes import adworld as recipe
from tests.support import run_configs
from tt_jax.compare.plan import Calibrate, Plan, make_plan
from tt_jax.config import Config

WORLD = AdWorldConfig(
    seed=3,
    users=200,
    advertisers=20,
    ads=200,
    days=3,
    requests_per_day=150,
    candidates=16,
    new_ads_per_day=6,
    segments=16,
    logit_std=3.5,  # so that few rows teach something
)
TASKS = ("click", "conversion", "teacher_click")
SPLITS = ("test", "test_candidates")
SEEDS = 2
CONFIG = f"{run_configs.__file__}:compare"


def prepare_splits(out: Path) -> None:
    """A prepared set of the world, with fewer rows to learn from of one scenario than of the other.

    But not so few that its runs have fewer steps: those of both are one program, compiled once.
    """

    def chunks() -> Iterator[Chunk]:
        for chunk in recipe.read(WORLD):
            few = chunk.split == "train" and chunk.table.column("scenario")[0].as_py() == "shopping"
            yield dataclasses.replace(chunk, table=chunk.table.slice(5)) if few else chunk

    schema = recipe.schema(WORLD)
    schema = dataclasses.replace(schema, tasks=tuple(t for t in schema.tasks if t.name in TASKS))
    documents = {recipe.WORLD: dataclasses.asdict(WORLD)}
    prepare(schema, chunks(), out, block_rows=128, documents=documents)


def compare_arguments(data: Path, out: Path, **changes: str) -> list[str]:
    """Of the command line: pooled and split, two seeds; `changes` set other arguments, or add them."""
    given = {
        "configs": CONFIG,
        "modes": "pooled,split",
        "seeds": str(SEEDS),
        "splits": ",".join(SPLITS),
        "calibrate": "platt",
        "replicates": "40",
    }
    return ["compare", f"--data={data}", f"--out={out}", *(f"--{k}={v}" for k, v in {**given, **changes}.items())]


def plan_of(
    data: Path, modes: tuple[str, ...] = ("pooled", "split"), calibrate: Calibrate = "platt", **changes: object
) -> Plan:
    """The plan of that command line; `changes` set fields of `config.data`."""
    config = Config.from_dict(run_configs.get_config("compare").to_dict())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(data), **changes))
    return make_plan({"run_configs:compare": config}, modes, SEEDS, SPLITS, PreparedSet.open(data), calibrate)
