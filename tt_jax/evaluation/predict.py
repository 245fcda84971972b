"""Evaluation: every row of a split once, exact metrics per task, overall and per scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from input_pipeline.batches import eval_batches
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.metrics.rows import EvalRows
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
) -> EvalRows:
    """The rows of a split with their predictions. Arguments and errors are those of `evaluate`."""
    batches = _batches(predict, params, tables, prepared, split, scenarios, batch_size)
    return EvalRows.concat([eval_rows(prepared.schema, scenarios, logits, batch) for logits, batch in batches])


def eval_rows(
    schema: Schema,
    scenarios: Sequence[str],
    logits_NH: np.ndarray,
    batch: dict[str, np.ndarray],
    for_calibration: bool = True,
) -> EvalRows:
    """The first N rows of a batch with their logits, float32, not calibrated; the rest of the batch is padding.

    Args:
      scenarios: those that were asked for; empty = all.
      for_calibration: whether the rows have a `query_scenario`.
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
        query_scenario=np.asarray(query_scenarios(schema, batch["query_ids"][:n])) if for_calibration else None,
    )


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
    """The report of `tt_jax.metrics.EvalRows.report` on some splits of a prepared set; each task by its head.

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
    schema, parts = part.prepared.schema, []
    names = list(scenarios or schema.scenarios)
    place = np.array([names.index(s) if s in names else -1 for s in schema.scenarios])
    for split in part.splits:
        found = _batches(predict, params, tables, part.prepared, split, scenarios, batch_size, should_stop)
        for logits_NH, batch in found:
            rows = eval_rows(schema, scenarios, logits_NH, batch, for_calibration=False)
            parts.append(rows)
            if hours is not None:
                of_tasks = rows.probabilities[:, schema.head_of_task]
                hours.append(of_tasks, rows.labels, rows.weights, place[rows.scenario], rows.key(schema.time))
    return EvalRows.concat(parts).report()


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
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Logits `[N, H]` of the rows of a batch that are real, and the batch."""
    for batch, rows in eval_batches(prepared, split, scenarios, batch_size):
        if should_stop():
            raise Interrupted
        logits_NH = finite_rows(
            predict(params, tables, {name: batch[name] for name in INPUT_ARRAYS}), rows, prepared, split
        )
        yield logits_NH, batch
