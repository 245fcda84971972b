"""What each way from an id to a row costs and gains where new ads arrive daily: AdWorld, rows of users and ads.

    python -m benchmarks.vocabulary --seeds 3

The same small model learns the training days by each way and is evaluated on the day after them: click log loss on ads
that the training days had and on those that are new. Prints a JSON line for each run, then a Markdown table of means.
A way says how many rows users and ads get; all else is as in `configs/adworld.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.adworld import config as adworld_config
from input_pipeline.adworld.simulate import AdWorldConfig
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.prepare.vocabulary import learn_vocabularies
from input_pipeline.readers import Chunk
from input_pipeline.recipes import adworld as recipe
from tt_jax.evaluation.full_report import full_report
from tt_jax.evaluation.predict import make_predict, predict_rows
from tt_jax.schema import WAYS, Schema
from tt_jax.training.loop import train
from tt_jax.training.setup import Setup
from tt_jax.training.trained import load_trained

Way = Callable[[int], dict[str, int]]  # ids of a feature in the whole world -> fields of the feature


def _ways(min_count: int, admit_after: int, evict_after: int) -> dict[str, Way]:
    def blocks(rows: float) -> int:
        return WAYS * -(-int(rows) // WAYS)

    return {
        "hashed, 4 rows per id": lambda ids: {"hash_size": 4 * ids},
        "hashed, 1 row per 4 ids": lambda ids: {"hash_size": ids // 4},
        f"vocabulary, {min_count}+ times": lambda ids: {"min_count": min_count},
        f"{min_count}+ times, the rest in ids/10 rows": lambda ids: {"min_count": min_count, "hash_size": ids // 10},
        f"dynamic, {admit_after}+ times": lambda ids: {
            "dynamic_rows": blocks(1.5 * ids), "admit_after": admit_after
        },
        f"dynamic, {admit_after}+ times, 1 row per 2 ids": lambda ids: {
            "dynamic_rows": blocks(ids / 2), "admit_after": admit_after, "evict_after": evict_after
        },
    }  # fmt: skip


def _schema(world: AdWorldConfig, way: Way) -> Schema:
    ids = {"user_id": world.users, "ad_id": world.ads + world.new_ads_per_day * (world.days - 1)}
    schema = recipe.schema(world)
    features = (
        dataclasses.replace(f, **{"hash_size": 0, **way(ids[f.name])}) if f.name in ids else f for f in schema.features
    )
    return dataclasses.replace(schema, features=tuple(features))


def _run(world: AdWorldConfig, chunks: Sequence[Chunk], way: Way, folder: Path, batch: int) -> dict[str, Any]:
    schema = learn_vocabularies(_schema(world, way), chunks)
    prepare(schema, chunks, folder / "set")
    config = adworld_config()
    data = dataclasses.replace(config.data, path=str(folder / "set"), batch_size=batch)
    config = dataclasses.replace(config, data=data, seed=world.seed)
    result = train(config, folder / "run")
    trained, prepared = load_trained(folder / "run"), PreparedSet.open(folder / "set")
    predict, weights = make_predict(trained.model), (trained.params, trained.tables)
    rows = predict_rows(predict, weights, Part(prepared, ("eval",)), (), data.eval_batch_size)
    report = full_report(rows, config.utility, [Part(prepared, data.train_splits)])
    slices = report["slices"]["ad_id"]
    state = jax.eval_shape(Setup(config, prepared).fresh_state)
    held = (state.tables, state.accumulators, state.admissions)
    return {
        "rows": schema.feature("user_id").rows + schema.feature("ad_id").rows,
        "served_mb": _megabytes(trained.tables),
        "trained_mb": _megabytes(held),
        "examples_per_s": result.examples_per_s,
        "logloss": report["overall"]["click"]["logloss"],
        "logloss_known": slices["known"]["click"]["logloss"],
        "logloss_new": slices["new"]["click"]["logloss"],
    }


def _megabytes(tree: Any) -> float:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--users", type=int, default=20_000)
    p.add_argument("--ads", type=int, default=2_000)
    p.add_argument("--new-ads", type=int, default=300, help="a day")
    p.add_argument("--requests", type=int, default=6_000, help="a day and scenario")
    p.add_argument("--days", type=int, default=6)
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--min-count", type=int, default=10, help="of a vocabulary")
    p.add_argument("--admit-after", type=int, default=10)
    p.add_argument("--evict-after", type=int, default=60, help="steps")
    a = p.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(a.seeds):
        world = AdWorldConfig(
            seed=seed, users=a.users, ads=a.ads, new_ads_per_day=a.new_ads, requests_per_day=a.requests, days=a.days
        )
        chunks = [chunk for chunk in recipe.read(world, ("impressions",)) if chunk.split != "test"]
        for name, way in _ways(a.min_count, a.admit_after, a.evict_after).items():
            with tempfile.TemporaryDirectory() as folder:
                figures = _run(world, chunks, way, Path(folder), a.batch)
            print(json.dumps({"way": name, "seed": seed, **figures}), flush=True)
            found.setdefault(name, []).append(figures)
    print(_markdown(found))


def _markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each way: means over the seeds, of losses with the standard deviation of the difference to the first
    way, seed by seed."""
    base = next(iter(found.values()))
    lines = [
        "| ids | rows | served MB | trained MB | examples/s | log loss, known ads | new ads | all |",
        "|---" * 8 + "|",
    ]
    for name, runs in found.items():
        cells = [f"{np.mean([r[k] for r in runs]):,.{d}f}" for k, d in _PLAIN]
        for key in ("logloss_known", "logloss_new", "logloss"):
            mean = np.mean([r[key] for r in runs])
            difference = np.array([r[key] - b[key] for r, b in zip(runs, base, strict=True)])
            spread = f" ± {difference.std(ddof=1):.4f}" if len(runs) > 1 else ""
            cells.append(f"{mean:.4f} ({difference.mean():+.4f}{spread})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


_PLAIN = (("rows", 0), ("served_mb", 2), ("trained_mb", 2), ("examples_per_s", 0))

if __name__ == "__main__":
    main()
