"""The report of a comparison: every figure of `report.json`, each beside the names of the runs that it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.adworld.simulate import AdWorldConfig
from input_pipeline.blocks.prepared_set import PreparedSet
from tt_jax.compare.cost import cost_of
from tt_jax.compare.figures import over_seeds
from tt_jax.compare.funnel import split_funnel
from tt_jax.compare.plan import Plan, Row
from tt_jax.compare.predictions import read_predicted, read_rows
from tt_jax.compare.quality import split_quality
from tt_jax.compare.regret import split_regret
from tt_jax.compare.speed import row_curves, to_quality
from tt_jax.compare.train_models import Done, read_fitted
from tt_jax.schema import Schema
from tt_jax.training.setup import make_model

VERSION = 2


def summarise(
    plan: Plan,
    done: Mapping[str, Done],
    prepared: PreparedSet,
    out: Path,
    replicates: int,
    world: AdWorldConfig | None = None,
) -> dict[str, Any]:
    """The report of finished runs, ready for JSON.

    Args:
      world: that the data are of, to tell the regret; None = it is not known.

    Returns:
      `rows`: a dict a row of the table: `name`, `config`, `mode`, `runs` (names, by seed), `cost`; by split `metrics`,
        `curves` and `before`, see `tt_jax.compare.quality`, `funnel` (where the split has one) and `regret` (with a
        world), see the modules of these names; `learning` (log loss while training, of every run) and `to_quality`, see
        `tt_jax.compare.speed`.
      `runs`: by name the fingerprints of run, data, weights and calibrated model, how it was trained and calibrated,
        diagnostics of its `gates` by split, and the whole configuration.
      `funnel`: by split what the funnel is of.
      and what the comparison is of: `data`, `splits` with their rows, `seeds`, `tasks`, `replicates`, `world`, and
        `calibrate`, the method by which the probabilities that are shown are calibrated, or `none`.
    """
    schema, counts = prepared.schema, prepared.manifest.splits
    report = {
        "version": VERSION,
        "name": schema.name,
        "data": plan.data,
        "scenarios": list(plan.scenarios),
        "splits": {split: {name: counts[split][name].rows for name in plan.scenarios} for split in plan.splits},
        "tasks": {t.name: t.kind for t in schema.tasks},
        "seeds": len(plan.rows[0].seeds),
        "replicates": replicates,
        "calibrate": plan.calibrate,
        "world": None if world is None else dataclasses.asdict(world),
        "funnel": {},
        "rows": [_describe(row, done, schema) for row in plan.rows],
        "runs": {
            run.name: _run(run.config.to_dict(), done[run.name], out / "runs" / run.name, schema) for run in plan.runs
        },
    }
    for split in plan.splits:
        _add_split(report, split, plan, done, prepared, out, world)
    _add_learning(report["rows"], plan, out, schema)
    return report


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
        "before": {},
        "funnel": {},
        "regret": {},
    }


def _run(config: dict[str, Any], done: Done, folder: Path, schema: Schema) -> dict[str, Any]:
    fitted = read_fitted(folder, done, schema)
    return {
        "identity": done.identity,
        "data": done.data,
        "weights": done.weights,
        "fingerprint": done.fingerprint,
        "calibration": None if fitted is None else dataclasses.asdict(fitted),
        "not_calibrated": done.not_calibrated,
        "gates": done.gates,
        "step": done.step,
        "best_step": done.best_step,
        "total_steps": done.total_steps,
        "train_seconds": done.train_seconds,
        "config": config,
    }


def _add_split(
    report: dict[str, Any],
    split: str,
    plan: Plan,
    done: Mapping[str, Done],
    prepared: PreparedSet,
    out: Path,
    world: AdWorldConfig | None,
) -> None:
    """Adds all that the predictions for a split say."""
    rows = read_rows(prepared, split, plan.scenarios)
    predicted = read_predicted(plan, done, out, split, rows)
    for row, quality in zip(report["rows"], split_quality(rows, predicted, report["replicates"]), strict=True):
        for name, figures in vars(quality).items():
            row[name][split] = figures
    funnel = split_funnel(rows, predicted, plan.rows[0].runs[0].config.utility, report["replicates"])
    if funnel:
        report["funnel"][split], by_row = funnel
        for row, figures in zip(report["rows"], by_row, strict=True):
            row["funnel"][split] = figures
    if world is not None:
        found = split_regret(world, split, plan, rows, predicted)
        for row, figures in zip(report["rows"], found, strict=True):
            row["regret"][split] = figures


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
