"""`tt-jax evaluate`: metrics of a run's best checkpoint on a split."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLE = "  tt-jax evaluate --workdir=runs/kuairand --data=prepared/kuairand --split=eval --out=metrics.json"
SHOWN = ("rows", "auc", "gauc", "logloss", "ne", "calibration", "ece")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--data", help="prepared set; the default is the one that the run was trained on")
    parser.add_argument("--split", help="the default is the run's eval split")
    parser.add_argument("--bootstrap", type=int, default=0, help="replicates, for 95%% intervals (default 0: none)")
    parser.add_argument("--out", type=Path, help="write the report there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints a table per scenario; writes the JSON report."""
    from tt_jax.publish import write_json
    from tt_jax.training.trained import load_trained

    trained = load_trained(args.workdir)
    report = evaluate_trained(trained, args.data or trained.record.config.data.path, args.split, args.bootstrap)
    if args.out:
        write_json(args.out, report)
    print(table("overall", report["overall"]))
    for scenario, tasks in report["scenarios"].items():
        print(table(scenario, tasks))
    if "calibrated" in report:
        print(table("calibrated", report["calibrated"]["overall"]))
    return 0


def evaluate_trained(trained: Any, path: str, split: str | None = None, replicates: int = 0) -> dict[str, Any]:
    """The full report of a `Trained` on a prepared set, see `tt_jax.training.report`, and its `gates`.

    Raises `ValueError` if that set has another schema.
    """
    from tt_jax.training.gates import gate_report
    from tt_jax.training.report import full_report

    config = trained.record.config
    prepared, found = predictions(trained, path, split)
    trained_on = _trained_on(trained, prepared)
    report = full_report(
        found, prepared, config.data.scenarios, config.utility, trained_on, replicates, trained.calibration
    )
    gates = gate_report(
        trained.model, trained.params, trained.tables, prepared, split or config.data.eval_split,
        config.data.scenarios, config.data.eval_batch_size,
    )  # fmt: skip
    return {**report, **({"gates": gates} if gates else {}), "fingerprint": trained.fingerprint}


def predictions(trained: Any, path: str, split: str | None = None) -> tuple[Any, Any]:
    """The prepared set, and the `Predictions` of a `Trained` on a split of it, by default the run's eval split."""
    from input_pipeline.blocks import PreparedSet
    from tt_jax.training.evaluate import make_predict, predict_rows

    data = trained.record.config.data
    prepared = PreparedSet.open(path)
    if prepared.schema != trained.record.schema:
        raise ValueError(f"{path}: prepared with another schema than the one that the run was trained with")
    return prepared, predict_rows(
        make_predict(trained.model), trained.params, trained.tables, prepared, split or data.eval_split,
        data.scenarios, data.eval_batch_size,
    )  # fmt: skip


def _trained_on(trained: Any, prepared: Any) -> tuple[Any, Any] | None:
    """Prepared set and splits that the run was trained on; None, and a line that says so, where they are gone."""
    from input_pipeline.blocks import PreparedError, PreparedSet

    data = trained.record.config.data
    if prepared.fingerprint == trained.record.data:
        return prepared, data.train_splits
    try:
        return PreparedSet.open(data.path), data.train_splits
    except PreparedError as e:
        print(f"new and known ids are not told apart: {e}", file=sys.stderr)
        return None


def table(title: str, tasks: dict[str, dict[str, Any]]) -> str:
    """One line a task under a heading."""
    lines = [f"{title:<16}" + "".join(f"{name:>12}" for name in SHOWN)]
    for task, found in tasks.items():
        cells = ["-" if found[n] is None else f"{found[n]:,}" if n == "rows" else f"{found[n]:.4f}" for n in SHOWN]
        lines.append(f"  {task:<14}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)
