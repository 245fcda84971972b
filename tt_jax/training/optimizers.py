"""Both optimizers of a run: AdamW for the dense part, by optax, and row-wise Adagrad for the embedding rows.

Row-wise Adagrad updates the rows that a batch touched: its cost follows those rows, never the table. It keeps one
accumulator per row, the running sum of the mean squared gradient of the row (Gupta et al., arXiv 1409.3485; the default
of DLRM). A row that occurs n times in a batch is updated once, with its summed gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from tt_jax.config import OptimizerConfig
from tt_jax.models.two_tower import Params

EPSILON = 1e-8  # of row-wise Adagrad, below the root


def schedule(config: OptimizerConfig, total_steps: int, start: int = 0) -> optax.Schedule:
    """Multiplier of both peak learning rates at a step: linear to 1 over the warm-up, a cosine to `final_fraction`.

    A warm-up of w steps begins with 1/w, so that its first step learns, and reaches 1 after w. `start`: steps done
    before the `total_steps` of the schedule.
    """
    if not config.warmup and config.final_fraction == 1:
        return lambda step: jnp.ones((), jnp.float32)  # the same program for every set that a run goes on with
    steps = max(1, total_steps)
    warmup = min(int(config.warmup * steps), steps - 1)  # optax wants a step of the cosine
    found = optax.warmup_cosine_decay_schedule(
        init_value=1 / max(1, warmup),
        peak_value=1.0,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=config.final_fraction,
    )
    return lambda step: found(jnp.asarray(step - start, jnp.float32))  # optax mixes an int32 step with floats


def dense_optimizer(config: OptimizerConfig, total_steps: int, start: int = 0) -> optax.GradientTransformation:
    """Clipping, then AdamW; weight decay on matrices only."""
    multiplier = schedule(config, total_steps, start)
    adamw = optax.adamw(
        lambda step: config.learning_rate * multiplier(step),
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def update_dense(
    optimizer: optax.GradientTransformation, gradients: Params, state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """New parameters and optimizer state."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 step count
        updates, state = optimizer.update(gradients, state, params)
    changes: Any = updates  # a dict as `gradients` is, which optax's type does not say
    return {name: params[name] + change for name, change in changes.items()}, state


class Table(NamedTuple):
    """A table float32 `[rows, dim]` and its accumulator float32 `[rows]`."""

    values: Array
    accumulator: Array


class RowGradients(NamedTuple):
    """Summed gradients of distinct rows, ascending; entries past the last of them name rows past the table's end."""

    rows: Array  # int32 [M]
    gradients: Array  # float32 [M, dim]


def sum_duplicates(rows_M: Array, gradients_Md: Array, past_end: int) -> RowGradients:
    """One entry per distinct row, in ascending order. Rows of `past_end` (empty slots) stay past the end.

    Raises ValueError where the numbers past the end would not fit an int32.
    """
    m = rows_M.shape[0]
    if past_end + 1 + m > 2**31 - 1:
        raise ValueError(f"{m} ids in a batch and {past_end} table rows: expected fewer than 2^31 together")
    ascending, order = _sorted(rows_M)
    segment = segments(ascending)
    summed = jax.ops.segment_sum(gradients_Md[order], segment, num_segments=m, indices_are_sorted=True)
    # Unused entries get distinct rows past the end, so that every index is unique and still ascending.
    unused = past_end + 1 + jnp.arange(m, dtype=jnp.int32)
    return RowGradients(unused.at[segment].set(ascending, indices_are_sorted=True), summed)


def segments(ascending_M: Array) -> Array:
    """For each of these int32 in ascending order, how many smaller ones there are, each counted once: int32 `[M]`."""
    starts = jnp.concatenate([jnp.ones((1,), bool), ascending_M[1:] != ascending_M[:-1]])
    return jnp.cumsum(starts.astype(jnp.int32)) - 1


def _sorted(rows_M: Array) -> tuple[Array, Array]:
    """The rows in ascending order, and where each stood; equal rows stay in order.

    Row and place are packed into one 64-bit key: XLA sorts one array of keys 3.5 times as fast as keys with a payload.
    """
    with jax.enable_x64(True):
        keys = (rows_M.astype(jnp.int64) << 32) | lax.iota(jnp.int64, rows_M.shape[0])
        keys = lax.sort(keys, is_stable=False)
        return (keys >> 32).astype(jnp.int32), (keys & 0xFFFFFFFF).astype(jnp.int32)


def update_rows(
    table: Table,
    rows_M: Array,
    gradients_Md: Array,
    learning_rate: Array,
    decay: float = 0.0,
    columns_over: tuple[str, ...] = (),
) -> Table:
    """One step of row-wise Adagrad.

    Args:
      table: donated by the caller's jit, so that the scatters work in place.
      rows_M: int32, with duplicates; the table's row count marks an empty slot, whose gradient is ignored.
      gradients_Md: float32, gradient with respect to each gathered row.
      learning_rate: scalar.
      decay: L2 penalty, `decay * row` is added to the gradient of the rows touched.
      columns_over: inside a `shard_map`, the mesh axes that the columns are split over; the accumulator is of them all.
    """
    past_end = table.values.shape[0]
    rows, gradients = sum_duplicates(rows_M, gradients_Md, past_end)
    if decay:
        gradients += decay * table.values.at[rows].get(mode="fill", fill_value=0.0)
    old = table.accumulator.at[rows].get(mode="fill", fill_value=0.0, indices_are_sorted=True, unique_indices=True)
    mean_square = jnp.mean(jnp.square(gradients), axis=1)
    if columns_over:
        mean_square = lax.pmean(mean_square, columns_over)
    accumulator = old + mean_square
    change = -learning_rate * gradients * lax.rsqrt(accumulator + EPSILON)[:, None]
    hints = {"mode": "drop", "indices_are_sorted": True, "unique_indices": True}
    return Table(
        table.values.at[rows].add(change, **hints),
        table.accumulator.at[rows].set(accumulator, **hints),
    )


def start_rows(table: Table, rows_M: Array, value_d: Array) -> Table:
    """The table with this value and no history in some rows; those past its end are left out."""
    return Table(
        table.values.at[rows_M].set(value_d, mode="drop"), table.accumulator.at[rows_M].set(jnp.float32(0), mode="drop")
    )
