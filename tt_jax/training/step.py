"""One training step: a pure function of state and batch.

The embedding rows of the batch are gathered and made into both towers' inputs x0. The dense part, where the matrix
products are, is differentiated with respect to its parameters and to x0, and x0's gradient is pulled back to the
gathered rows: a gradient of a table never exists. `tt_jax.training.optimizers.update_rows` then updates those rows. The
dense part may run over chunks of the batch in a scan, so that activations stay in a CPU's caches; since the loss is a
sum over rows divided by a weight known beforehand, the chunks' gradients add up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from tt_jax.config import Config, parse_weights
from tt_jax.config.registry import LOSSES
from tt_jax.losses import label_weight, masked_sum, training_loss
from tt_jax.metrics import streaming
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.schema import TOWERS, Schema, Tower
from tt_jax.training.admission import Admission, TrainedTables, admit_batch, fresh_admission
from tt_jax.training.collectives import ONE_DEVICE, Exchange
from tt_jax.training.optimizers import Table, dense_optimizer, schedule, update_dense

Batch = Mapping[str, Array]
Inputs = dict[Tower, Array]
MODEL_ARRAYS = ("query_ids", "ad_ids", "query_floats", "ad_floats", "labels", "weights")  # what a model learns from
CPU_CHUNK_ROWS = 512  # measured: docs/log/2026-11-30-performance.md


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; all of it is checkpointed.

    Attributes:
      step: int32 scalar, steps done.
      params, optimizer: dense parameters and the state of their optimizer.
      tables, accumulators: embedding tables `[rows, dim]` and their Adagrad accumulators `[rows]`. Keys of dynamic
        tables lie among the tables.
      metrics: sums since the last log.
      admissions: by feature, of those that own dynamic rows.
    """

    step: Array
    params: Params
    optimizer: optax.OptState
    tables: Params
    accumulators: Params
    metrics: streaming.TaskSums
    admissions: Mapping[str, Admission] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> TrainState:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)


class _DenseGradients(NamedTuple):
    of_params: Params
    of_inputs: Inputs
    sums: streaming.TaskSums


DenseGradients = Callable[[Params, Inputs, Batch, Array | None], _DenseGradients]  # of params, inputs, targets, key
Step = Callable[[TrainState, Batch], tuple[TrainState, Array]]
Total = tuple[Params, streaming.TaskSums]


def init_state(model: TwoTower, config: Config, total_steps: int) -> TrainState:
    """The state before the first step, on the default device; weights are drawn by `config.seed`.

    `total_steps`: of the schedule of the learning rates, as for `make_step`; the state is the same for any.
    """
    params, tables = model.init(config.seed)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=dense_optimizer(config.optimizer, total_steps).init(params),
        tables=tables,
        accumulators={name: jnp.zeros(shape[:1], jnp.float32) for name, shape in model.tables.shapes.items()},
        metrics=streaming.zeros(len(model.schema.tasks)),
        admissions={f.name: fresh_admission(f) for f in model.tables.dynamic},
    )


def resolve_chunk_rows(config: Config, platform: str, devices: int) -> int:
    """Rows of a chunk for a configured `chunk_rows`; 0 = the whole batch at once."""
    if config.chunk_rows >= 0:
        return config.chunk_rows
    batch = config.data.batch_size
    return CPU_CHUNK_ROWS if platform == "cpu" and devices == 1 and batch % CPU_CHUNK_ROWS == 0 else 0


def step_arrays(config: Config) -> tuple[str, ...]:
    """Names of the arrays that a step reads."""
    return (*MODEL_ARRAYS, "scenario") if config.data.scenario_weights else MODEL_ARRAYS


def make_step(
    model: TwoTower,
    config: Config,
    total_steps: int,
    chunk_rows: int = 0,
    exchange: Exchange = ONE_DEVICE,
    start: int = 0,
) -> Step:
    """The training step `(state, batch) -> (state, steps done)`, a pure function, to be jitted with the state donated.

        model = TwoTower(schema, config.model, "f32")
        state = init_state(model, config, total_steps=100)
        step = jax.jit(make_step(model, config, total_steps=100), donate_argnums=0)
        state, done = step(state, batch)

    A batch of B rows has the `step_arrays`, by name, of `schema.array_specs`; `Encoder(schema).encode(columns).arrays`
    gives them:

        query_ids, ad_ids        int32 [B, slots]      -1 = an empty slot
        query_floats, ad_floats  float32 [B, columns]
        labels, weights          float32 [B, T]        a NaN label = none for this task
        scenario                 int32 [B, 1]          only where `config.data.scenario_weights` are given

    Args:
      model: whose config is `config.model`.
      total_steps: of the schedule of the learning rates, which begins after step `start`.
      chunk_rows: rows whose dense part is computed at once, a divisor of B; 0 = all of them.
      exchange: `ManyDevices` for `shard_step`; B and `chunk_rows` are then of a device's share.

    The second output is the int32 scalar `state.step`, not donated with the next call: wait for it, not for the state.
    """
    optimizer = dense_optimizer(config.optimizer, total_steps, start)
    multiplier = schedule(config.optimizer, total_steps, start)
    gradients = _make_dense_gradients(model, config)
    uses_dropout = config.model.dropout > 0 or config.model.id_dropout > 0

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        key = exchange.key(jax.random.fold_in(jax.random.key(config.seed), state.step)) if uses_dropout else None
        # ---- rows of the tables, once new ids have theirs -----------------------------------------------------------
        before = TrainedTables(state.tables, state.accumulators, state.admissions)
        admitted = admit_batch(model.tables, before, batch, state.step, exchange)
        rows = model.rows(admitted.values, batch, key)
        gathered, touched = exchange.look_up(admitted.values, rows)
        inputs, pull_back = jax.vjp(
            lambda own, gathered: model.inputs(state.params | own, gathered, rows, batch),
            model.input_params(state.params),
            gathered,
        )
        # ---- gradients ----------------------------------------------------------------------------------------------
        targets = _targets(model.schema, config, batch, exchange)
        of_dense = _over_chunks(gradients, state.params, inputs, targets, key, chunk_rows)
        of_input_params, of_gathered = pull_back(of_dense.of_inputs)
        of_params, sums = exchange.total((of_dense.of_params | of_input_params, of_dense.sums))
        # ---- updates ------------------------------------------------------------------------------------------------
        params, optimizer_state = update_dense(optimizer, of_params, state.optimizer, state.params)
        rate = jnp.float32(config.optimizer.embedding_learning_rate * multiplier(state.step))
        update = functools.partial(exchange.update, learning_rate=rate, decay=config.optimizer.embedding_decay)
        tables = _update_tables(update, admitted, touched, of_gathered)
        done = state.step + 1
        new = TrainState(
            done, params, optimizer_state, tables.values, tables.accumulators, streaming.merge(state.metrics, sums),
            tables.admissions,
        )  # fmt: skip
        return new, done

    return step


def _make_dense_gradients(model: TwoTower, config: Config) -> DenseGradients:
    """The gradients of some examples' share of the loss, and their sums of the training metrics."""
    task_weights, example_loss = _task_weights(model.schema, config), LOSSES[config.train.loss]

    def gradients(params: Params, inputs: Inputs, targets: Batch, key: Array | None) -> _DenseGradients:
        def loss(params: Params, inputs: Inputs) -> tuple[Array, streaming.TaskSums]:
            logits_BT = _of_tasks(model.logits(params, inputs, key), model.schema)
            losses_BT = example_loss(logits_BT, targets["labels"])
            sum_T, _ = masked_sum(losses_BT, targets["labels"], targets["weights"])
            zeros = streaming.zeros(len(model.schema.tasks))
            sums = streaming.update(zeros, losses_BT, logits_BT, targets["labels"], targets["weights"])
            return training_loss(sum_T, targets["denominators"][0], task_weights), sums

        (of_params, of_inputs), sums = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, inputs)
        return _DenseGradients(of_params, of_inputs, sums)

    return gradients


def _targets(schema: Schema, config: Config, batch: Batch, exchange: Exchange) -> Batch:
    """Labels and weights, and the denominators of the loss over the whole batch in every row: `[B, T]` each."""
    weights = _row_weights(schema, config, batch)
    denominator_T = exchange.total(label_weight(batch["labels"], weights))
    denominators = jnp.broadcast_to(denominator_T, batch["labels"].shape)
    return {"labels": batch["labels"], "weights": weights, "denominators": denominators}


def _update_tables(
    update: Callable[..., Table], state: TrainedTables, touched: Params, of_gathered: Mapping[Tower, Params]
) -> TrainedTables:
    """The tables once the rows that the batch touched are updated; `update` takes name, table, rows and gradients."""
    by_table = {name: [of_gathered[t][name] for t in TOWERS] for name in state.accumulators}
    updated = {
        name: update(name, Table(state.values[name], accumulator), touched[name], _joined(by_table[name]))
        for name, accumulator in state.accumulators.items()
    }
    values = state.values | {name: table.values for name, table in updated.items()}
    return TrainedTables(values, {name: table.accumulator for name, table in updated.items()}, state.admissions)


def _of_tasks(logits_BH: Array, schema: Schema) -> Array:
    """Of the heads' logits `[B, H]`, that of each task's head, `[B, T]`."""
    if len(schema.heads) == len(schema.tasks):
        return logits_BH
    return jnp.stack([logits_BH[:, h] for h in schema.head_of_task], axis=1)


def _task_weights(schema: Schema, config: Config) -> Array:
    """Weight of each task in the loss, float32 `[T]`."""
    given = parse_weights(config.train.task_weights, "train.task_weights")
    return jnp.array([given.get(t.name, t.weight) for t in schema.tasks], jnp.float32)


def _row_weights(schema: Schema, config: Config, batch: Batch) -> Array:
    """Weight of each row in the loss of each task, `[B, T]`."""
    given = parse_weights(config.data.scenario_weights, "data.scenario_weights")
    if not given:
        return batch["weights"]
    of_scenario = jnp.array([given.get(name, 1.0) for name in schema.scenarios], jnp.float32)
    return batch["weights"] * of_scenario[batch["scenario"]]


def _over_chunks(
    gradients: DenseGradients,
    params: Params,
    inputs: Inputs,
    targets: Batch,
    key: Array | None,
    chunk_rows: int,
) -> _DenseGradients:
    """`gradients` of the whole batch by chunks; examples are the columns of `inputs` and the rows of `targets`."""
    batch = targets["labels"].shape[0]
    count = batch // chunk_rows if chunk_rows else 1
    if count == 1:
        whole = gradients(params, inputs, targets, key)
        # Else XLA turns the last product around, to have the transposed gradient that the tables take, and its CPU
        # runtime has no such product of bfloat16. Chunks are kept apart by the scan.
        return whole._replace(of_inputs=lax.optimization_barrier(whole.of_inputs))
    split_inputs: Inputs = {t: jnp.moveaxis(x.reshape(-1, count, chunk_rows), 1, 0) for t, x in inputs.items()}
    split_targets = {name: x.reshape(count, chunk_rows, -1) for name, x in targets.items()}

    def body(total: Total, chunk: tuple[Array, Inputs, Batch]) -> tuple[Total, Inputs]:
        index, inputs, targets = chunk
        part = gradients(params, inputs, targets, None if key is None else jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, (part.of_params, part.sums)), part.of_inputs

    zeros = jax.tree.map(jnp.zeros_like, params), streaming.zeros(targets["labels"].shape[1])
    chunks = (jnp.arange(count, dtype=jnp.int32), split_inputs, split_targets)
    (of_params, sums), of_inputs = lax.scan(body, zeros, chunks)
    joined: Inputs = {t: jnp.moveaxis(of_inputs[t], 0, 1).reshape(-1, batch) for t in TOWERS}
    return _DenseGradients(of_params, joined, sums)


def _joined(towers: list[Array]) -> Array:
    """Both towers' `[b, slots, d]` below one another, `[m, d]`."""
    return jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in towers])
