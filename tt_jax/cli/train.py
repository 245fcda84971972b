"""`tt-jax train`: trains a run, or goes on with it."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from tt_jax.config import ConfigError, Schedule, StageConfig

EXAMPLE = """  tt-jax train --config=configs/kuairand.py --config.data.path=prepared/kuairand --workdir=runs/kuairand
  tt-jax train --config=configs/adworld.py:shopping --config.train.epochs=2 --workdir=runs/shopping

  tt-jax train --workdir=runs/live --data=prepared/day9 --replay=0.25

The same command again goes on with a run that was stopped. SIGTERM saves and exits with 0. With --data, a run goes on
with sets that are new to it, each predicted before it is learned: see WORKDIR/progressive.json.

Many processes train one model, in one --workdir that all can write, where each is started with the same command and
one of: the variables that torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); --coordinator, --processes and
--process; --cluster.

On a Linux CPU, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment takes 5 to 8 % off the time of a step."""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="a file with get_config(arg); --config.KEY=VALUE sets any field of it, e.g. --config.model.experts=8; "
        "with --data, the default is the run's own",
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="PATH[:SPLIT,SPLIT]",
        help="a prepared set for an existing run to go on with; may be given again, in order",
    )  # fmt: skip
    stage = StageConfig()
    parser.add_argument(
        "--replay", type=float, metavar="SHARE",
        help=f"of each batch, drawn from the sets before those of --data (default {stage.replay:g})",
    )  # fmt: skip
    parser.add_argument(
        "--schedule", choices=get_args(Schedule),
        help="of the learning rates on a set of --data: constant, or the run's own warm-up and decay again "
        f"(default {stage.schedule})",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, metavar="SHARE",
        help=f"of the run's peak learning rates, for the constant or the peak (default {stage.rate:g})",
    )  # fmt: skip
    parser.add_argument(
        "--accumulators", type=float, metavar="FACTOR",
        help=f"for the Adagrad accumulators when a set of --data begins (default {stage.accumulators:g}: kept)",
    )  # fmt: skip
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, if there are many")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    parser.add_argument("--process", type=int, metavar="I", help="index of this process")
    place.add_argument("--cluster", action="store_true", help="ask Slurm, Kubernetes, Open MPI or the TPU instead")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Trains; prints where the run stands. Returns the exit code."""
    from tt_jax.cli.configuration import load_config
    from tt_jax.parallel import processes
    from tt_jax.training.continuous import go_on
    from tt_jax.training.loop import train

    options = {f.name: v for f in fields(StageConfig) if (v := getattr(args, f.name)) is not None}
    if options and not args.data:
        raise ConfigError(f"--{min(options)}: expected --data, the sets that it is for")
    if not args.config and not args.data:
        raise ConfigError("expected --config, or --data for an existing run to go on with")
    environment = {} if args.cluster else os.environ
    place = processes.find_place(args.coordinator, args.processes, args.process, environment)
    if place or args.cluster:
        processes.initialize(place)
    if args.data:
        config = load_config(args.config, overrides) if args.config else _own_config(args.workdir, overrides)
        results = go_on(config, args.workdir, args.data, StageConfig(**options))
        _write_page(args.workdir)
    else:
        results = [train(load_config(args.config, overrides), args.workdir)]
    for result in results:
        if not result.stopped_by and processes.is_first():
            _tell(args.workdir, result)
    return 0


def _own_config(workdir: Path, overrides: list[str]) -> Any:
    """The configuration of an existing run, with overrides."""
    from tt_jax.cli.configuration import with_overrides
    from tt_jax.runs.record import read_record

    return with_overrides(read_record(workdir).config, overrides)


def _write_page(workdir: Path) -> None:
    """`progressive.html`, of what `progressive.json` has."""
    from tt_jax.io.disk_full import writing
    from tt_jax.io.extras import missing_package
    from tt_jax.training.progressive import read

    figures = read(workdir)
    if not figures:
        return
    try:
        from tt_jax.report.progressive import progressive_page
    except ModuleNotFoundError as e:
        print(f"no progressive.html, which {missing_package(e)}", file=sys.stderr)
        return
    page = workdir / "progressive.html"
    with writing(page):
        page.write_text(progressive_page(figures), encoding="utf-8")


def _tell(workdir: Path, result: Any) -> None:
    speed = f", {result.examples_per_s:,.0f} examples/s" if result.examples_per_s else ""
    best = "" if result.facts.best_step is None else f", best at step {result.facts.best_step}"
    print(f"{workdir}: {result.step} of {result.total_steps} steps done{best}{speed}", file=sys.stderr)
