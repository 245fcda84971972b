"""Gate diagnostics of a model on a split: `tt_jax.metrics.gates`, by mixture and scenario, over every row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from input_pipeline.batches import eval_batches
from input_pipeline.blocks.prepared_set import Part
from tt_jax.evaluation.predict import INPUT_ARRAYS, eval_rows, finite_rows
from tt_jax.metrics.gates import GateSums, batch_sums, gate_metrics
from tt_jax.metrics.rows import EvalRows
from tt_jax.models.two_tower import Params, TwoTower


def predict_with_gates(
    model: TwoTower, weights: tuple[Params, Params], part: Part, scenarios: Sequence[str], batch_size: int
) -> tuple[EvalRows, dict[str, Any]]:
    """What `tt_jax.evaluation.predict.predict_rows` gives, and of the same pass over the rows the gate diagnostics.

    They are mixture (`query`, `ad`, or `pair` of a heavy ranker) -> `experts`, names of what the gates share out among,
    and `overall` and `scenarios` -> diagnostics by head. Empty for a model without gates. Arguments and errors are
    those of that function.
    """
    prepared, parts = part.prepared, []
    found: dict[str, GateSums] = {}
    for split in part.splits:
        for batch, rows in eval_batches(prepared, split, scenarios, batch_size):
            scenario_B = np.where(np.arange(batch_size) < rows, batch["scenario"][:, 0], -1)  # padding counts nothing
            arrays = {name: batch[name] for name in INPUT_ARRAYS}
            logits_BH, sums = jax.device_get(_run(model, *weights, arrays, scenario_B.astype(np.int32)))
            parts.append(eval_rows(prepared.schema, scenarios, finite_rows(logits_BH, rows, prepared, split), batch))
            sums = jax.tree.map(lambda x: x.astype(np.float64), sums)  # summed on the host
            found = jax.tree.map(np.add, found, sums) if found else sums
    names = [s for s in prepared.schema.scenarios if not scenarios or s in scenarios]
    report = {mixture: _report(sums, model, names) for mixture, sums in found.items()}
    return EvalRows.concat(parts), report


@partial(jax.jit, static_argnums=0)
def _run(
    model: TwoTower, params: Params, tables: Params, arrays: Any, scenario_B: jax.Array
) -> tuple[jax.Array, dict[str, GateSums]]:
    """Logits, and the sums of the gates: XLA sees that both begin with the same inputs."""
    gates = model.gates(params, tables, arrays)
    sums = {mixture: batch_sums(g, scenario_B, len(model.schema.scenarios)) for mixture, g in gates.items()}
    return model.predict(params, tables, arrays), sums


def _report(sums: Any, model: TwoTower, scenarios: Sequence[str]) -> dict[str, Any]:
    heads, place = model.schema.heads, {name: s for s, name in enumerate(model.schema.scenarios)}
    return {
        "experts": list(model.experts),
        "overall": gate_metrics(float(sums.rows.sum()), sums.gate.sum(axis=0), sums.entropy.sum(axis=0), heads),
        "scenarios": {
            name: gate_metrics(float(sums.rows[place[name]]), sums.gate[place[name]], sums.entropy[place[name]], heads)
            for name in scenarios
        },
    }
