"""Gate diagnostics of a model on a split: `tt_jax.metrics.gates`, by mixture and scenario, over every row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.blocks import PreparedSet
from input_pipeline.pipeline import eval_batches
from tt_jax.metrics.gates import GateSums, batch_sums, gate_metrics
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.training.evaluate import INPUT_ARRAYS


def gate_report(
    model: TwoTower,
    params: Params,
    tables: Params,
    prepared: PreparedSet,
    split: str,
    scenarios: Sequence[str],
    batch_size: int,
) -> dict[str, Any]:
    """Mixture (`query`, `ad`, or `pair` of a heavy ranker) -> `overall` and `scenarios` -> diagnostics by head.

    Empty for a model without gates. Arguments and errors are those of `tt_jax.training.evaluate.evaluate`.
    """
    schema = prepared.schema
    found: dict[str, GateSums] = {}
    sums = jax.jit(partial(_sums, model))
    for batch, rows in eval_batches(prepared, split, scenarios, batch_size):
        scenario_B = np.where(np.arange(batch_size) < rows, batch["scenario"][:, 0], -1)  # padding counts nothing
        part = sums(params, tables, {name: batch[name] for name in INPUT_ARRAYS}, scenario_B.astype(np.int32))
        # Summed on the host, in float64.
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
        found = jax.tree.map(np.add, found, part) if found else part
        if not found:
            return {}
    names = [s for s in schema.scenarios if not scenarios or s in scenarios]
    return {mixture: _report(sums, schema.scenarios, names, schema.heads) for mixture, sums in found.items()}


def _sums(model: TwoTower, params: Params, tables: Params, arrays: Any, scenario_B: jax.Array) -> dict[str, GateSums]:
    gates = model.gates(params, tables, {name: jnp.asarray(a) for name, a in arrays.items()})
    return {mixture: batch_sums(g, scenario_B, len(model.schema.scenarios)) for mixture, g in gates.items()}


def _report(sums: Any, scenarios: Sequence[str], names: Sequence[str], heads: Sequence[str]) -> dict[str, Any]:
    place = [list(scenarios).index(name) for name in names]
    return {
        "overall": gate_metrics(float(sums.rows.sum()), sums.gate.sum(axis=0), sums.entropy.sum(axis=0), heads),
        "scenarios": {
            name: gate_metrics(float(sums.rows[s]), sums.gate[s], sums.entropy[s], heads)
            for name, s in zip(names, place, strict=True)
        },
    }
