"""The report of a comparison: every figure of `report.json`, each beside the names of the runs that it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.blocks import PreparedSet
from tt_jax.compare.figures import TaskRows, differences, over_seeds
from tt_jax.compare.outcomes import Rows, join_predictions, read_rows
from tt_jax.compare.plan import Plan, Row
from tt_jax.compare.runs import Done, read_predictions
from tt_jax.compare.speed import row_curves, to_quality
from tt_jax.metrics.curves import calibration_curve, roc_curve
from tt_jax.models.cost import cost_of
from tt_jax.schema import Schema
from tt_jax.training.setup import make_model

VERSION = 1


def summarise(
    plan: Plan, done: Mapping[str, Done], prepared: PreparedSet, out: Path, replicates: int
) -> dict[str, Any]:
    """The report of finished runs, ready for JSON.

    Returns:
      `rows`: a dict a row of the table: `name`, `config`, `mode`, `runs` (names, by seed), `cost`, `metrics` by split,
        scope (`overall` or a scenario) and task, `curves` (ROC and calibration, of the first seed) likewise,
        `learning` (log loss while training, of every run) and `to_quality`, see `_to_quality`.
      `runs`: by name the fingerprints of run, data and weights, and the whole configuration.
      and what the comparison is of: `data`, `splits` with their rows, `seeds`, `tasks`, `replicates`.
    """
    rows = [_describe(row, done, prepared.schema) for row in plan.rows]
    for split in plan.splits:
        _add_split(rows, split, plan, done, prepared, out, replicates)
    _add_learning(rows, plan, out, prepared.schema)
    counts = prepared.manifest.splits
    return {
        "version": VERSION,
        "name": prepared.schema.name,
        "data": plan.data,
        "scenarios": list(plan.scenarios),
        "splits": {split: {name: counts[split][name].rows for name in plan.scenarios} for split in plan.splits},
        "tasks": {t.name: t.kind for t in prepared.schema.tasks},
        "seeds": len(plan.rows[0].seeds),
        "replicates": replicates,
        "rows": rows,
        "runs": {run.name: _run(run.config.to_dict(), done[run.name]) for run in plan.runs},
    }


def _describe(row: Row, done: Mapping[str, Done], schema: Schema) -> dict[str, Any]:
    """What is known of a row without its predictions. Costs of runs that are one model each add up over scenarios."""

    def total(figure: str) -> list[float]:
        return [sum(getattr(done[run.name], figure) for run in runs) for runs in row.seeds]

    seconds, examples = total("train_seconds"), total("examples")
    speed = [e / s if s else None for e, s in zip(examples, seconds, strict=True)]
    return {
        "name": row.name,
        "config": row.config,
        "mode": row.mode,
        "runs": [[run.name for run in runs] for runs in row.seeds],
        "cost": {
            **dataclasses.asdict(cost_of(make_model(row.runs[0].config, schema))),
            "train_seconds": over_seeds(seconds),
            "examples": over_seeds(examples),
            "examples_per_s": over_seeds(speed),
        },
        "metrics": {},
        "curves": {},
    }


def _run(config: dict[str, Any], done: Done) -> dict[str, Any]:
    return {
        "identity": done.identity,
        "data": done.data,
        "weights": done.weights,
        "step": done.step,
        "best_step": done.best_step,
        "total_steps": done.total_steps,
        "train_seconds": done.train_seconds,
        "config": config,
    }


def _add_split(
    rows: list[dict[str, Any]],
    split: str,
    plan: Plan,
    done: Mapping[str, Done],
    prepared: PreparedSet,
    out: Path,
    replicates: int,
) -> None:
    """Adds metrics, differences and curves of a split to the rows of the report."""
    outcomes = read_rows(prepared, split, plan.scenarios)
    stored = {run.name: read_predictions(out / "runs" / run.name, split, done[run.name]) for run in plan.runs}
    predictions = [[join_predictions(runs, stored, outcomes) for runs in row.seeds] for row in plan.rows]
    for row in rows:
        row["metrics"][split], row["curves"][split] = {}, {}
    for scope, chosen in outcomes.scopes().items():
        found = _scope(prepared.schema, outcomes, chosen, predictions, replicates)
        for row, (metrics, curves) in zip(rows, found, strict=True):
            row["metrics"][split][scope], row["curves"][split][scope] = metrics, curves


def _scope(
    schema: Schema, rows: Rows, chosen: np.ndarray, predictions: Sequence[Sequence[np.ndarray]], replicates: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Metrics and curves by task, of each row of the report, on the chosen rows of a split."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}) for _ in predictions]
    for i, task in enumerate(schema.tasks):
        head = schema.head_of_task[i]
        users = None if rows.users is None else rows.users[chosen]
        scored = TaskRows(
            rows.labels[chosen, i], rows.weights[chosen, i], users, rows.clusters[chosen],
            soft=task.kind == "soft", replicates=replicates,
        )  # fmt: skip
        reference: dict[str, np.ndarray] = {}
        for k, of_seeds in enumerate(predictions):
            p_Sn = [p[chosen, head] for p in of_seeds]
            metrics, replicated = scored.metrics(p_Sn), scored.replicates(p_Sn)
            reference = replicated if k == 0 else reference
            intervals = differences(replicated, reference) if k else {}
            for name, interval in intervals.items():
                metrics[name]["difference"] = _difference(metrics[name], found[0][0][task.name][name], interval)
            found[k][0][task.name] = metrics
            found[k][1][task.name] = scored_curves(scored, p_Sn[0])
    return found


def _difference(ours: dict[str, Any], reference: dict[str, Any], intervals: dict[str, Any]) -> dict[str, Any]:
    """A paired difference to the reference, of the means over seeds, with its intervals."""
    absolute = ours["mean"] - reference["mean"]
    return {
        "absolute": absolute,
        "absolute_interval": intervals["absolute"],
        "relative": absolute / reference["mean"] if reference["mean"] else None,
        "relative_interval": intervals["relative"],
    }


def scored_curves(scored: TaskRows, probabilities: np.ndarray) -> dict[str, Any]:
    """`roc` and `calibration` of predictions for all rows; None where one is undefined."""
    arguments = probabilities[scored.rows], scored.labels, scored.weights
    roc = roc_curve(*arguments) if scored.ranked else None
    calibration = calibration_curve(*arguments)
    return {
        "roc": roc and {name: values.tolist() for name, values in roc._asdict().items()},
        "calibration": calibration and {name: values.tolist() for name, values in calibration._asdict().items()},
    }


def _add_learning(rows: list[dict[str, Any]], plan: Plan, out: Path, schema: Schema) -> None:
    """Adds the learning curves by scenario and task, and what it took to be as good as the reference ended."""
    curves = [row_curves(row, plan.scenarios, out, schema.heads) for row in plan.rows]
    for row, found in zip(rows, curves, strict=True):
        row["learning"] = {
            scenario: {task: [vars(curve) for curve in of_seeds] for task, of_seeds in tasks.items()}
            for scenario, tasks in found.items()
        }
        row["to_quality"] = {
            task: to_quality(found, curves[0], task, adds_up=row["mode"] == "split") for task in schema.heads
        }
