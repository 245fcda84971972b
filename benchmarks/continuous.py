"""Going on day by day against training from scratch, on an AdWorld with drift: how well is the next day known?

    python -m benchmarks.continuous --workdir=runs/continuous --seeds 0 1 2

The logs of ten days. The first three are there at the beginning; then every midnight a method learns what the day has
brought, and predicts the clicks of the next. It prints a JSON line for each seed and method, then a Markdown table, for
docs/log/2026-11-30-train-daily.md. `examples` and `seconds` are those of all midnights together, without the first
three days; seconds are of training steps only. Runs that are there already are not repeated. `--only NAME NAME` makes
some rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.adworld import config as adworld_config
from input_pipeline.adworld.simulate import AdWorldConfig, schema, simulate
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from tt_jax.config import Config, StageConfig
from tt_jax.evaluation.predict import make_predict, predict_rows
from tt_jax.io.publish import write_json
from tt_jax.metrics.probability import log_loss
from tt_jax.training import progressive
from tt_jax.training.continuous import go_on
from tt_jax.training.loop import train
from tt_jax.training.trained import load_trained

DAYS, FIRST = 10, 3  # all, and those of the run before the first midnight
LEARNED, PREDICTED = range(FIRST, DAYS - 1), range(FIRST + 1, DAYS)
OPTIMUM = "true probabilities"
SCRATCH: dict[str, int] = {"from scratch, all days": DAYS, "from scratch, the last 5": 5, "from scratch, the last 3": 3}
WARM = {
    "constant, .1 of the peak": StageConfig(rate=0.1),
    "constant, .3": StageConfig(rate=0.3),
    "constant, 1": StageConfig(rate=1.0),
    "re-warmed to .3": StageConfig(schedule="rewarm", rate=0.3),
    "re-warmed to 1": StageConfig(schedule="rewarm", rate=1.0),
    "constant, .3, replay .25": StageConfig(rate=0.3, replay=0.25),
    "constant, .3, replay .5": StageConfig(rate=0.3, replay=0.5),
    "constant, .3, accumulators x .5": StageConfig(rate=0.3, accumulators=0.5),
    "constant, .3, accumulators x 0": StageConfig(rate=0.3, accumulators=0.0),
}
METHODS = (OPTIMUM, "never again", *SCRATCH, *WARM)


@dataclass(frozen=True)
class World:
    """A world, its logs as a prepared set with a split for each day, and a directory for the runs on it."""

    config: AdWorldConfig
    seed: int
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "prepared"

    def run_config(self, days: range, next_day: int) -> Config:
        """Of a run that learns some days and evaluates another."""
        run = adworld_config()
        data = dataclasses.replace(
            run.data, path=str(self.data), train_splits=tuple(map(_split, days)), eval_split=_split(next_day)
        )
        return dataclasses.replace(run, seed=self.seed, data=data)

    def make(self) -> None:
        """Prepares the logs, and writes down what the true probabilities lose on each day."""
        if self.data.exists():
            return
        losses: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * self.config.days

        def chunks() -> Iterator[Chunk]:
            for batch in simulate(self.config, ("impressions",)):
                p, y = batch.oracle["true_click"].to_numpy(), batch.table["click"].to_numpy()
                before = losses[batch.day]
                losses[batch.day] = (np.concatenate([before[0], p]), np.concatenate([before[1], y]))
                yield Chunk(_split(batch.day), f"day {batch.day}", 0, batch.table)

        prepare(schema(self.config), chunks(), self.data)
        write_json(self.folder / "optimum.json", [log_loss(p, y, np.ones_like(p)) for p, y in losses])


def _split(day: int) -> str:
    return f"day_{day:02d}"


def optimum(world: World) -> dict[str, Any]:
    losses = json.loads((world.folder / "optimum.json").read_text())
    return {"losses": [losses[day] for day in PREDICTED], "examples": 0, "seconds": 0.0}


def begin(world: World) -> Path:
    """The run of the first days."""
    workdir = world.folder / "first"
    train(world.run_config(range(FIRST), FIRST), workdir, name=f"seed {world.seed}, first days")
    return workdir


def never_again(world: World) -> dict[str, Any]:
    """The first run, on all days that follow."""
    trained, prepared = load_trained(begin(world)), PreparedSet.open(world.data)
    predict = make_predict(trained.model)
    weights = (trained.params, trained.tables)
    reports = [predict_rows(predict, weights, Part(prepared, (_split(day),)), (), 16384).report() for day in PREDICTED]
    return {"losses": [_click(r) for r in reports], "examples": 0, "seconds": 0.0}


def from_scratch(world: World, window: int) -> dict[str, Any]:
    """A new run every midnight, on the last days."""
    losses, examples, seconds = [], 0, 0.0
    for day in LEARNED:
        run = world.run_config(range(max(0, day + 1 - window), day + 1), day + 1)
        workdir = world.folder / f"scratch-{window}-{day}"
        result = train(run, workdir, name=f"seed {world.seed}, scratch {window}, day {day}")
        losses.append(_click(result.facts.report))
        examples += result.step * run.data.batch_size
        seconds += result.facts.train_seconds
    return {"losses": losses, "examples": examples, "seconds": seconds}


def warm(world: World, name: str, options: StageConfig) -> dict[str, Any]:
    """The first run, going on every midnight. The last day is validated, and learned for nothing."""
    first = begin(world)
    workdir = world.folder / "warm" / name.replace(" ", "-")
    if not workdir.exists():
        shutil.copytree(first, workdir.with_name("copy"), dirs_exist_ok=True)
        workdir.with_name("copy").rename(workdir)
    run = world.run_config(range(FIRST), FIRST)
    before = load_trained(first).step
    seconds = json.loads((workdir / "seconds.json").read_text()) if (workdir / "seconds.json").exists() else {}
    for day in (*LEARNED, DAYS - 1):
        results = go_on(run, workdir, [f"{world.data}:{_split(day)}"], options, f"seed {world.seed}, {name}, day {day}")
        if results:
            seconds[str(day)] = results[-1].facts.train_seconds
            write_json(workdir / "seconds.json", seconds)
    found = progressive.read(workdir)
    assert [f["splits"] for f in found] == [[_split(day)] for day in (*LEARNED, DAYS - 1)]
    return {
        "losses": [_click(f) for f in found[1:]],  # the first of these days is predicted by the first run
        "examples": (found[-1]["step"] - before) * run.data.batch_size,
        "seconds": seconds[str(DAYS - 2)] - _first_seconds(first),
    }


def _first_seconds(workdir: Path) -> float:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["speed/train_seconds"] for line in lines if "speed/train_seconds" in line][-1]


def _click(report: Any) -> float:
    return report["overall"]["click"]["logloss"]


def measure(world: World, method: str) -> dict[str, Any]:
    """What a method loses on each day, and what it costs."""
    if method == OPTIMUM:
        return optimum(world)
    if method in SCRATCH:
        return from_scratch(world, SCRATCH[method])
    return warm(world, method, WARM[method]) if method in WARM else never_again(world)


def _table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Means over the seeds; the difference to the first way from scratch is of each seed, with its spread."""
    yield "| | " + " | ".join(f"day {day}" for day in PREDICTED) + " | mean | difference | examples | seconds |"
    yield "|---" * (len(PREDICTED) + 5) + "|"
    of = {(f["method"], f["seed"]): np.mean(f["losses"]) for f in found}
    reference = next(iter(SCRATCH))
    for method in METHODS:
        runs = [f for f in found if f["method"] == method]
        if not runs:
            continue
        days = " | ".join(f"{loss:.4f}" for loss in np.mean([f["losses"] for f in runs], axis=0))
        mean = np.mean([f["losses"] for f in runs])
        gaps = [of[method, f["seed"]] - of[reference, f["seed"]] for f in runs if (reference, f["seed"]) in of]
        spread = f" ±{np.std(gaps, ddof=1):.4f}" if len(gaps) > 1 else ""
        gap = f"{np.mean(gaps):+.4f}{spread}" if gaps and method != reference else ""
        cost = f"{np.mean([f['examples'] for f in runs]):,.0f} | {np.mean([f['seconds'] for f in runs]):.0f}"
        yield f"| {method} | {days} | {mean:.4f} | {gap} | {cost} |"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", type=Path, required=True, help="directory of the worlds and runs")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the worlds and the runs")
    p.add_argument("--requests_per_day", type=int, default=10_000, help="of each scenario")
    p.add_argument("--drift", type=float, default=0.3, help="of `AdWorldConfig`")
    p.add_argument("--only", nargs="+", choices=METHODS)
    a = p.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(a.workdir.absolute() / "compiled"))
    found = []
    for seed in a.seeds:
        world = World(
            AdWorldConfig(
                seed=seed, users=5000, ads=1500, advertisers=150, days=DAYS, drift=a.drift, new_ads_per_day=60,
                requests_per_day=a.requests_per_day,
            ),
            seed,
            a.workdir / f"drift-{a.drift:g}-requests-{a.requests_per_day}-seed-{seed}",
        )  # fmt: skip
        world.make()
        for method in a.only or METHODS:
            found.append({"seed": seed, "method": method, **measure(world, method)})
            print(json.dumps(found[-1]), flush=True)
    print("\n".join(_table(found)))


if __name__ == "__main__":
    main()
