"""The report of a comparison: every figure of `report.json`, each beside the names of the runs that it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.blocks import PreparedSet
from tt_jax.compare.figures import curves_of, differences, metrics_over_seeds, over_seeds, replicates_over_seeds
from tt_jax.compare.outcomes import Rows, join_predictions, read_rows
from tt_jax.compare.plan import Plan, Row
from tt_jax.compare.runs import Done, read_predictions
from tt_jax.compare.speed import row_curves, to_quality
from tt_jax.metrics.task_rows import TaskRows, check_values
from tt_jax.models.cost import cost_of
from tt_jax.schema import Schema, Task
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
    users = None if rows.users is None else rows.users[chosen]
    clusters = rows.clusters[chosen]
    for i, task in enumerate(schema.tasks):
        columns = rows.labels[chosen, i], rows.weights[chosen, i]
        replicated: list[dict[str, np.ndarray]] = []
        for of_seeds, (metrics, drawn) in zip(predictions, found, strict=True):
            p_Sn = [p[chosen, schema.head_of_task[i]] for p in of_seeds]
            scored = [_scored(task, p, *columns, users) for p in p_Sn]
            metrics[task.name], drawn[task.name] = metrics_over_seeds(scored), curves_of(scored[0])
            replicated.append(replicates_over_seeds(scored, clusters, replicates))
            if len(replicated) > 1:
                reference = found[0][0][task.name]
                differing = differences(metrics[task.name], reference, replicated[-1], replicated[0])
                for name, difference in differing.items():
                    metrics[task.name][name]["difference"] = difference
    return found


def _scored(task: Task, p: np.ndarray, labels: np.ndarray, weights: np.ndarray, users: np.ndarray | None) -> TaskRows:
    check_values(p, labels, weights, soft=task.kind == "soft", where=f"task {task.name!r}: ")
    return TaskRows.of(p, labels, weights, users, soft=task.kind == "soft")


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
