"""From a configuration and a prepared set to what the loop works with: model, mesh, placed state, compiled step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline.batches import Batches, mixed_batches, to_device, train_batches
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.config import Config, ConfigError, parse_weights
from tt_jax.config.registry import LOSSES
from tt_jax.evaluation.predict import Predict, make_predict
from tt_jax.io.strict_json import nearest
from tt_jax.metrics import METRICS, streaming
from tt_jax.models.dense import resolve_precision
from tt_jax.models.two_tower import TwoTower
from tt_jax.parallel.processes import place_arrays
from tt_jax.parallel.sharding import batch_sharding, make_mesh, on_mesh, place_tables, replicated, state_specs
from tt_jax.runs.record import Stage
from tt_jax.schema import Schema, array_specs
from tt_jax.training.collectives import ONE_DEVICE, ManyDevices, shard_predict, shard_step
from tt_jax.training.step import Step, TrainState, init_state, make_step, resolve_chunk_rows, step_arrays
from tt_jax.utility import Utility


def make_model(config: Config, schema: Schema, training: bool = False) -> TwoTower:
    """The model of a run, in the precision that this platform trains or predicts in."""
    return TwoTower(schema, config.model, resolve_precision(config.precision, jax.default_backend(), training))


@dataclass(frozen=True)
class Setup:
    """A run, ready to start. Raises `ConfigError` where the configuration does not fit the data or the devices.

    `stage`: that of the set, where the run goes on with it; `past`: what it has learned before, to be replayed.
    """

    config: Config
    prepared: PreparedSet
    stage: Stage | None = None
    past: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        data = self.config.data
        check_config(self.config, self.prepared.schema)
        for split in (*data.train_splits, data.eval_split) if self.stage is None else self.stage.splits:
            self.prepared.files(split, data.scenarios)  # raises if there is nothing to read
        for key, rows in (("batch_size", data.batch_size), ("eval_batch_size", data.eval_batch_size)):
            if rows % self.mesh.size:
                raise ConfigError(f"config.data.{key} {rows} is not a multiple of the {self.mesh.size} devices")
        chunk_rows, rows = self.config.chunk_rows, data.batch_size // self.mesh.size
        if chunk_rows > 0 and rows % chunk_rows:
            raise ConfigError(f"config.chunk_rows {chunk_rows} is no divisor of a device's {rows} rows of a batch")
        _ = self.placements  # raises where a table cannot be placed

    @cached_property
    def mesh(self) -> Mesh:
        """All devices."""
        return make_mesh(self.config.sharding.mesh)

    @cached_property
    def placements(self) -> dict[str, str]:
        """Of the tables, see `tt_jax.parallel.sharding.place_tables`."""
        return place_tables(self.mesh, self.model.tables.shapes, self.config.sharding)

    @cached_property
    def model(self) -> TwoTower:
        """The model that is trained; `make_model` gives that which is evaluated."""
        return make_model(self.config, self.prepared.schema, training=True)

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run, to the end of the stage if there is one; at least one, but for no epochs."""
        if self.stage is not None:
            return self.stage.end
        data = self.config.data
        rows = sum(self.prepared.rows(split, data.scenarios) for split in data.train_splits)
        epochs = self.config.train.epochs
        return max(1, int(rows * epochs / data.batch_size)) if epochs else 0

    @property
    def start(self) -> int:
        """Steps done before this set."""
        return 0 if self.stage is None else self.stage.start

    @cached_property
    def scheduled(self) -> Config:
        """The configuration, with the learning rates of the stage."""
        if self.stage is None:
            return self.config
        return dataclasses.replace(self.config, optimizer=self.stage.options.optimizer(self.config.optimizer))

    def batches(self) -> Batches:
        """Training batches on the devices, from the first one on; epochs follow one another without end.

        Each process reads its share of the blocks and gives its share of the rows of every batch.
        """
        data, rows = self.config.data, self.config.data.batch_size // jax.process_count()
        process, arrays = (jax.process_index(), jax.process_count()), step_arrays(self.config)
        if self.stage is None:
            batches = train_batches(
                self.prepared, data.train_splits, data.scenarios, rows, self.config.seed, data.window, process=process,
                arrays=arrays,
            )  # fmt: skip
        else:
            seed = np.random.SeedSequence([self.config.seed, self.start]).generate_state(1)  # another one for each set
            batches = mixed_batches(
                Part(self.prepared, self.stage.splits), self.past, replay_rows(rows, self.stage.options.replay),
                data.scenarios, rows, int(seed[0]), data.window, process, arrays,
            )  # fmt: skip
        return to_device(batches, batch_sharding(self.mesh))

    def _make_state(self) -> TrainState:
        return init_state(self.model, self.config, self.total_steps)

    @cached_property
    def _specs(self) -> Any:
        return state_specs(jax.eval_shape(self._make_state), self.placements)

    @cached_property
    def shardings(self) -> Any:
        """Placement of every leaf of the state."""
        return on_mesh(self.mesh, self._specs)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and placements of the state."""
        shapes = jax.eval_shape(self._make_state)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings)

    def fresh_state(self) -> TrainState:
        """The state before the first step of the run, placed on the devices."""
        return place_arrays(self._make_state(), self.shardings)

    def first_state(self, state: TrainState) -> TrainState:
        """The state that a stage starts from: that of the set before it, with its sums of metrics cleared.

        Accumulators are multiplied by `options.accumulators` of the stage, which there must be.
        """
        assert self.stage is not None
        keep = np.float32(self.stage.options.accumulators)
        return state.replace(
            accumulators={name: a * keep for name, a in state.accumulators.items()},
            metrics=self.no_sums(),
        )

    def no_sums(self) -> streaming.TaskSums:
        """The metrics of a state that has just been logged."""
        return place_arrays(streaming.zeros(len(self.prepared.schema.tasks)), self.shardings.metrics)

    def compile_step(self) -> Step:
        """The step, compiled for this state and batch: it cannot retrace. It donates the state."""
        data, specs = batch_sharding(self.mesh), array_specs(self.prepared.schema)
        batch = {
            name: jax.ShapeDtypeStruct((self.config.data.batch_size, specs[name][1]), specs[name][0], sharding=data)
            for name in step_arrays(self.config)
        }
        chunk_rows = resolve_chunk_rows(self.config, jax.default_backend(), self.mesh.size)
        one = self.mesh.size == 1
        exchange = ONE_DEVICE if one else ManyDevices(self.placements, self.mesh.shape)
        step = make_step(
            self.model, self.scheduled, self.total_steps - self.start, chunk_rows, exchange, start=self.start
        )
        jitted = jax.jit(
            step if one else shard_step(step, self.mesh, self._specs),
            out_shardings=(self.shardings, replicated(self.mesh)),
            donate_argnums=0,
        )
        return jitted.lower(self.abstract_state, batch).compile()

    def make_predict(self) -> Predict:
        """`make_predict` of the model that is evaluated, for parameters and tables placed as here."""
        model = make_model(self.config, self.prepared.schema)
        if self.mesh.size == 1:
            return make_predict(model)
        many = jax.process_count() > 1
        # Every process of many reads every row, and gets all the logits: they come to the same report.
        rows = replicated(self.mesh) if many else batch_sharding(self.mesh)
        return jax.jit(
            shard_predict(model, self.mesh, self.placements),
            in_shardings=(replicated(self.mesh), self.shardings.tables, rows),
            out_shardings=replicated(self.mesh) if many else None,
        )


def replay_rows(rows: int, share: float) -> int:
    """Rows to replay of the rows of a batch. Raises `ConfigError` where that is none, or nearly all."""
    found = round(rows * share)
    if bool(share) != bool(found) or found == rows:
        raise ConfigError(f"replay: {share} of a batch of {rows} rows is {found} of them, which leaves one part empty")
    return found


def check_config(config: Config, schema: Schema) -> None:
    """Raises `ConfigError` where the configuration names a loss that there is not, or what the schema does not have."""
    if config.train.loss not in LOSSES.names:
        raise ConfigError(f"config.train.loss: unknown {config.train.loss!r}{nearest(config.train.loss, LOSSES.names)}")
    scenario_weights = parse_weights(config.data.scenario_weights, "data.scenario_weights")
    task_weights = parse_weights(config.train.task_weights, "train.task_weights")
    for key, what, names, valid in (
        ("data.scenarios", "scenario", config.data.scenarios, schema.scenarios),
        ("data.scenario_weights", "scenario", scenario_weights, schema.scenarios),
        ("train.task_weights", "task", task_weights, schema.task_names),
    ):
        for name in names:
            if name not in valid:
                raise ConfigError(f"config.{key}: unknown {what} {name!r}{nearest(name, valid)}")
    if not any(task_weights.get(t.name, t.weight) for t in schema.tasks):
        raise ConfigError("config.train.task_weights: expected a weight > 0 for a task, all are 0")
    Utility.parse(config.utility or schema.heads[0], schema.heads, schema.utility_names)
    if not config.train.early_stop:
        if config.train.patience:
            raise ConfigError(
                "config.train.patience: expected a metric in train.early_stop to be patient about, got none"
            )
        return
    valid = [f"{task}.{name}" for task in schema.task_names for name, metric in METRICS.items() if metric.better]
    if config.train.early_stop not in valid:
        name = config.train.early_stop
        raise ConfigError(f"config.train.early_stop: expected task.metric, got {name!r}{nearest(name, valid)}")
