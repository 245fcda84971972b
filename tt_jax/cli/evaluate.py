"""`tt-jax evaluate`: metrics of a run's best checkpoint on a split."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLE = "  tt-jax evaluate --workdir=runs/kuairand --data=prepared/kuairand --split=eval --out=metrics.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--data", help="prepared set; the default is the one that the run was trained on")
    parser.add_argument("--split", help="the default is the run's eval split")
    parser.add_argument("--bootstrap", type=int, default=0, help="replicates, for 95%% intervals (default 0: none)")
    parser.add_argument("--out", type=Path, help="write the report there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints metrics and the funnel by scenario, and calibration by task and scenario; writes the JSON report."""
    from tt_jax.cli.table import figures_table
    from tt_jax.io.publish import write_json
    from tt_jax.metrics.funnel import FIGURES
    from tt_jax.metrics.table import METRICS
    from tt_jax.training.trained import evaluate, load_trained

    if args.bootstrap < 0:
        raise ValueError(f"--bootstrap={args.bootstrap}: expected at least 0")
    report = evaluate(load_trained(args.workdir), args.data, args.split, args.bootstrap)
    if args.out:
        write_json(args.out, report)
    parts = [("overall", report["overall"]), *report["scenarios"].items()]
    if "calibrated" in report:
        parts.append(("calibrated", report["calibrated"]["overall"]))
    shown = [name for name, metric in METRICS.items() if metric.brief]
    for title, tasks in parts:
        print(figures_table(title, tasks, shown))
    print(calibration_table(report))
    funnels = report["funnel"]["scenarios"] if "funnel" in report else {}
    for scenario, funnel in ((s, found) for s, found in funnels.items() if found["at"]):
        title = f"funnel, {scenario}, {funnel['requests']:,} requests"
        print(figures_table(title, {f"best {a['best']} of {a['passed']}": a for a in funnel["at"]}, FIGURES))
    print("\n".join(f"{name}: {METRICS[name].definition}" for name in shown))
    return 0


def calibration_table(report: Mapping[str, Any]) -> str:
    """Sum p / sum y by task and scenario, with their rows; `calibrated`: after the run's calibration, if it has one."""
    from tt_jax.cli.table import figures_table

    rows, after = {}, report.get("calibrated", {}).get("scenarios")
    for task in report["overall"]:
        for scenario, tasks in report["scenarios"].items():
            line = rows[f"{task}, {scenario}"] = dict(tasks[task])
            if after:
                line["calibrated"] = after[scenario][task]["calibration"]
    shown = ("rows", "positives", "calibration", *(("calibrated",) if after else ()))
    return figures_table("sum p / sum y", rows, shown)
