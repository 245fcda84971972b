"""Predictions: every row of a split once, with what happened beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from input_pipeline.batches import eval_batches
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.metrics.rows import EvalRows
from tt_jax.models.scenario import query_scenarios
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.runs.finite import DivergedError
from tt_jax.runs.interrupt import Interrupted
from tt_jax.schema import Schema

INPUT_ARRAYS = ("query_ids", "ad_ids", "query_floats", "ad_floats")  # what a prediction reads
Predict = Callable[[Params, Params, dict[str, Any]], jax.Array]


def make_predict(model: TwoTower) -> Predict:
    """`(params, tables, arrays) -> logits [B, H]`, jitted."""
    return jax.jit(model.predict)


def predict_rows(
    predict: Predict,
    weights: tuple[Params, Params],
    part: Part,
    scenarios: Sequence[str],
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvalRows:
    """The rows of some splits of a prepared set with their predictions.

    Args:
      predict: of `make_predict`.
      weights: parameters and tables of the model.
      scenarios: those to read; empty = all.
      batch_size: rows per call; the last batch is padded to it.
      should_stop: asked before every batch.

    Raises:
      Interrupted: `should_stop` answered True.
      PreparedError: there is nothing to read.
      DivergedError: the model's logits are not numbers.
    """
    prepared, found = part.prepared, []
    for split in part.splits:
        for batch, rows in eval_batches(prepared, split, scenarios, batch_size):
            if should_stop():
                raise Interrupted
            logits_BH = predict(*weights, {name: batch[name] for name in INPUT_ARRAYS})
            found.append(eval_rows(prepared.schema, scenarios, finite_rows(logits_BH, rows, prepared, split), batch))
    return EvalRows.concat(found)


def eval_rows(
    schema: Schema, scenarios: Sequence[str], logits_NH: np.ndarray, batch: dict[str, np.ndarray]
) -> EvalRows:
    """The first N rows of a batch with their logits, float32, not calibrated; the rest of the batch is padding.

    `scenarios`: those that were asked for; empty = all.
    """
    n = len(logits_NH)
    return EvalRows(
        schema=schema,
        scenarios=tuple(scenarios or schema.scenarios),
        logits=logits_NH,
        labels=batch["labels"][:n],
        weights=batch["weights"][:n],
        scenario=batch["scenario"][:n, 0],
        keys=batch["keys"][:n],
        query_scenario=np.asarray(query_scenarios(schema, batch["query_ids"][:n])),
    )


def finite_rows(logits_BH: Any, rows: int, prepared: PreparedSet, split: str) -> np.ndarray:
    """The first `rows` of the logits of a batch, on the host. Raises `DivergedError` where one is NaN or infinite."""
    found = np.asarray(jax.device_get(logits_BH))[:rows]
    if wrong := rows - int(np.isfinite(found).all(axis=1).sum()):
        raise DivergedError(
            f"{prepared.root}: logits of {wrong} of {rows} rows of the split {split!r} are NaN or infinite: the weights"
            " are too large; a lower learning rate may help"
        )
    return found
