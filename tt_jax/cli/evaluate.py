"""`tt-jax evaluate`: metrics of a run's best checkpoint on a split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLE = "  tt-jax evaluate --workdir=runs/kuairand --data=prepared/kuairand --split=eval --out=metrics.json"
SHOWN = ("rows", "auc", "gauc", "gauc_rows", "logloss", "ne", "calibration", "ece")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--data", help="prepared set; the default is the one that the run was trained on")
    parser.add_argument("--split", help="the default is the run's eval split")
    parser.add_argument("--bootstrap", type=int, default=0, help="replicates, for 95%% intervals (default 0: none)")
    parser.add_argument("--out", type=Path, help="write the report there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints metrics and the funnel by scenario, and calibration by task and scenario; writes the JSON report."""
    from tt_jax.cli.table import table
    from tt_jax.io.publish import write_json
    from tt_jax.metrics.funnel import FIGURES
    from tt_jax.metrics.task_rows import DEFINITIONS
    from tt_jax.training.trained import load_trained

    if args.bootstrap < 0:
        raise ValueError(f"--bootstrap={args.bootstrap}: expected at least 0")
    trained = load_trained(args.workdir)
    report = evaluate_trained(trained, args.data or trained.record.config.data.path, args.split, args.bootstrap)
    if args.out:
        write_json(args.out, report)
    parts = [("overall", report["overall"]), *report["scenarios"].items()]
    if "calibrated" in report:
        parts.append(("calibrated", report["calibrated"]["overall"]))
    for title, tasks in parts:
        print(table(title, tasks, SHOWN))
    print(calibration_table(report))
    funnels = report["funnel"]["scenarios"] if "funnel" in report else {}
    for scenario, funnel in ((s, found) for s, found in funnels.items() if found["at"]):
        title = f"funnel, {scenario}, {funnel['requests']:,} requests"
        print(table(title, {f"best {a['best']} of {a['passed']}": a for a in funnel["at"]}, FIGURES))
    print("\n".join(f"{name}: {DEFINITIONS[name]}" for name in SHOWN))
    return 0


def calibration_table(report: Mapping[str, Any]) -> str:
    """Sum p / sum y by task and scenario, with their rows; `calibrated`: after the run's calibration, if it has one."""
    from tt_jax.cli.table import table

    rows, after = {}, report.get("calibrated", {}).get("scenarios")
    for task in report["overall"]:
        for scenario, tasks in report["scenarios"].items():
            line = rows[f"{task}, {scenario}"] = dict(tasks[task])
            if after:
                line["calibrated"] = after[scenario][task]["calibration"]
    return table("sum p / sum y", rows, ("rows", "positives", "calibration", *(("calibrated",) if after else ())))


def evaluate_trained(trained: Any, path: str, split: str | None = None, replicates: int = 0) -> dict[str, Any]:
    """The full report of a `Trained` on a prepared set, see `tt_jax.evaluation.full_report`, and its `gates`.

    Raises `ValueError` if that set has another schema.
    """
    from tt_jax.evaluation.full_report import full_report
    from tt_jax.evaluation.gate_report import predict_with_gates

    config = trained.record.config
    prepared = _open(trained, path)
    found, gates = predict_with_gates(trained.model, *_arguments(trained, prepared, split))
    trained_on = _trained_on(trained, prepared)
    report = full_report(
        found, prepared, config.data.scenarios, config.utility, trained_on, replicates, trained.calibration
    )
    return {**report, **({"gates": gates} if gates else {}), "fingerprint": trained.fingerprint}


def predictions(trained: Any, path: str, split: str | None = None) -> tuple[Any, Any]:
    """The prepared set, and the `Predictions` of a `Trained` on a split of it, by default the run's eval split."""
    from tt_jax.evaluation.predict import make_predict, predict_rows

    prepared = _open(trained, path)
    return prepared, predict_rows(make_predict(trained.model), *_arguments(trained, prepared, split))


def _open(trained: Any, path: str) -> Any:
    from input_pipeline.blocks.prepared_set import PreparedSet

    prepared = PreparedSet.open(path)
    if prepared.schema != trained.record.schema:
        raise ValueError(f"{path}: prepared with another schema than the one that the run was trained with")
    return prepared


def _arguments(trained: Any, prepared: Any, split: str | None) -> tuple[Any, ...]:
    """Weights, and the rows to predict: by default those of the run's eval split."""
    data = trained.record.config.data
    return trained.params, trained.tables, prepared, split or data.eval_split, data.scenarios, data.eval_batch_size


def _trained_on(trained: Any, prepared: Any) -> list[Any] | None:
    """What the run was trained on, as `Part`s; None, and a line that says so, where some of it is gone."""
    from input_pipeline.blocks.block import PreparedError
    from input_pipeline.blocks.prepared_set import Part, PreparedSet

    parts = []
    try:
        for of in trained.record.learned(trained.step):
            same = prepared.fingerprint == of["fingerprint"]
            parts.append(Part(prepared if same else PreparedSet.open(of["path"]), tuple(of["splits"])))
    except PreparedError as e:
        print(f"new and known ids are not told apart: {e}", file=sys.stderr)
        return None
    return parts
