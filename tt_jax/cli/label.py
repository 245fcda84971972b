"""`tt-jax label`: a teacher's probabilities as soft labels."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "  tt-jax label --teacher=runs/heavy --data=prepared/adworld --out=prepared/adworld_labelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher", type=Path, required=True, help="directory of the teacher's run, of any kind of model"
    )
    parser.add_argument("--data", help="prepared set to label; the default is the one that the teacher was trained on")
    parser.add_argument("--out", type=Path, required=True, help="directory to create: the set with tasks teacher_HEAD")


def run(args: argparse.Namespace) -> int:
    """Writes the labelled set; prints the mean of every label."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from tt_jax.cli.prepare import print_counts
    from tt_jax.io.publish import require_absent
    from tt_jax.training.distill import label
    from tt_jax.training.trained import load_trained

    require_absent(args.out)  # before the work, not after it
    teacher = load_trained(args.teacher)
    print_counts(label(teacher, PreparedSet.open(args.data or teacher.record.config.data.path), args.out))
    return 0
