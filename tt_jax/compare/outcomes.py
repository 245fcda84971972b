"""The rows that a comparison is made on, and what a row of its table predicts for them.

Shapes: n rows of a split, T tasks, H heads, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline.blocks import PreparedSet
from tt_jax.compare.plan import Run
from tt_jax.metrics.ranking import user_codes

OVERALL = "overall"


@dataclass(frozen=True)
class Rows:
    """What happened, by row in stored order.

    Attributes:
      labels, weights: float32 `[n, T]`, as in a prepared set.
      scenario: int `[n]`, index into `scenarios`.
      scenarios: those that the rows are of.
      users: int64 `[n]`, of `tt_jax.metrics.ranking.user_codes`; None if the logs have no user.
      clusters: int64 `[n]`, whose rows are not independent of one another: users, else requests.
    """

    labels: np.ndarray
    weights: np.ndarray
    scenario: np.ndarray
    scenarios: tuple[str, ...]
    users: np.ndarray | None
    clusters: np.ndarray

    def scopes(self) -> dict[str, np.ndarray]:
        """Row numbers of all, then of each scenario."""
        parts = {name: np.flatnonzero(self.scenario == i) for i, name in enumerate(self.scenarios)}
        return {OVERALL: np.arange(len(self.labels)), **(parts if len(parts) > 1 else {})}


def read_rows(prepared: PreparedSet, split: str, scenarios: Sequence[str]) -> Rows:
    """The rows of some scenarios of a split."""
    blocks = prepared.blocks([split], scenarios, ("labels", "weights", "scenario", "keys"))
    parts = [blocks[i] for i in range(len(blocks))]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    schema = prepared.schema
    place = np.array([scenarios.index(name) if name in scenarios else -1 for name in schema.scenarios])
    keys = {name: found["keys"][:, i] for i, name in enumerate(schema.key_columns)}
    users = user_codes(keys[schema.user_id]) if schema.user_id else None
    requests = keys[schema.request_id] if schema.request_id else np.full(len(found["labels"]), -1, np.int64)
    return Rows(
        labels=found["labels"],
        weights=found["weights"],
        scenario=place[found["scenario"][:, 0]],
        scenarios=tuple(scenarios),
        users=users,
        clusters=requests if users is None else users,
    )


def join_predictions(runs: Sequence[Run], predictions: Mapping[str, np.ndarray], rows: Rows) -> np.ndarray:
    """Probabilities `[n, H]`: of the one run, or for the rows of each scenario those of the run of that scenario.

    `predictions`: by name of a run, of the rows of its scenarios in stored order.
    """
    if len(runs) == 1:
        return predictions[runs[0].name]
    out = np.full((len(rows.labels), predictions[runs[0].name].shape[1]), np.nan, np.float32)
    for run in runs:
        (scenario,) = run.config.data.scenarios
        out[rows.scenario == rows.scenarios.index(scenario)] = predictions[run.name]
    return out
