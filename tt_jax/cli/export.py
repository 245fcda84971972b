"""`tt-jax export`: a run's best checkpoint to a bundle that services load."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLE = "  tt-jax export --workdir=runs/kuairand --out=bundles/kuairand"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--out", type=Path, required=True, help="directory to create")
    parser.add_argument("--data", help="prepared set to take golden requests from; the default is that of the run")


def run(args: argparse.Namespace) -> int:
    """Writes the bundle; prints its fingerprint."""
    from tt_jax.training.trained import export, load_trained

    print(export(load_trained(args.workdir), args.out, args.data))
    print(f"bundle written to {args.out}", file=sys.stderr)
    return 0
