"""`tt-jax quickstart`: the whole path on a small AdWorld, from logs to ranked ads."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

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
    from input_pipeline import adworld
    from input_pipeline.adworld_bayes import bayes_report

    start = time.perf_counter()
    world = adworld.AdWorldConfig(seed=args.seed, requests_per_day=args.requests)
    prepared = args.workdir / "prepared"
    if not prepared.exists():
        _say(f"1/4 simulating {world.days} days of ad logs, and preparing them")
        _prepare(world, prepared)
    bayes = bayes_report(world, SPLIT)["scenarios"]
    scenarios = {}
    for i, scenario in enumerate(adworld.schema(world).scenarios):
        _say(f"{i + 2}/4 {scenario}: training on its own rows, evaluating, exporting, indexing, scoring")
        scenarios[scenario] = _scenario(scenario, args.workdir, prepared, args.seed, bayes[scenario])
    _say("4/4 done")
    summary = {"seconds": round(time.perf_counter() - start, 1), "split": SPLIT, "scenarios": scenarios}
    from tt_jax.cli.evaluate import write_json

    write_json(args.workdir / "summary.json", summary)
    print(_table(scenarios))
    for scenario, found in scenarios.items():
        print(_ads(scenario, found))
    first = next(iter(scenarios))
    print(f"\n{args.workdir}/summary.json has it all. To serve it:")
    print(f"  tt-jax serve --bundle={args.workdir}/{first}/bundle --index={args.workdir}/{first}/index")
    return 0


def _prepare(world: Any, out: Path) -> None:
    from input_pipeline.prepare import prepare
    from input_pipeline.recipes import adworld as recipe

    prepare(recipe.schema(world), recipe.read(world), out, ads=recipe.ads(world))


def _scenario(scenario: str, workdir: Path, prepared: Path, seed: int, bayes: dict[str, Any]) -> dict[str, Any]:
    """Trains, evaluates, exports, indexes and scores one scenario; what the summary says of it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from configs.adworld import config as adworld_config
    from input_pipeline.blocks import PreparedSet
    from serving import Scorer
    from tt_jax.cli.evaluate import evaluate_trained
    from tt_jax.cli.export import export_trained
    from tt_jax.cli.index import build
    from tt_jax.training.loop import train
    from tt_jax.training.trained import load_trained

    config = adworld_config(scenario)
    config = dataclasses.replace(config, seed=seed, data=dataclasses.replace(config.data, path=str(prepared)))
    here = workdir / scenario
    bundle, index, ads = here / "bundle", here / "index", here / "ads.parquet"
    result = train(config, here, name=scenario)
    if result.stopped_by:
        raise KeyboardInterrupt
    trained = load_trained(here)
    report = evaluate_trained(trained, str(prepared), SPLIT)
    if not bundle.exists():
        export_trained(trained, bundle)
    if not index.exists():
        corpus = pq.read_table(prepared / "ads.parquet")
        pq.write_table(corpus.filter(pc.equal(corpus.column("scenario").cast("string"), scenario)), ads)
        build(bundle, ads, index)
    scorer = Scorer.load(bundle, index, max_k=16)
    request = PreparedSet.open(prepared).samples([scenario])[0]["query"]
    top = scorer.top_k([request], 10)[0]
    tasks = {
        task: {
            "logloss": found["logloss"], "bayes_logloss": bayes[task]["logloss"],
            "constant_logloss": found["logloss"] / found["ne"], "auc": found["auc"], "bayes_auc": bayes[task]["auc"],
        }
        for task, found in report["scenarios"][scenario].items()
    }  # fmt: skip
    return {
        "tasks": tasks,
        "rows": report["scenarios"][scenario][next(iter(tasks))]["rows"],
        "examples_per_s": result.examples_per_s and round(result.examples_per_s),
        "fingerprint": report["fingerprint"],
        "request": request,
        "top_ads": [dataclasses.asdict(ad) for ad in top],
    }


def _table(scenarios: dict[str, Any]) -> str:
    lines = [
        "",
        f"log loss on the {SPLIT} day; gained = share of the way from a constant prediction to the Bayes optimum",
        "scenario    task          constant     model     Bayes   gained     AUC  Bayes AUC",
    ]
    for scenario, found in scenarios.items():
        for task, f in found["tasks"].items():
            constant, model, bayes = f["constant_logloss"], f["logloss"], f["bayes_logloss"]
            gained = (constant - model) / (constant - bayes)
            lines.append(
                f"{scenario:<12}{task:<12}{constant:>10.4f}{model:>10.4f}{bayes:>10.4f}{gained:>9.0%}"
                f"{f['auc']:>8.3f}{f['bayes_auc']:>11.3f}"
            )
    return "\n".join(lines)


def _ads(scenario: str, found: dict[str, Any]) -> str:
    lines = [f"\n{scenario}: top ads for a request of the log (utility = bid * click)"]
    for rank, ad in enumerate(found["top_ads"], 1):
        shares = "  ".join(f"{task} {p:.4f}" for task, p in ad["probabilities"].items())
        lines.append(f"  {rank:>2}. ad {ad['id']:<10} utility {ad['score']:<8.4f} {shares}")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
