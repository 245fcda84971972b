"""`tt-jax prepare`: raw logs to a training set."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tt_jax.cli.recipe import load_recipe
from tt_jax.cli.runner import add_runner_arguments, add_skip_unknown, runner_of

EXAMPLE = """  tt-jax prepare kuairand --source=data/kuairand_pure --out=prepared/kuairand
  tt-jax prepare census --source=data/census_income --out=prepared/census
  tt-jax prepare adworld --out=prepared/adworld
  tt-jax prepare adworld --source=world.json --days=9 --out=prepared/day9
  tt-jax prepare mylogs.py --source=data/mylogs --out=prepared/mylogs
  tt-jax prepare mylogs.py --source=data/tuesday --vocabularies-of=prepared/mylogs --out=prepared/tuesday
  tt-jax prepare mylogs.py --source=s3://logs/2026 --runner=ray --address=auto --out=/shared/prepared/mylogs"""
SIMULATED = "adworld"  # the recipe that makes its logs, of a world that is kept beside them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", help="adworld, census, kuairand, or a Python file of your own, as `tt-jax init` writes one"
    )
    parser.add_argument("--source", help="the raw logs: a path or a URL; adworld needs none, or a path")
    parser.add_argument(
        "--on-error", choices=("stop", "quarantine"), default="stop",
        help="what a bad row does: end the run, or go to quarantine.jsonl in the set",
    )  # fmt: skip
    add_skip_unknown(parser)
    parser.add_argument("--max-errors", type=int, default=1000, help="of quarantined rows; one more ends the run")
    parser.add_argument(
        "--vocabularies-of", type=Path, metavar="PREPARED",
        help="take the vocabularies that this set has learned: a run that trained on it can go on with the new one",
    )  # fmt: skip
    parser.add_argument("--days", help="adworld: only these, as 9 or 0-6, all in the split `train`")
    add_runner_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="directory to create")


def run(args: argparse.Namespace) -> int:
    """Writes the prepared set; prints rows and label rates."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from input_pipeline.prepare.quarantine import QUARANTINE
    from input_pipeline.prepare.vocabulary import learns, take_vocabularies
    from input_pipeline.prepare.writer import NoRowsError
    from tt_jax.io.publish import require_absent

    recipe = load_recipe(args.recipe)
    if args.source is None and args.recipe != SIMULATED:
        raise ValueError(f"prepare {args.recipe}: expected --source, the raw logs")
    require_absent(args.out)  # before the work, not after it
    source, chosen = args.source, {} if args.days is None else {"days": _days(args)}
    documents = {recipe.WORLD: dataclasses.asdict(recipe.config_of(source))} if args.recipe == SIMULATED else None
    schema = recipe.schema(source)
    if args.vocabularies_of is not None:
        if not learns(schema):
            raise ValueError(f"--vocabularies-of={args.vocabularies_of}: the schema {schema.name!r} is to learn none")
        schema = take_vocabularies(schema, PreparedSet.open(args.vocabularies_of).schema)
    with runner_of(args) as runner:
        make = _on_ray if args.runner == "ray" else _streaming
        reading = Reading(args.recipe, source, chosen, args.skip_unknown)
        try:
            manifest = make(args, recipe, schema, reading, documents, runner)
        except NoRowsError as e:
            raise ValueError(f"{source}: {e}") from None
    print_counts(manifest)
    if manifest.rejected:
        print(f"left out {manifest.rejected:,} bad rows: see {args.out / QUARANTINE}")
    return 0


@dataclass(frozen=True)
class Reading:
    """A recipe's `read` of its source, loaded where it is called, so that it can be sent to workers."""

    recipe: str
    source: str | None
    chosen: dict[str, Any]
    skip_unknown: bool = False

    def __call__(self, errors: Any, parts: Collection[str] | None = None) -> Any:
        from input_pipeline.readers import SkipUnknown

        errors = SkipUnknown(errors) if self.skip_unknown else errors
        chosen = self.chosen if parts is None else {**self.chosen, "parts": parts}
        return load_recipe(self.recipe).read(self.source, errors=errors, **chosen)


def _streaming(args: argparse.Namespace, recipe: Any, schema: Any, reading: Reading, documents: Any, _: Any) -> Any:
    from input_pipeline.prepare.quarantine import Quarantine
    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.prepare.vocabulary import learn_vocabularies, learns
    from input_pipeline.readers import STRICT
    from input_pipeline.values.chunks import IGNORED

    quarantine = Quarantine(args.max_errors) if args.on_error == "quarantine" else None
    if learns(schema):  # the log is read twice
        schema = learn_vocabularies(schema, reading(IGNORED if quarantine else STRICT), not quarantine)
    chunks, ads = reading(quarantine or STRICT), recipe.ads(args.source, **reading.chosen)
    return prepare(schema, chunks, args.out, ads=ads, documents=documents, quarantine=quarantine)


def _on_ray(args: argparse.Namespace, recipe: Any, schema: Any, reading: Reading, documents: Any, runner: Any) -> Any:
    from input_pipeline.prepare.parallel import learn_of_parts, prepare_parts
    from input_pipeline.prepare.vocabulary import learns

    parts, max_errors = None, args.max_errors if args.on_error == "quarantine" else None
    if hasattr(recipe, "parts"):
        parts = recipe.parts(args.source)
    else:
        print(f"prepare {args.recipe}: has no function parts(source): one worker reads the whole log", file=sys.stderr)
    if learns(schema):
        schema = learn_of_parts(schema, reading, parts, runner, max_errors is None)
    ads = recipe.ads(args.source, **reading.chosen)
    return prepare_parts(schema, reading, parts, args.out, runner, ads=ads, documents=documents, max_errors=max_errors)


def _days(args: argparse.Namespace) -> range:
    """The days of `--days`."""
    if args.recipe != SIMULATED:
        raise ValueError(f"--days={args.days}: only adworld has days; give the logs of a day as --source")
    first, dash, last = args.days.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
        raise ValueError(f"--days={args.days}: expected a day, or FIRST-LAST")
    return range(int(first), int(last or first) + 1)


def print_counts(manifest: Any) -> None:
    """Rows and label rates of a prepared set's `Manifest`, a line for each split and scenario."""
    for split, scenarios in manifest.splits.items():
        for scenario, counts in scenarios.items():
            rates = " ".join(f"{task} {rate:.4f}" for task, rate in counts.rate.items() if rate is not None)
            print(f"{split:<18}{scenario:<16}{counts.rows:>12,} rows  {rates}")
