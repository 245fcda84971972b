"""`tt-jax quickstart`: the whole path on a small AdWorld, from logs to ranked ads."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tt_jax.cli.table import text_table
from tt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

EXAMPLE = "  tt-jax quickstart --workdir=runs/quickstart"
SPLIT = "test"  # the last day of the world, which training never saw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, default=Path("runs/quickstart"), help="default runs/quickstart")
    parser.add_argument(
        "--requests", type=int, default=10_000, help="per scenario and day of the world (default 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the models (default 0)")


def run(args: argparse.Namespace) -> int:
    """Runs every step that the directory does not hold yet; prints the table, the ads; writes summary.json."""
    from input_pipeline.adworld.simulate import AdWorldConfig
    from tt_jax.io.publish import write_json

    start = time.perf_counter()
    world = AdWorldConfig(seed=args.seed, requests_per_day=args.requests)
    _say(f"1/4 simulating {world.days} days of ad logs, and preparing them")
    bayes = _bayes(world)
    _claim(args.workdir / "world.json", world)
    prepared = args.workdir / "prepared"
    if not prepared.exists():
        _prepare(world, prepared)
    scenarios = {}
    for i, scenario in enumerate(bayes, 2):
        _say(f"{i}/4 {scenario}: training on its own rows, evaluating, exporting, indexing, scoring")
        scenarios[scenario] = _scenario(scenario, args.workdir, prepared, args.seed, bayes[scenario])
    _say("4/4 done")
    summary = {"seconds": round(time.perf_counter() - start, 1), "split": SPLIT, "scenarios": scenarios}
    write_json(args.workdir / "summary.json", summary)
    print(_table(scenarios))
    for scenario, found in scenarios.items():
        print(_ads(scenario, found))
    print(f"\n{args.workdir}/summary.json has it all. To serve both models:")
    print(serve_command(args.workdir, scenarios))
    return 0


def serve_command(workdir: Path, scenarios: Iterable[str]) -> str:
    """Serves the model of each scenario."""
    models = (f"--model {name}={workdir}/{name}/bundle,{workdir}/{name}/index" for name in scenarios)
    return " \\\n    ".join(("  tt-jax serve --route=scenario", *models))


def _bayes(world: Any) -> dict[str, Any]:
    """Metrics of the true probabilities, by scenario and outcome. Raises `ValueError` if the world is too small."""
    from input_pipeline.adworld.simulate import schema
    from tt_jax.evaluation.adworld.bayes import bayes_report

    found, outcomes = bayes_report(world, SPLIT)["scenarios"], schema(world).heads
    report = {scenario: {task: tasks[task] for task in outcomes} for scenario, tasks in found.items()}
    for scenario, tasks in report.items():
        for task, metrics in tasks.items():
            if metrics["auc"] is None:
                raise ValueError(
                    f"--requests={world.requests_per_day}: expected more; the {SPLIT} day has no {task} in {scenario}"
                )
    return report


def _claim(path: Path, world: Any) -> None:
    """Writes down which world a directory holds. Raises `ValueError` if it holds another."""
    from tt_jax.io.publish import write_json
    from tt_jax.io.strict_json import parse_json

    now = dataclasses.asdict(world)
    if not path.exists():
        write_json(path, now)
    elif parse_json(path.read_text(), str(path), ValueError) != now:
        raise ValueError(f"{path.parent} holds a world of another --seed or --requests; use a new --workdir")


def _prepare(world: Any, out: Path) -> None:
    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.recipes import adworld as recipe

    documents = {recipe.WORLD: dataclasses.asdict(world)}
    prepare(recipe.schema(world), recipe.read(world, ("impressions",)), out, ads=recipe.ads(world), documents=documents)


def _scenario(scenario: str, workdir: Path, prepared: Path, seed: int, bayes: dict[str, Any]) -> dict[str, Any]:
    """Trains, evaluates, exports, indexes and scores one scenario; what the summary says of it."""
    from tt_jax.training.trained import evaluate, load_trained

    here = workdir / scenario
    speed = _train(scenario, here, prepared, seed)
    trained = load_trained(here)
    report = evaluate(trained, prepared, SPLIT)
    _publish(trained, scenario, here, prepared)
    found = report["scenarios"][scenario]
    return {
        "tasks": {task: _against_bayes(found[task], of_truth) for task, of_truth in bayes.items()},
        "rows": next(iter(found.values()))["rows"],
        "examples_per_s": speed and round(speed),
        "fingerprint": report["fingerprint"],
        **_rank(scenario, here, prepared),
    }


def _train(scenario: str, here: Path, prepared: Path, seed: int) -> float | None:
    """Trains a scenario's run to its end; returns examples/s, None where there was nothing left to do."""
    from tt_jax.training.loop import train

    result = train(run_config(scenario, prepared, seed), here, name=scenario)
    if result.stopped_by:
        raise KeyboardInterrupt
    return result.examples_per_s


def run_config(scenario: str, prepared: Path, seed: int) -> Config:
    """The run of a scenario, as in `configs/adworld.py`, which is not part of the package: it learns what users did."""
    from input_pipeline.adworld.simulate import AdWorldConfig, schema

    teachers = [task.name for task in schema(AdWorldConfig()).tasks if task.kind == "soft"]
    return Config(
        model=ModelConfig(experts=4, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32),
        data=DataConfig(path=str(prepared), scenarios=(scenario,), batch_size=1024),
        optimizer=OptimizerConfig(learning_rate=6e-3, embedding_learning_rate=0.1),
        train=TrainConfig(epochs=1, task_weights=tuple(f"{name}=0" for name in teachers)),
        seed=seed,
        utility="bid * click",
    )


def _publish(trained: Any, scenario: str, here: Path, prepared: Path) -> None:
    """Writes the bundle, and the index of the scenario's ads, unless they are there."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from serving.index.build import build_index
    from tt_jax.training.trained import export

    if not (here / "bundle").exists():
        export(trained, here / "bundle")
    if not (here / "index").exists():
        of_scenario = pc.field("scenario").cast("string") == scenario
        pq.write_table(pq.read_table(prepared / "ads.parquet").filter(of_scenario), here / "ads.parquet")
        build_index(here / "bundle", here / "ads.parquet", here / "index")


def _rank(scenario: str, here: Path, prepared: Path) -> dict[str, Any]:
    """The ads for a request of the log."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from serving import Scorer

    scorer = Scorer.load(here / "bundle", here / "index", max_k=16, warm=False)
    request = PreparedSet.open(prepared).samples([scenario])[0]["query"]
    return {"request": request, "top_ads": [dataclasses.asdict(ad) for ad in scorer.top_k([request], 10)[0]]}


def _against_bayes(metrics: dict[str, Any], bayes: dict[str, Any]) -> dict[str, float]:
    """A task's metrics beside those of a constant prediction and of the true probabilities."""
    return {
        "rows": metrics["rows"],
        "logloss": metrics["logloss"],
        "bayes_logloss": bayes["logloss"],
        "constant_logloss": metrics["logloss"] / metrics["ne"],
        "auc": metrics["auc"],
        "bayes_auc": bayes["auc"],
    }


def _table(scenarios: dict[str, Any]) -> str:
    rows = []
    for scenario, found in scenarios.items():
        for task, f in found["tasks"].items():
            losses = constant, model, bayes = f["constant_logloss"], f["logloss"], f["bayes_logloss"]
            # With few rows, chance can make a constant as good as the truth.
            gained = f"{(constant - model) / (constant - bayes):.0%}" if constant > bayes else "-"
            cells = [f"{f['rows']:,}", *(f"{loss:.4f}" for loss in losses), gained]
            rows.append([scenario, task, *cells, *(f"{area:.3f}" for area in (f["auc"], f["bayes_auc"]))])
    about = (
        f"\nlog loss on the {SPLIT} day, a line on the same rows; gained = share of the way from a constant prediction"
        " to the Bayes optimum"
    )
    head = ["scenario", "task", "rows", "constant", "model", "Bayes", "gained", "AUC", "Bayes AUC"]
    return "\n".join([about, *text_table(head, rows, "llrrrrrrr")])


def _ads(scenario: str, found: dict[str, Any]) -> str:
    lines = [f"\n{scenario}: top ads for a request of the log (utility = bid * click)"]
    for rank, ad in enumerate(found["top_ads"], 1):
        shares = "  ".join(f"{task} {p:.4f}" for task, p in ad["probabilities"].items())
        lines.append(f"  {rank:>2}. ad {ad['id']:<10} utility {ad['score']:<8.4f} {shares}")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
