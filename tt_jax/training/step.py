"""One training step: a pure function of state and batch.

The embedding rows of the batch are gathered first and the loss is differentiated with respect to them and to the dense
parameters. The dense part may run over chunks of the batch in a scan, so that activations stay in a CPU's caches; since
the loss is a sum over rows divided by a weight known beforehand, the chunks' gradients add up to those of the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from tt_jax.config import Config
from tt_jax.losses import cross_entropy, label_weight, masked_sum, training_loss
from tt_jax.metrics import streaming
from tt_jax.models.embedding import gather
from tt_jax.models.two_tower import Gathered, Params, TwoTower
from tt_jax.schema import TOWERS, Tower
from tt_jax.training.optimizer import dense_optimizer, schedule, update_dense
from tt_jax.training.sparse import Table, update_rows

Batch = Mapping[str, Array]
MODEL_ARRAYS = ("query_ids", "ad_ids", "query_floats", "ad_floats", "labels", "weights")  # what a step reads
CPU_CHUNK_ROWS = 512  # measured: see docs/performance.md


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; all of it is checkpointed.

    Attributes:
      step: int32 scalar, steps done.
      params, optimizer: dense parameters and the state of their optimizer.
      tables, accumulators: embedding tables `[rows, dim]` and their Adagrad accumulators `[rows]`.
      metrics: sums since the last log.
    """

    step: Array
    params: Params
    optimizer: Any
    tables: Params
    accumulators: Params
    metrics: streaming.TaskSums

    def replace(self, **changes: Any) -> TrainState:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)


def init_state(model: TwoTower, config: Config, total_steps: int) -> TrainState:
    """The state before the first step."""
    params, tables = model.init(config.seed)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=dense_optimizer(config.optimizer, total_steps).init(params),
        tables=tables,
        accumulators={name: jnp.zeros(table.shape[:1], jnp.float32) for name, table in tables.items()},
        metrics=streaming.zeros(len(model.schema.tasks)),
    )


def resolve_chunk_rows(config: Config, platform: str, devices: int) -> int:
    """Rows of a chunk for a configured `chunk_rows`; 0 = the whole batch at once."""
    if config.chunk_rows >= 0:
        return config.chunk_rows
    batch = config.data.batch_size
    return CPU_CHUNK_ROWS if platform == "cpu" and devices == 1 and batch % CPU_CHUNK_ROWS == 0 else 0


def make_step(
    model: TwoTower, config: Config, total_steps: int, chunk_rows: int = 0
) -> Callable[[TrainState, Batch], tuple[TrainState, Array]]:
    """The step `(state, batch) -> (state, steps done)`, to be jitted with the state donated.

    `batch` holds `MODEL_ARRAYS`. The second output is a copy outside of the state, to wait for when that is donated.
    """
    optimizer = dense_optimizer(config.optimizer, total_steps)
    multiplier = schedule(config.optimizer, total_steps)
    task_weights = jnp.array([t.weight for t in model.schema.tasks], jnp.float32)
    uses_dropout = config.model.dropout > 0 or config.model.id_dropout > 0

    def chunk_gradients(
        params: Params, tables: Params, rows: Any, arrays: Batch, denominator_T: Array, key: Array | None
    ) -> tuple[Params, dict[Tower, Gathered], streaming.TaskSums]:
        """Gradients of one chunk's share of the loss with respect to the parameters and to the gathered rows."""

        def loss(params: Params, gathered: dict[Tower, Gathered]) -> tuple[Array, streaming.TaskSums]:
            logits_BT = model.logits(params, gathered, rows, arrays, key)
            losses_BT = cross_entropy(logits_BT, arrays["labels"])
            sum_T, _ = masked_sum(losses_BT, arrays["labels"], arrays["weights"])
            zeros = streaming.zeros(len(model.schema.tasks))
            sums = streaming.update(zeros, losses_BT, logits_BT, arrays["labels"], arrays["weights"])
            return training_loss(sum_T, denominator_T, task_weights), sums

        gathered = {t: gather(tables, rows[t]) for t in TOWERS}
        (dense, sparse), sums = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, gathered)
        return dense, sparse, sums

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step) if uses_dropout else None
        rows = model.rows(batch, key)
        denominator_T = label_weight(batch["labels"], batch["weights"])
        if chunk_rows:
            dense, sparse, sums = _scan_chunks(chunk_gradients, state, rows, batch, denominator_T, key, chunk_rows)
        else:
            dense, sparse, sums = chunk_gradients(state.params, state.tables, rows, batch, denominator_T, key)
        params, optimizer_state = update_dense(optimizer, dense, state.optimizer, state.params)
        rate = config.optimizer.embedding_learning_rate * multiplier(state.step)
        tables = _update_tables(state, rows, sparse, jnp.float32(rate), config.optimizer.embedding_decay)
        done = state.step + 1
        new = TrainState(
            step=done,
            params=params,
            optimizer=optimizer_state,
            tables={name: table.values for name, table in tables.items()},
            accumulators={name: table.accumulator for name, table in tables.items()},
            metrics=streaming.merge(state.metrics, sums),
        )
        return new, done

    return step


def _scan_chunks(
    gradients: Callable[..., Any],
    state: TrainState,
    rows: Any,
    batch: Batch,
    denominator_T: Array,
    key: Array | None,
    chunk_rows: int,
) -> tuple[Params, Any, streaming.TaskSums]:
    """`gradients` over chunks of the batch: dense ones and sums added up, those of rows put back in batch order."""
    count = batch["labels"].shape[0] // chunk_rows
    split = jax.tree.map(lambda x: x.reshape(count, chunk_rows, *x.shape[1:]), (rows, dict(batch)))

    def body(carry: Any, chunk: Any) -> tuple[Any, Any]:
        index, (chunk_rows_, arrays) = chunk
        chunk_key = None if key is None else jax.random.fold_in(key, index)
        dense, sparse, sums = gradients(state.params, state.tables, chunk_rows_, arrays, denominator_T, chunk_key)
        return jax.tree.map(jnp.add, carry, (dense, sums)), sparse

    zeros = jax.tree.map(jnp.zeros_like, (state.params, state.metrics))
    (dense, sums), sparse = lax.scan(body, zeros, (jnp.arange(count, dtype=jnp.int32), split))
    return dense, jax.tree.map(lambda x: x.reshape(count * chunk_rows, *x.shape[2:]), sparse), sums


def _update_tables(
    state: TrainState, rows: Any, gradients: Any, learning_rate: Array, decay: float
) -> dict[str, Table]:
    updated = {}
    for name, table in state.tables.items():
        touched = jnp.concatenate([rows[t][name].reshape(-1) for t in TOWERS])
        gradient = jnp.concatenate([gradients[t][name].reshape(-1, table.shape[1]) for t in TOWERS])
        updated[name] = update_rows(Table(table, state.accumulators[name]), touched, gradient, learning_rate, decay)
    return updated
