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
    from tt_jax.training.trained import load_trained

    print(export_trained(load_trained(args.workdir), args.out, args.data))
    print(f"bundle written to {args.out}", file=sys.stderr)
    return 0


def export_trained(trained, out: Path, data: str | None = None) -> str:  # type: ignore[no-untyped-def]
    """Writes the bundle of a `Trained`; returns its fingerprint."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from tt_jax.bundle.writer import write_bundle

    prepared = PreparedSet.open(data or trained.record.config.data.path)
    return write_bundle(
        out,
        schema=trained.record.schema,
        config=trained.record.config,
        params=trained.params,
        tables=trained.tables,
        calibration=trained.calibration,
        metrics=trained.report or {},
        learned=trained.record.learned(trained.step),
        golden_rows=prepared.samples(trained.record.config.data.scenarios),
    )
