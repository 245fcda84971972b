"""Evaluation: every row of a split once, exact metrics per task, overall and per scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import expit

from input_pipeline.batches import eval_batches
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.metrics import EvalState
from tt_jax.metrics.predictions import Predictions
from tt_jax.metrics.streaming import Hours
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
    params: Params,
    tables: Params,
    prepared: PreparedSet,
    split: str,
    scenarios: Sequence[str],
    batch_size: int,
) -> Predictions:
    """The predictions of a split, kept whole on the host. Arguments and errors are those of `evaluate`."""
    batches = _batches(predict, params, tables, prepared, split, scenarios, batch_size)
    return Predictions.join([predictions(prepared.schema, *found) for found in batches])


def predictions(schema: Schema, logits_BH: Any, batch: dict[str, np.ndarray], rows: int) -> Predictions:
    """Those of the first `rows` of a batch; the rest is padding. `logits_BH`: float32 `[B, H]`, not calibrated."""
    query_scenario = np.asarray(query_scenarios(schema, batch["query_ids"][:rows]))
    return Predictions.of_batch(logits_BH, query_scenario, batch, rows)


def evaluate(
    predict: Predict,
    params: Params,
    tables: Params,
    part: Part,
    scenarios: Sequence[str],
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
    hours: Hours | None = None,
) -> dict[str, Any]:
    """The report of `tt_jax.metrics.EvalState.report` on some splits of a prepared set; each task by its head.

    Args:
      predict: of `make_predict`.
      scenarios: those to read; empty = all.
      batch_size: rows per call; the last batch is padded to it.
      should_stop: asked before every batch.
      hours: gets the rows too, by the times of the log, which the schema must have.

    Raises:
      Interrupted: `should_stop` answered True.
      PreparedError: there is nothing to read.
      DivergedError: the model's logits are not numbers.
    """
    schema = part.prepared.schema
    state = EvalState({t.name: t.kind for t in schema.tasks}, scenarios or schema.scenarios)
    place = np.array([list(state.scenarios).index(s) if s in state.scenarios else -1 for s in schema.scenarios])
    user_column = schema.key_columns.index(schema.user_id) if schema.user_id else None
    batches = (
        found
        for split in part.splits
        for found in _batches(predict, params, tables, part.prepared, split, scenarios, batch_size, should_stop)
    )
    for logits_BH, batch, rows in batches:
        of_rows = (
            expit(logits_BH)[:, schema.head_of_task],
            batch["labels"][:rows],
            batch["weights"][:rows],
            place[batch["scenario"][:rows, 0]],
        )
        state.append(*of_rows, None if user_column is None else batch["keys"][:rows, user_column])
        if hours is not None:
            hours.append(*of_rows, batch["keys"][:rows, schema.key_columns.index(schema.time)])
    return state.report()


def finite_rows(logits_BH: Any, rows: int, prepared: PreparedSet, split: str) -> np.ndarray:
    """The first `rows` of the logits of a batch, on the host. Raises `DivergedError` where one is NaN or infinite."""
    found = np.asarray(jax.device_get(logits_BH))[:rows]
    if wrong := rows - int(np.isfinite(found).all(axis=1).sum()):
        raise DivergedError(
            f"{prepared.root}: logits of {wrong} of {rows} rows of the split {split!r} are NaN or infinite: the weights"
            " are too large; a lower learning rate may help"
        )
    return found


def _batches(
    predict: Predict,
    params: Params,
    tables: Params,
    prepared: PreparedSet,
    split: str,
    scenarios: Sequence[str],
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], int]]:
    """Logits `[rows, H]`, the batch that they belong to, and its rows that are real."""
    for batch, rows in eval_batches(prepared, split, scenarios, batch_size):
        if should_stop():
            raise Interrupted
        logits_BH = finite_rows(
            predict(params, tables, {name: batch[name] for name in INPUT_ARRAYS}), rows, prepared, split
        )
        yield logits_BH, batch, rows
