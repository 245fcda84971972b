"""`tt-jax compare`: configurations, modes and seeds, trained, evaluated and put side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tt_jax.cli.table import number, text_table

EXAMPLE = """  tt-jax compare --configs=configs/adworld.py --modes=pooled,split,weighted --seeds=3 --calibrate=platt \\
    --splits=test,test_candidates --config.train.eval_every=50 --data=prepared/adworld --out=comparisons/modes
  tt-jax compare --configs=configs/adworld.py,configs/adworld.py:labels=soft,configs/adworld.py:labels=both \\
    --splits=test,test_candidates --data=prepared/adworld --out=comparisons/labels

The first configuration in the first mode is the reference of all differences. The same command again goes on where it
was stopped. Learning curves, and the time to the reference's quality, need --config.train.eval_every; recall of a
teacher's best candidates needs a split of candidates that it has labelled; the regret needs AdWorld."""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--configs",
        required=True,
        metavar="FILE[:ARG],...",
        help="as of `tt-jax train`; --config.KEY=VALUE sets a field of all. A comma before a name of a .py file begins"
        " the next one, other commas belong to the ARG",
    )
    parser.add_argument("--data", required=True, help="prepared set")
    parser.add_argument("--out", type=Path, required=True, help="directory of the comparison")
    parser.add_argument(
        "--modes", default="pooled", help="of pooled, split (a model a scenario), weighted (scenarios weigh the same)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs of each, with the seeds from the config's on (default 3)"
    )
    parser.add_argument("--splits", default="test", help="what to evaluate on, which no run may see (default test)")
    parser.add_argument(
        "--calibrate",
        choices=("none", "platt", "temperature", "isotonic"),
        default="none",
        help="fit the probabilities of every run to the labels of its eval split, and show those (default none)",
    )
    parser.add_argument(
        "--world",
        type=Path,
        help="AdWorld: world.json, or the directory that has it, to tell the regret; the default is that in --data",
    )
    parser.add_argument("--replicates", type=int, default=200, help="of the bootstrap (default 200)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Trains what is missing; writes report.json and report.html; prints the table."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from tt_jax.compare.plan import claim, make_plan
    from tt_jax.compare.summary import summarise
    from tt_jax.compare.train_models import finish_runs
    from tt_jax.io.publish import write_json
    from tt_jax.report.comparison import write_page

    if args.replicates < 1:
        raise ValueError(f"--replicates={args.replicates}: expected at least 1")
    prepared = PreparedSet.open(args.data)
    _keep_compiled(args.out / "compiled")
    configs = _named_configs(args.configs, [*overrides, f"--config.data.path={args.data}"])
    plan = make_plan(configs, _names(args.modes), args.seeds, _names(args.splits), prepared, args.calibrate)
    world = _world(args.world, prepared, plan.splits)
    claim(plan, args.out)
    done = finish_runs(plan, prepared, args.out, _say)
    if done is None:
        _say(f"{args.out}: stopped; the same command goes on from there")
        return 0
    _say("evaluating")
    report = summarise(plan, done, prepared, args.out, args.replicates, world)
    write_json(args.out / "report.json", report)
    write_page(args.out / "report.html", report)
    for split in plan.splits:
        print(table(report, split))
    print(f"{args.out}/report.html has it all")
    return 0


def _world(path: Path | None, prepared: Any, splits: Sequence[str]) -> Any:
    """The `AdWorldConfig` of the data; None if there is none with them and none is named."""
    from input_pipeline.recipes.adworld import WORLD, config_of
    from tt_jax.compare.regret import check_world

    if path is None and not (prepared.root / WORLD).exists():
        return None
    world = config_of(path or prepared.root)
    check_world(world, prepared, splits)
    return world


def _keep_compiled(folder: Path) -> None:
    """Runs that differ in their seed are one program: compiled once, also if the comparison goes on another day."""
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def split_configs(text: str) -> list[str]:
    """`a.py:x,y=1,b.py` to `a.py:x,y=1` and `b.py`: a comma is part of an ARG unless a file's name follows."""
    found: list[str] = []
    for part in text.split(","):
        if found and not part.partition(":")[0].endswith(".py"):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _named_configs(text: str, overrides: list[str]) -> dict[str, Any]:
    """By `NAME[:ARG]`, the file's name without its folder and suffix. Raises `ConfigError` if two have one name."""
    from tt_jax.cli.configuration import load_config
    from tt_jax.config import ConfigError

    configs = {}
    for file in split_configs(text):
        path, colon, argument = file.partition(":")
        name = Path(path).stem + colon + argument
        if name in configs:
            raise ConfigError(f"--configs={text}: {name!r} is there twice")
        configs[name] = load_config(file, overrides)
    return configs


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def table(report: dict[str, Any], split: str) -> str:
    """One line a row, scenario and task: log loss over seeds, its difference to the first row, AUC."""
    lines = [
        [
            row["name"], scope, task, _mean(found["logloss"]), _difference(found["logloss"]),
            number(found["auc"]["mean"], ".4f"),
        ]
        for row in report["rows"]
        for scope, tasks in row["metrics"][split].items()
        for task, found in tasks.items()
    ]  # fmt: skip
    about = (
        f"\n{split}: mean (spread) of {report['seeds']} seeds; difference of log loss to the first row, 95 % interval;"
        f" calibration: {report['calibrate']}"
    )
    return "\n".join([about, *text_table(["", "scenario", "task", "log loss", "difference", "AUC"], lines, "lllrrr")])


def _mean(figure: dict[str, Any]) -> str:
    spread = f" ({figure['spread']:.5f})" if figure["spread"] is not None else ""
    return number(figure["mean"], ".5f") + spread


def _difference(figure: dict[str, Any]) -> str:
    found = figure.get("difference")
    if not found or found["relative_interval"] is None:
        return "-"
    low, high = found["relative_interval"]
    return f"{found['relative']:+.2%} [{low:+.2%}, {high:+.2%}]"


def _say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)
