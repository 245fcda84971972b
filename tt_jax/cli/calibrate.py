"""`tt-jax calibrate`: fits probabilities to the labels of a split, and keeps the maps beside the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "  tt-jax calibrate --workdir=runs/kuairand --method=isotonic --split=valid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--method", choices=("temperature", "platt", "isotonic"), default="platt", help="default platt")
    parser.add_argument("--data", help="prepared set; the default is the one that the run was trained on")
    parser.add_argument("--split", help="to fit on, never the one to report; the default is the run's eval split")
    parser.add_argument("--tasks", default="", help="a task per head, as `a,b`; the default is each head's own")


def run(args: argparse.Namespace) -> int:
    """Writes `WORKDIR/calibration.json`; prints what was fitted to how much."""
    from tt_jax.calibration.calibrate import fit_calibration, own_tasks, write_calibration
    from tt_jax.cli.table import text_table
    from tt_jax.training.trained import load_trained, predictions

    trained = load_trained(args.workdir, calibrated=False)
    schema, data = trained.record.schema, trained.record.config.data
    split = args.split or data.eval_split
    tasks = own_tasks(schema, tuple(filter(None, args.tasks.split(","))))
    _, rows = predictions(trained, args.data, split)
    fitted = fit_calibration(rows, args.method, tasks, split, trained.fingerprint)
    write_calibration(args.workdir, fitted)
    lines = []
    for where, maps in (("pooled", fitted.pooled), *fitted.scenarios.items()):
        for head, curve in maps.items():
            shape = f"{len(curve.knots)} knots" if curve.knots else f"scale {curve.scale:.4f} shift {curve.shift:+.4f}"
            note = "  (too few: pooled)" if curve.pooled else ""
            lines.append([where, head, f"{curve.rows:,} rows", f"{curve.positives:,.1f} positives", shape + note])
    print("\n".join(text_table([], lines, "llrrl")))
    return 0
