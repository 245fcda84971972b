"""The Bayes optimum on AdWorld: the metrics of a model that predicts the true probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logit

from input_pipeline.adworld.simulate import ORACLE_COLUMNS, AdWorldConfig, days_of, schema, simulate
from tt_jax.features.encoder import Encoder
from tt_jax.metrics.rows import EvalRows


def bayes_report(config: AdWorldConfig, split: str) -> dict[str, Any]:
    """The report of `tt_jax.metrics.EvalRows.report` on the impressions of a split, for the true probabilities."""
    world_schema = schema(config)
    encoder = Encoder(world_schema)
    parts = []
    for batch in simulate(config, ("impressions",), days_of(config, split)):
        found = encoder.encode(dict(zip(batch.table.column_names, batch.table.columns, strict=True)), towers=()).arrays
        p = np.stack([batch.oracle.column(name).to_numpy() for name in ORACLE_COLUMNS], 1)
        columns = {name: found[name] for name in ("labels", "weights", "keys")} | {"scenario": found["scenario"][:, 0]}
        logits = logit(p.astype(np.float64))  # in float64, so that the probabilities come back to the bit
        parts.append(EvalRows(world_schema, world_schema.scenarios, logits, **columns))
    return EvalRows.concat(parts).report()
