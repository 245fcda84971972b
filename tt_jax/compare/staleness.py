"""What a stale ad index costs: the newest query tower on ad vectors of earlier checkpoints of the same run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.evaluation.full_report import funnel_of
from tt_jax.evaluation.predict import Predict, predict_rows
from tt_jax.models.two_tower import TwoTower
from tt_jax.training.trained import Trained


def make_mixed_predict(model: TwoTower) -> Predict:
    """`(params, tables, arrays) -> logits [B, H]`, jitted, where params and tables are of a `pair`."""

    def predict(params: Any, tables: Any, arrays: dict[str, Array]) -> Array:
        query_BTD, ad_BTD = (
            model.embed(params[t], tables[t], t, arrays[f"{t}_ids"], arrays[f"{t}_floats"]) for t in ("query", "ad")
        )
        return jnp.sum(query_BTD * ad_BTD, axis=-1) + params["query"]["bias"]

    return jax.jit(predict)


def pair(query: Trained, ad: Trained) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(params, tables)` for a mixed prediction: the query tower and the bias of one model, the ad tower of another."""
    return {"query": query.params, "ad": ad.params}, {"query": query.tables, "ad": ad.tables}


def skew_rows(saved: Iterable[Trained], prepared: PreparedSet, split: str) -> Iterator[dict[str, Any]]:
    """For each model of `saved`, the newest first, the metrics of its ad vectors under the newest query tower.

    Yields `behind`, how many saves the ad tower is behind; `step`, its step; `tasks`, the metrics of all rows of the
    run's scenarios, not calibrated; `funnel`, see `tt_jax.evaluation.full_report.funnel_of`, where the split has
    candidates with a teacher's scores. Raises `PreparedError` where there is nothing to read.
    """
    newest = predict = None
    for behind, old in enumerate(saved):
        newest, config = newest or old, old.record.config
        predict = predict or make_mixed_predict(newest.model)
        part, data = Part(prepared, (split,)), config.data
        rows = predict_rows(predict, pair(newest, old), part, data.scenarios, data.eval_batch_size)
        funnel = funnel_of(rows, config.utility)
        yield {"behind": behind, "step": old.step, "tasks": rows.metrics(), **({"funnel": funnel} if funnel else {})}
