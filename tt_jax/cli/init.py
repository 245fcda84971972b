"""`tt-jax init`: a first schema of one's own logs, as a Python file to edit."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tt_jax.cli.runner import add_skip_unknown

EXAMPLE = """  tt-jax init --data=data/mylogs --out=mylogs.py
  tt-jax prepare mylogs.py --source=data/mylogs --out=prepared/mylogs
  tt-jax train --config=mylogs.py --workdir=runs/mylogs"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="PATH", help="the raw logs: a file, a pattern or a directory")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.py", help="file to write")
    parser.add_argument("--rows", type=int, default=50_000, help="rows to look at, drawn evenly from all files")
    add_skip_unknown(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints what was found."""
    from tt_jax.io.publish import require_absent

    if args.out.suffix != ".py" or not args.out.stem.isidentifier():
        raise ValueError(f"--out={args.out}: expected a Python file, NAME.py, its name of letters, digits and _")
    if args.rows < 1000:
        raise ValueError(f"--rows={args.rows}: expected at least 1000")
    require_absent(args.out)  # before the work, not after it

    from input_pipeline.infer_schema.write import infer_recipe
    from input_pipeline.readers import STRICT, SkipUnknown

    starter = infer_recipe(args.data, args.out, args.rows, SkipUnknown() if args.skip_unknown else STRICT)
    with args.out.open("x") as file:  # not over a file that has come meanwhile
        file.write(starter.text)
    schema = starter.schema
    sides = ", ".join(f"{len(schema.tower_features(t))} features of the {t}" for t in ("query", "ad"))
    rates = ", ".join(f"{o.name} ({o.rate:.4f})" for o in starter.outcomes if o.chosen)
    print(f"{args.out}: {sides}; {len(starter.left_out)} columns left out; tasks: {rates}", file=sys.stderr)
    for remark in starter.remarks:
        print(f"{args.out}: {' '.join(remark.split())}", file=sys.stderr)
    return 0
