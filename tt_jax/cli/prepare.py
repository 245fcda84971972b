"""`tt-jax prepare`: raw logs to a training set."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

EXAMPLE = """  tt-jax prepare kuairand --source=data/kuairand_pure --out=prepared/kuairand
  tt-jax prepare census --source=data/census_income --out=prepared/census
  tt-jax prepare adworld --out=prepared/adworld
  tt-jax prepare mylogs.py --source=data/mylogs --out=prepared/mylogs"""
SIMULATED = "adworld"  # the recipe that makes its logs, of a world that is kept beside them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", help="adworld, census, kuairand, or a Python file of your own, as `tt-jax init` writes one"
    )
    parser.add_argument("--source", type=Path, help="the raw logs; adworld needs none")
    parser.add_argument("--out", type=Path, required=True, help="directory to create")


def run(args: argparse.Namespace) -> int:
    """Writes the prepared set; prints rows and label rates."""
    from input_pipeline.prepare import prepare
    from tt_jax.publish import require_absent

    recipe = _load(args.recipe)
    if args.source is None and args.recipe != SIMULATED:
        raise ValueError(f"prepare {args.recipe}: expected --source, the raw logs")
    require_absent(args.out)  # before the work, not after it
    source = args.source
    documents = {recipe.WORLD: dataclasses.asdict(recipe.config_of(source))} if args.recipe == SIMULATED else None
    print_counts(
        prepare(recipe.schema(source), recipe.read(source), args.out, ads=recipe.ads(source), documents=documents)
    )
    return 0


def _load(name: str) -> Any:
    """The module of a recipe, by name or file."""
    from input_pipeline import recipes
    from tt_jax.cli.python_file import load_python

    if not name.endswith(".py"):
        return recipes.load(name)
    module = load_python(name, "tt_jax_recipe", f"prepare {name}", ValueError)
    for function in ("schema", "read", "ads"):
        if not callable(getattr(module, function, None)):
            raise ValueError(f"prepare {name}: expected a function {function}(source) in it")
    return module


def print_counts(manifest: Any) -> None:
    """Rows and label rates of a prepared set's `Manifest`, a line for each split and scenario."""
    for split, scenarios in manifest.splits.items():
        for scenario, counts in scenarios.items():
            rates = " ".join(f"{task} {rate:.4f}" for task, rate in counts.rate.items() if rate is not None)
            print(f"{split:<18}{scenario:<16}{counts.rows:>12,} rows  {rates}")
