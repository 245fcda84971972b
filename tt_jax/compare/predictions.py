"""The rows that a comparison is made on, and what a row of its table predicts for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.blocks.prepared_set import PreparedSet
from tt_jax.calibration.calibrate import calibrated_logits
from tt_jax.compare.plan import Plan, Row, Run
from tt_jax.compare.train_models import Done, read_fitted, read_predictions
from tt_jax.metrics.rows import EvalRows
from tt_jax.models.scenario import query_scenarios

OVERALL = "overall"


@dataclass(frozen=True)
class Predicted:
    """What a row of the table predicts for the rows of a split, by seed.

    Attributes:
      raw: as the models give it.
      shown: calibrated, where the runs have a calibration.
    """

    raw: list[EvalRows]
    shown: list[EvalRows]

    @property
    def changed(self) -> bool:
        """Whether a calibration changes them."""
        return self.shown is not self.raw


def read_rows(prepared: PreparedSet, split: str, scenarios: Sequence[str]) -> EvalRows:
    """The rows of some scenarios of a split, for which nothing is predicted yet."""
    schema = prepared.schema
    blocks, parts = prepared.blocks([split], scenarios, ("labels", "weights", "scenario", "keys", "query_ids")), []
    for i in range(len(blocks)):
        block = blocks[i]
        told = np.asarray(query_scenarios(schema, block.pop("query_ids")))
        nothing, scenario = np.zeros((len(told), 0), np.float32), block.pop("scenario")[:, 0]
        parts.append(EvalRows(schema, tuple(scenarios), nothing, scenario=scenario, query_scenario=told, **block))
    return EvalRows.concat(parts)


def scopes(rows: EvalRows) -> dict[str, np.ndarray]:
    """Masks bool `[N]` of all rows, then of each scenario if there are several."""
    several = rows.scenarios if len(rows.scenarios) > 1 else ()
    return {OVERALL: np.ones(len(rows), bool), **{name: rows.in_scenario(name) for name in several}}


def read_predicted(plan: Plan, done: Mapping[str, Done], out: Path, split: str, rows: EvalRows) -> list[Predicted]:
    """By row of the table what its runs have stored for a split. Raises `CompareError` as `read_predictions` does."""
    raw: dict[str, np.ndarray] = {}
    shown: dict[str, np.ndarray] = {}
    assert rows.query_scenario is not None
    for run in plan.runs:
        folder = out / "runs" / run.name
        logits = raw[run.name] = shown[run.name] = read_predictions(folder, split, done[run.name])
        calibration = read_fitted(folder, done[run.name], rows.schema)
        if calibration is not None:
            mine = np.any([rows.in_scenario(s) for s in run.config.data.scenarios or rows.scenarios], axis=0)
            shown[run.name] = calibrated_logits(logits, rows.query_scenario[mine], rows.schema, calibration)
    return [_of_row(row, raw, shown, rows) for row in plan.rows]


def _of_row(row: Row, raw: Mapping[str, np.ndarray], shown: Mapping[str, np.ndarray], rows: EvalRows) -> Predicted:
    of_seeds = [_join(runs, raw, rows) for runs in row.seeds]
    if all(shown[run.name] is raw[run.name] for run in row.runs):
        return Predicted(of_seeds, of_seeds)
    return Predicted(of_seeds, [_join(runs, shown, rows) for runs in row.seeds])


def _join(runs: Sequence[Run], logits: Mapping[str, np.ndarray], rows: EvalRows) -> EvalRows:
    """The rows with the logits of the one run, or for those of each scenario with the logits of its run.

    `logits`: by name of a run float32 `[n, H]`, of the rows of its scenarios in stored order.
    """
    if len(runs) == 1:
        return rows.with_logits(logits[runs[0].name])
    out = np.full((len(rows), logits[runs[0].name].shape[1]), np.nan, np.float32)
    for run in runs:
        (scenario,) = run.config.data.scenarios
        out[rows.in_scenario(scenario)] = logits[run.name]
    return rows.with_logits(out)
