"""The Bayes optimum on AdWorld: the metrics of a model that predicts the true probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from input_pipeline.adworld.simulate import ORACLE_COLUMNS, AdWorldConfig, days_of, schema, simulate
from tt_jax.features.encoder import Encoder
from tt_jax.metrics import EvalState


def bayes_report(config: AdWorldConfig, split: str) -> dict[str, Any]:
    """The report of `tt_jax.metrics.EvalState.report` on the impressions of a split, for the true probabilities."""
    world_schema = schema(config)
    encoder = Encoder(world_schema)
    state = EvalState({t.name: t.kind for t in world_schema.tasks}, world_schema.scenarios)
    user_column = world_schema.key_columns.index(world_schema.user_id)
    for batch in simulate(config, ("impressions",), days_of(config, split)):
        found = encoder.encode(dict(zip(batch.table.column_names, batch.table.columns, strict=True)), towers=()).arrays
        of_heads = np.stack([batch.oracle.column(name).to_numpy() for name in ORACLE_COLUMNS], 1)
        users = found["keys"][:, user_column]
        state.append(
            of_heads[:, world_schema.head_of_task], found["labels"], found["weights"], found["scenario"][:, 0], users
        )
    return state.report()
