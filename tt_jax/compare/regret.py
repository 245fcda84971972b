"""What each row of the table loses against AdWorld's true probabilities, see `tt_jax.evaluation.adworld.regret`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.adworld.simulate import AdWorldConfig, schema
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.recipes.adworld import log_of
from tt_jax.compare.figures import over_seeds
from tt_jax.compare.plan import CompareError, Plan
from tt_jax.compare.predictions import OVERALL, Predicted
from tt_jax.evaluation.adworld.regret import FIGURES, TASKS, Truth, read_truth
from tt_jax.metrics.rows import EvalRows


def check_world(world: AdWorldConfig, prepared: PreparedSet, splits: Sequence[str]) -> None:
    """Raises `CompareError` if a prepared set is not of that world, `ReadError` if that has no such split."""
    for split in splits:
        log_of(split)
    if prepared.schema.features != schema(world).features:
        raise CompareError(f"--world: {prepared.root} is of another world: its features are not those of this one")


def split_regret(
    world: AdWorldConfig, split: str, plan: Plan, rows: EvalRows, predicted: Sequence[Predicted]
) -> list[dict[str, Any]]:
    """By row of the table: `output_dim` and `interaction_rank` of the reference, and `scopes`: by scope and task the
    figures of `Truth.regret` over seeds.

    Raises `CompareError` if the rows of the split are not those of the world.
    """
    day, log = log_of(split)
    truth = read_truth(world, day, log, rows.scenarios)
    _check_rows(truth, rows, split)
    heads = [(h, task) for h, task in enumerate(rows.schema.heads) if task in TASKS]
    found = []
    for row, of_row in zip(plan.rows, predicted, strict=True):
        output_dim = row.runs[0].config.model.output_dim
        by_seed = [truth.regret(_by_scenario(one, heads), output_dim) for one in of_row.shown]
        scopes = {OVERALL: [f["overall"] for f in by_seed]}
        if len(rows.scenarios) > 1:
            scopes |= {s: [f["scenarios"][s] for f in by_seed] for s in rows.scenarios}
        found.append(
            {
                **{name: by_seed[0][name] for name in ("output_dim", "interaction_rank")},
                "scopes": {scope: _over_seeds(tasks) for scope, tasks in scopes.items()},
            }
        )
    return found


def _check_rows(truth: Truth, rows: EvalRows, split: str) -> None:
    for scenario in rows.scenarios:
        part, true = rows.in_scenario(scenario), truth.rows[scenario]
        for name, ours in (("request_id", rows.requests), ("ad_id", rows.key(rows.schema.ad_id))):
            if ours is None or not np.array_equal(ours[part], true[name]):
                raise CompareError(
                    f"--world: the {split} rows of the data, {scenario}, are not those of this world: they differ in"
                    f" {name}; expected {len(true[name]):,} rows, got {np.count_nonzero(part):,}"
                )


def _by_scenario(rows: EvalRows, heads: Sequence[tuple[int, str]]) -> Mapping[str, Mapping[str, np.ndarray]]:
    parts = {scenario: rows.in_scenario(scenario) for scenario in rows.scenarios}
    return {scenario: {task: rows.probabilities[part, h] for h, task in heads} for scenario, part in parts.items()}


def _over_seeds(by_seed: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Task -> `rows`, and the other figures of `Truth.regret` over seeds; the same under `outcomes`."""
    return {
        task: {
            **_figures([f[task] for f in by_seed]),
            "outcomes": _figures([f[task]["outcomes"] for f in by_seed]),
        }
        for task in by_seed[0]
    }


def _figures(of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {name: over_seeds([f[name] for f in of_seeds]) for name in FIGURES if name != "rows"}
    return {"rows": of_seeds[0]["rows"], **found}
