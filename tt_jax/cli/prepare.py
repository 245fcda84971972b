"""`tt-jax prepare`: raw logs to a training set."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

EXAMPLE = """  tt-jax prepare kuairand --source=data/kuairand_pure --out=prepared/kuairand
  tt-jax prepare census --source=data/census_income --out=prepared/census
  tt-jax prepare adworld --out=prepared/adworld"""
SIMULATED = "adworld"  # the recipe that makes its logs, of a world that is kept beside them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", help="adworld, census or kuairand; a recipe for your own logs is a file beside theirs"
    )
    parser.add_argument("--source", type=Path, help="directory of the raw logs; adworld needs none")
    parser.add_argument(
        "--on-error", choices=("stop", "quarantine"), default="stop",
        help="what a bad row does: end the run, or go to quarantine.jsonl in the set",
    )  # fmt: skip
    parser.add_argument("--max-errors", type=int, default=1000, help="of quarantined rows; one more ends the run")
    parser.add_argument("--out", type=Path, required=True, help="directory to create")


def run(args: argparse.Namespace) -> int:
    """Writes the prepared set; prints rows and label rates."""
    from input_pipeline import recipes
    from input_pipeline.prepare import prepare
    from input_pipeline.quarantine import QUARANTINE, Quarantine
    from input_pipeline.readers import STRICT
    from tt_jax.publish import require_absent

    recipe: Any = recipes.load(args.recipe)
    if args.source is None and args.recipe != SIMULATED:
        raise ValueError(f"prepare {args.recipe}: expected --source, the directory of the raw logs")
    require_absent(args.out)  # before the work, not after it
    source = args.source
    documents = {recipe.WORLD: dataclasses.asdict(recipe.config_of(source))} if args.recipe == SIMULATED else None
    quarantine = Quarantine(args.max_errors) if args.on_error == "quarantine" else None
    chunks, ads = recipe.read(source, errors=quarantine or STRICT), recipe.ads(source)
    manifest = prepare(recipe.schema(source), chunks, args.out, ads=ads, documents=documents, quarantine=quarantine)
    print_counts(manifest)
    if manifest.rejected:
        print(f"left out {manifest.rejected:,} bad rows: see {args.out / QUARANTINE}")
    return 0


def print_counts(manifest: Any) -> None:
    """Rows and label rates of a prepared set's `Manifest`, a line for each split and scenario."""
    for split, scenarios in manifest.splits.items():
        for scenario, counts in scenarios.items():
            rates = " ".join(f"{task} {rate:.4f}" for task, rate in counts.rate.items() if rate is not None)
            print(f"{split:<18}{scenario:<16}{counts.rows:>12,} rows  {rates}")
