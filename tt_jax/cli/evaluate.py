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
    parser.add_argument("--ips", type=Path, help="instead: what the model would earn, by a table of `tt-jax join`")
    parser.add_argument("--best", type=int, default=1, help="with --ips: ads that the model chooses (default 1)")
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
    if args.ips:
        return _off_policy(args)
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


def _off_policy(args: argparse.Namespace) -> int:
    """Prints the estimates of each task; writes the JSON report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tt_jax.cli.table import figures_table
    from tt_jax.evaluation.off_policy_report import off_policy_report
    from tt_jax.io.publish import write_json
    from tt_jax.training.trained import load_trained
    from tt_jax.utility import Utility

    try:
        table = pq.read_table(args.ips).combine_chunks()
    except pa.ArrowInvalid as e:
        raise ValueError(f"{args.ips}: {e}") from None
    for name in ("request_id", "complete", "propensity", "served_slot"):
        if name not in table.column_names:
            raise ValueError(f"{args.ips}: {name!r}: the column is missing; expected a table of `tt-jax join`")
    trained = load_trained(args.workdir, calibrated=False)
    schema, expression = trained.record.schema, trained.record.config.utility
    utility = Utility.parse(expression, schema.heads, schema.utility_names)
    if utility.other_names:
        raise ValueError(f"utility: {expression!r}: --ips knows tasks and the bid alone")
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    report = off_policy_report(trained.model, trained.params, trained.tables, utility, columns, args.best)
    if args.out:
        write_json(args.out, report)
    rows = {
        f"{task}, {name}": {**found, "intervals": {"value": found["interval"]}}
        for task, estimates in report["tasks"].items()
        for name, found in estimates.items()
    }
    title = f"the best {args.best} of {report['requests']:,} requests"
    print(figures_table(title, rows, ("value", "effective_rows")))
    if report["left_out"]:
        print(f"left out: {report['left_out']:,} requests that did not explore, or without all their candidates")
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
