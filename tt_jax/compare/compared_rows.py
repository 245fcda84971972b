"""The rows that a comparison is made on, and what a row of its table predicts for them.

Shapes: n rows of a split, T tasks, H heads, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from input_pipeline.blocks.prepared_set import PreparedSet
from tt_jax.calibration.calibrate import calibrated_logits
from tt_jax.compare.plan import Plan, Row, Run
from tt_jax.compare.train_models import Done, read_fitted, read_predictions
from tt_jax.metrics.ranking import user_codes
from tt_jax.models.scenario import query_scenarios
from tt_jax.schema import Schema

OVERALL = "overall"


@dataclass(frozen=True)
class Rows:
    """What happened, by row in stored order.

    Attributes:
      labels, weights: float32 `[n, T]`, as in a prepared set.
      scenario: int `[n]`, index into `scenarios`.
      scenarios: those that the rows are of.
      query_scenario: int32 `[n]`, see `tt_jax.models.scenario.query_scenarios`.
      users: int64 `[n]`, of `tt_jax.metrics.ranking.user_codes`; None if the logs have no user.
      requests: int64 `[n]`; None if the logs have none.
      ads: int64 `[n]`.
    """

    labels: np.ndarray
    weights: np.ndarray
    scenario: np.ndarray
    scenarios: tuple[str, ...]
    query_scenario: np.ndarray
    users: np.ndarray | None
    requests: np.ndarray | None
    ads: np.ndarray

    @property
    def clusters(self) -> np.ndarray:
        """int64 `[n]`, whose rows are not independent of one another: users, else requests; -1 = on its own."""
        known = self.requests if self.users is None else self.users
        return np.full(len(self.labels), -1, np.int64) if known is None else known

    def of_scenario(self, name: str) -> np.ndarray:
        """Row numbers of a scenario."""
        return np.flatnonzero(self.scenario == self.scenarios.index(name))

    def scopes(self) -> dict[str, np.ndarray]:
        """Row numbers of all, then of each scenario."""
        parts = {name: self.of_scenario(name) for name in self.scenarios}
        return {OVERALL: np.arange(len(self.labels)), **(parts if len(parts) > 1 else {})}


@dataclass(frozen=True)
class Predicted:
    """What a row of the table predicts for the rows of a split: probabilities float32 `[n, H]`, by seed.

    Attributes:
      raw: as the models give them.
      shown: calibrated, where the runs have a calibration.
    """

    raw: list[np.ndarray]
    shown: list[np.ndarray]

    @property
    def changed(self) -> bool:
        """Whether a calibration changes them."""
        return self.shown is not self.raw


def read_rows(prepared: PreparedSet, split: str, scenarios: Sequence[str]) -> Rows:
    """The rows of some scenarios of a split."""
    schema = prepared.schema
    blocks = prepared.blocks([split], scenarios, ("labels", "weights", "scenario", "keys", "query_ids"))
    parts = []
    for i in range(len(blocks)):
        block = blocks[i]
        block["query_scenario"] = np.asarray(query_scenarios(schema, block.pop("query_ids")))
        parts.append(block)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    place = np.array([scenarios.index(name) if name in scenarios else -1 for name in schema.scenarios])
    keys = {name: found["keys"][:, i] for i, name in enumerate(schema.key_columns)}
    return Rows(
        labels=found["labels"],
        weights=found["weights"],
        scenario=place[found["scenario"][:, 0]],
        scenarios=tuple(scenarios),
        query_scenario=found["query_scenario"],
        users=user_codes(keys[schema.user_id]) if schema.user_id else None,
        requests=keys[schema.request_id] if schema.request_id else None,
        ads=keys[schema.ad_id],
    )


def read_predicted(
    plan: Plan, done: Mapping[str, Done], out: Path, split: str, rows: Rows, schema: Schema
) -> list[Predicted]:
    """By row of the table what its runs have stored for a split. Raises `CompareError` as `read_predictions` does."""
    raw: dict[str, np.ndarray] = {}
    shown: dict[str, np.ndarray] = {}
    for run in plan.runs:
        folder = out / "runs" / run.name
        logits = read_predictions(folder, split, done[run.name])
        raw[run.name] = shown[run.name] = expit(logits)
        calibration = read_fitted(folder, done[run.name], schema)
        if calibration is not None:
            mine = np.isin(
                rows.scenario, [rows.scenarios.index(s) for s in run.config.data.scenarios or rows.scenarios]
            )
            shown[run.name] = expit(calibrated_logits(logits, rows.query_scenario[mine], schema, calibration))
    return [_of_row(row, raw, shown, rows) for row in plan.rows]


def _of_row(row: Row, raw: Mapping[str, np.ndarray], shown: Mapping[str, np.ndarray], rows: Rows) -> Predicted:
    of_seeds = [join_predictions(runs, raw, rows) for runs in row.seeds]
    if all(shown[run.name] is raw[run.name] for run in row.runs):
        return Predicted(of_seeds, of_seeds)
    return Predicted(of_seeds, [join_predictions(runs, shown, rows) for runs in row.seeds])


def join_predictions(runs: Sequence[Run], predictions: Mapping[str, np.ndarray], rows: Rows) -> np.ndarray:
    """Probabilities `[n, H]`: of the one run, or for the rows of each scenario those of the run of that scenario.

    `predictions`: by name of a run, of the rows of its scenarios in stored order.
    """
    if len(runs) == 1:
        return predictions[runs[0].name]
    out = np.full((len(rows.labels), predictions[runs[0].name].shape[1]), np.nan, np.float32)
    for run in runs:
        (scenario,) = run.config.data.scenarios
        out[rows.of_scenario(scenario)] = predictions[run.name]
    return out
