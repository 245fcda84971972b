"""A reference for the training step: gradients of whole tables, Adagrad and AdamW in NumPy float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tt_jax.config import Config
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, Schema
from tt_jax.training.step import TrainState


@functools.cache
def dense_gradient(model: TwoTower) -> Any:
    """Gradient, by parameters and whole tables, of the tasks' weighted sum of mean cross-entropies of labelled rows."""

    def loss(params: Any, tables: Any, batch: Any) -> jax.Array:
        logits, total = model.predict(params, tables, batch), jnp.float32(0)
        logits = logits[:, np.array(model.schema.head_of_task)]
        for t, task in enumerate(model.schema.tasks):
            labelled = ~jnp.isnan(batch["labels"][:, t])
            y, w = (jnp.where(labelled, batch[name][:, t], jnp.float32(0)) for name in ("labels", "weights"))
            losses = -y * jax.nn.log_sigmoid(logits[:, t]) - (1 - y) * jax.nn.log_sigmoid(-logits[:, t])
            total += jnp.float32(task.weight) * (w * losses).sum() / w.sum()
        return total

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


def rate_at(step: int, steps: int, run: Config) -> float:
    """Linear over the w steps of the warm-up from 1/w to 1, then a cosine to the final fraction."""
    warm = int(run.optimizer.warmup * steps)
    if step < warm:
        return 1 / warm + (1 - 1 / warm) * step / warm
    cosine = 0.5 * (1 + np.cos(np.pi * (step - warm) / (steps - warm)))
    return run.optimizer.final_fraction + (1 - run.optimizer.final_fraction) * cosine


def touched_rows(model: TwoTower, batch: Any, name: str) -> np.ndarray:
    rows = model.rows({}, batch)
    return np.concatenate([np.asarray(rows[t][name]).ravel() for t in TOWERS])


def dense_training(
    run: Config, schema: Schema, state: TrainState, data: list[dict[str, np.ndarray]], steps: int
) -> tuple[Any, Any, Any]:
    """Parameters, tables and accumulators after the batches, the first of a run of `steps` that starts with `state`."""
    model, o = TwoTower(schema, run.model, "f32"), run.optimizer
    params, tables = jax.tree.map(lambda v: np.asarray(v, np.float64), (state.params, state.tables))
    accumulators = {name: np.zeros(len(table)) for name, table in tables.items()}
    first, second = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    for step, batch in enumerate(data):
        f32 = jax.tree.map(lambda x: jnp.asarray(x.astype(np.float32)), (params, tables))
        by_params, by_tables = jax.tree.map(lambda g: np.asarray(g, np.float64), dense_gradient(model)(*f32, batch))
        norm, rate = np.sqrt(sum((g**2).sum() for g in by_params.values())), rate_at(step, steps, run)
        for name, p in params.items():
            g = by_params[name] * min(1.0, o.clip_norm / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            adam = first[name] / (1 - 0.9 ** (step + 1)) / (np.sqrt(second[name] / (1 - 0.999 ** (step + 1))) + 1e-8)
            params[name] = p - o.learning_rate * rate * (adam + (o.weight_decay * p if p.ndim > 1 else 0.0))
        for name, table in tables.items():
            rows = touched_rows(model, batch, name)
            inside = np.unique(rows[rows < len(table)]).astype(np.int32)
            tables[name], accumulators[name] = adagrad(
                table, accumulators[name], inside, by_tables[name][inside],
                o.embedding_learning_rate * rate, o.embedding_decay,
            )  # fmt: skip
    return params, tables, accumulators


def adagrad(values, accumulator, rows, gradients, rate, decay=0.0):
    """Every row of the table, float64: gradients scattered, their mean square accumulated, the scaled step taken."""
    values, accumulator = values.astype(np.float64), accumulator.astype(np.float64)
    inside = rows < len(values)
    total = np.zeros_like(values)
    np.add.at(total, rows[inside], gradients[inside].astype(np.float64))
    touched = np.isin(np.arange(len(values)), rows)
    total[touched] += decay * values[touched]
    accumulator = accumulator + (total**2).mean(axis=1)
    return values - rate * total / np.sqrt(accumulator + 1e-8)[:, None], accumulator
