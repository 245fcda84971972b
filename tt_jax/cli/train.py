"""`tt-jax train`: trains a run, or goes on with it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

EXAMPLE = """  tt-jax train --config=configs/kuairand.py --config.data.path=prepared/kuairand --workdir=runs/kuairand
  tt-jax train --config=configs/adworld.py:shopping --config.train.epochs=2 --workdir=runs/shopping

The same command again goes on with a run that was stopped. SIGTERM saves and exits with 0.

Many processes train one model, in one --workdir that all can write, where each is started with the same command and
one of: the variables that torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); --coordinator, --processes and
--process; --cluster."""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="a file with get_config(arg); --config.KEY=VALUE sets any field of it, e.g. --config.model.experts=8",
    )
    found = parser.add_mutually_exclusive_group()
    found.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, if there are many")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    parser.add_argument("--process", type=int, metavar="I", help="index of this process")
    found.add_argument("--cluster", action="store_true", help="ask Slurm, Kubernetes, Open MPI or the TPU instead")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Trains; prints where the run stands. Returns the exit code."""
    from tt_jax import distributed
    from tt_jax.cli.configuration import load_config
    from tt_jax.training.loop import train

    config = load_config(args.config, overrides)
    environment = {} if args.cluster else os.environ
    place = distributed.find_place(args.coordinator, args.processes, args.process, environment)
    if place or args.cluster:
        distributed.initialize(place)
    result = train(config, args.workdir)
    if result.stopped_by or not distributed.is_first():
        return 0
    speed = f", {result.examples_per_s:,.0f} examples/s" if result.examples_per_s else ""
    best = "" if result.facts.best_step is None else f", best at step {result.facts.best_step}"
    print(f"{args.workdir}: {result.step} of {result.total_steps} steps done{best}{speed}", file=sys.stderr)
    return 0
