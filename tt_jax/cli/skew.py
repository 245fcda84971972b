"""`tt-jax skew`: the newest query tower on ad vectors of earlier checkpoints; how stale may an index be?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tt_jax.cli.table import number, text_table

EXAMPLE = """  tt-jax train --config=configs/adworld.py --config.data.path=prepared/adworld --workdir=W \\
      --config.train.save_every=20 --config.train.keep_last=10
  tt-jax skew --workdir=W --split=test --within=3 --max-increase=0.01 --out=skew.json

A run keeps `train.keep_last` checkpoints, and what is not kept cannot be swept. Services refuse an index of another
bundle; this says what would be lost without that, and so how soon ads must be embedded anew after a release.

Exit code: 0 fine, 1 past the threshold, 2 bad input."""
SHOWN = ("logloss", "auc", "kl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--data", help="prepared set; the default is the one that the run was trained on")
    parser.add_argument("--split", help="the default is the run's eval split")
    parser.add_argument("--within", type=int, help="saves behind that must be fine (default: all that were kept)")
    parser.add_argument(
        "--max-increase", type=float, default=0.01, help="of a log loss, as a share of it, that is fine (default 0.01)"
    )
    parser.add_argument("--out", type=Path, help="write the report there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints a line per checkpoint and task; writes the JSON report."""
    from tt_jax.io.publish import write_json

    report = skew(args)
    print(table(report["saves"]))
    for finding in report["findings"]:
        print(finding)
    if args.out:
        write_json(args.out, report)
    return 1 if report["findings"] else 0


def skew(args: argparse.Namespace) -> dict[str, Any]:
    """What the JSON report holds."""
    from input_pipeline.blocks.prepared_set import PreparedSet
    from tt_jax.compare.staleness import skew_rows
    from tt_jax.models.two_tower import require_two_towers
    from tt_jax.runs.record import read_record
    from tt_jax.training.trained import load_saved

    record = read_record(args.workdir)
    require_two_towers(record.config.model)
    data = record.config.data
    prepared = PreparedSet.open(args.data or data.path)
    if prepared.schema != record.schema:
        raise ValueError(f"{prepared.root}: prepared with another schema than the one that the run was trained with")
    split = args.split or data.eval_split
    saves = list(skew_rows(load_saved(args.workdir), prepared, split))
    within = len(saves) - 1 if args.within is None else args.within
    if not 1 <= within < len(saves):
        raise ValueError(
            f"{args.workdir}: --within={args.within or 'all'}: expected at least 1 checkpoint behind the newest and at"
            f" most the {max(0, len(saves) - 1)} that were kept; config.train.keep_last keeps more"
        )
    return {
        "data": prepared.fingerprint,
        "split": split,
        "within": within,
        "max_increase": args.max_increase,
        "saves": saves,
        "findings": findings(saves, within, args.max_increase),
    }


def findings(saves: Sequence[Mapping[str, Any]], within: int, most: float) -> list[str]:
    """What is past the threshold, a line each."""
    found = []
    for save in saves[1 : within + 1]:
        for task, metrics in save["tasks"].items():
            fresh, stale = saves[0]["tasks"][task]["logloss"], metrics["logloss"]
            if fresh is not None and not stale <= fresh * (1 + most):
                found.append(
                    f"{task}: log loss {stale:.5f} with ads {save['behind']} saves behind (step {save['step']}), "
                    f"{stale / fresh - 1:+.2%} of {fresh:.5f}; {most:.2%} is fine"
                )
    return found


def table(saves: Sequence[Mapping[str, Any]]) -> str:
    """One line a checkpoint and task, and of candidates the recall of each scenario's deepest funnel."""
    rows = []
    for save in saves:
        for task, metrics in save["tasks"].items():
            cells = [number(metrics[name], ".5f") for name in ("rows", *SHOWN)]
            rows.append([str(save["behind"]), str(save["step"]), task, *cells])
    first, *of_tasks = text_table(["behind", "step", "task", "rows", *SHOWN], rows, "rrrrrrr", [10] * 7)
    lines = [first]
    for save in saves:
        lines += [of_tasks.pop(0) for _ in save["tasks"]]
        for scenario, found in save.get("funnel", {"scenarios": {}})["scenarios"].items():
            for at in found["at"]:
                what = f"recall of the best {at['best']} among {at['passed']} passed"
                lines.append(f"{'':>24}{scenario}: {what}: {at['recall']:.4f}")
    return "\n".join(lines)
