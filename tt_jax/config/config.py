"""The typed configuration of a run. Every default lives here, once.

`configs/*.py` turn a `Config` into a locked ml_collections ConfigDict, so that any field can be set on the command line
(`--config.optimizer.learning_rate=3e-4`); inside, code sees these frozen dataclasses only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tt_jax.config.registry import MODEL_KINDS
from tt_jax.io.strict_json import ABSENT, dataclass_from_dict, nearest, parse_json

Precision = Literal["auto", "f32", "bf16"]
Schedule = Literal["constant", "rewarm"]


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names the key, the value and what was expected."""


@dataclass(frozen=True)
class ModelConfig:
    """The model. Both towers have the same shape.

    Attributes:
      kind: what makes a tower's output of its input, a name of `tt_jax.config.registry.MODEL_KINDS`. `mmoe_dcn`: a
        mixture of DCN-V2 experts; `mmoe_mlp`: of MLPs; `dcn`, `mlp`: one such stack, without experts and gates;
        `mtmd`: experts per domain and task, see `tt_jax.models.mtmd`. `heavy` is no two-tower: an `mmoe_dcn` over the
        input of both sides, a teacher that is never served. Kinds without cross layers ignore their numbers and rank;
        `dcn` and `mlp` ignore `experts` and `gate_hidden`; `mtmd` has a number of experts of its own.
      experts: number of experts E per tower.
      full_rank_layers, low_rank_layers: cross layers of an expert, in this order (DCN-V2).
      rank: rank r of the low-rank cross layers.
      mlp: hidden widths of the MLP that ends an expert or a stack.
      gate_hidden: hidden width of a task's gate.
      output_dim: D, width of a task's tower output.
      embedding_init: standard deviation of a fresh embedding row; small, so that an id never seen counts for little.
      id_dropout: share of hashed ids hidden from the model in training.
      dropout: share of an expert's MLP activations dropped in training.
    """

    kind: str = field(default="mmoe_dcn", kw_only=True)
    experts: int = 4
    full_rank_layers: int = 2
    low_rank_layers: int = 2
    rank: int = 64
    mlp: tuple[int, ...] = (256, 128)
    gate_hidden: int = 64
    output_dim: int = 64
    embedding_init: float = 0.01
    id_dropout: float = 0.0
    dropout: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Where the prepared data is and how it is read.

    Attributes:
      path: directory written by `tt-jax prepare`.
      scenarios: the scenarios to train and evaluate on; empty = all.
      scenario_weights: `SCENARIO=WEIGHT`, what the weights of a scenario's rows are multiplied by in the training loss;
        1 for the others. Evaluation does not see them.
      train_splits: names of the splits to train on, pooled.
      eval_split: name of the split to evaluate on.
      batch_size: rows of a training batch, over all devices.
      eval_batch_size: rows of an evaluation batch.
      window: blocks mixed together by the full shuffle.
    """

    path: str = ""
    scenarios: tuple[str, ...] = ()
    scenario_weights: tuple[str, ...] = ()
    train_splits: tuple[str, ...] = ("train",)
    eval_split: str = "eval"
    batch_size: int = 4096
    eval_batch_size: int = 16384
    window: int = 8


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for the dense part, row-wise Adagrad for the embedding rows.

    Attributes:
      learning_rate: peak, reached after `warmup` and followed by a cosine to `final_fraction` of it.
      warmup: share of all steps; the first of w steps has 1/w of the peak.
      final_fraction: share of the peak learning rates at the last step.
      weight_decay: of matrices; biases and vectors are not decayed.
      clip_norm: largest global norm of the dense gradient; 0 = no clipping.
      embedding_learning_rate: peak, on the same schedule.
      embedding_decay: L2 penalty on the embedding rows that a batch touches.
    """

    learning_rate: float = 1e-3
    warmup: float = 0.05
    final_fraction: float = 0.1
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    embedding_learning_rate: float = 0.05
    embedding_decay: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
      epochs: passes over the training rows; may be a fraction. 0 = no step: the first weights, evaluated and saved.
      log_every, eval_every, save_every: steps; 0 = at the end only (eval, save).
      early_stop: metric of the eval split that picks the best checkpoint, as `task.metric`; "" = none.
      patience: evaluations without a better `early_stop` metric before training ends; 0 = never.
      keep_last: checkpoints kept, besides the best one.
      task_weights: `TASK=WEIGHT`, in place of the weights of these tasks in the schema; 0 = the label is not learned.
      loss: of a row and task, a name of `tt_jax.config.registry.LOSSES`.
    """

    epochs: float = 1.0
    log_every: int = 50
    eval_every: int = 0
    save_every: int = 500
    early_stop: str = ""
    patience: int = 0
    keep_last: int = 2
    task_weights: tuple[str, ...] = ()
    loss: str = field(default="cross_entropy", metadata={ABSENT: "cross_entropy"})


@dataclass(frozen=True)
class StageConfig:
    """How a run learns a set that it goes on with. No part of `Config`: every set may have its own.

    Attributes:
      replay: share of the rows of a batch that are drawn from the sets learned before.
      schedule: of both learning rates over the steps of the set. `constant`; or `rewarm`: as in the run itself, the
        warm-up and then the cosine to `optimizer.final_fraction`.
      rate: the constant rate, or the peak, as a share of the run's peak learning rates.
      accumulators: what the Adagrad accumulators of the embedding rows are multiplied by when the set begins; 1 = kept.
        Below, rows forget how much they have learned, and take larger steps again.
    """

    replay: float = 0.0
    schedule: Schedule = "constant"
    rate: float = 0.3
    accumulators: float = 1.0

    def __post_init__(self) -> None:
        for key, ok, expected in (
            ("replay", 0 <= self.replay < 1, "within 0..1, and below 1"),
            ("rate", self.rate > 0 and math.isfinite(self.rate), "> 0"),
            ("accumulators", 0 <= self.accumulators <= 1, "within 0..1"),
        ):
            if not ok:
                raise ConfigError(f"{key}: expected a number {expected}, got {getattr(self, key)}")

    def optimizer(self, of_run: OptimizerConfig) -> OptimizerConfig:
        """The run's optimizer, by this schedule."""
        constant = {"warmup": 0.0, "final_fraction": 1.0} if self.schedule == "constant" else {}
        return dataclasses.replace(
            of_run,
            learning_rate=self.rate * of_run.learning_rate,
            embedding_learning_rate=self.rate * of_run.embedding_learning_rate,
            **constant,
        )


@dataclass(frozen=True)
class ShardingConfig:
    """Several devices, see `tt_jax.parallel.sharding`. Nothing here changes what is computed, but for float rounding.

    Attributes:
      mesh: `HOSTSxDEVICES`, as in `2x4`; "" = as the devices are spread over processes.
      tables: `REGEX=PLACEMENT` per table, first match wins: `replicated`, `columns` (over the devices of a host),
        `rows` (over hosts) or `rows+columns`; tables without a match are placed by size.
      split_rows_gb: a table of more gigabytes per device, once its columns are split, is split by rows over hosts too.
    """

    mesh: str = ""
    tables: tuple[str, ...] = ()
    split_rows_gb: float = 1.0


@dataclass(frozen=True)
class Config:
    """A run: what is trained, on what, how.

    Attributes:
      seed: of parameters, shuffles and dropout.
      precision: of matmul inputs, `f32` or `bf16`; `auto` = what was measured fastest on the platform.
      chunk_rows: rows of a batch whose dense part is computed at once, the rest following in a scan; 0 = all; -1 = what
        was measured fastest on the platform.
      profile: `start:stop`, the steps of which a trace is written to `WORKDIR/profile`, for xprof; "" = none.
      utility: what ads are ranked by in serving, an expression of task names and `bid`; "" = the first task.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    seed: int = 0
    precision: Precision = "auto"
    chunk_rows: int = -1
    profile: str = ""
    utility: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, JSON-able (tuples stay tuples)."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Canonical JSON text."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Config:
        """The configuration of `to_dict`, strictly. Raises `ConfigError` naming an unknown, missing or mistyped key."""
        return dataclass_from_dict(Config, data, "config", ConfigError, complete=True)

    @staticmethod
    def from_json(text: str) -> Config:
        """The configuration of `to_json`."""
        return Config.from_dict(parse_json(text, "config", ConfigError))

    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def parse_weights(pairs: tuple[str, ...], key: str) -> dict[str, float]:
    """`NAME=WEIGHT` pairs, as of `data.scenario_weights`, by name. Raises `ConfigError` naming the key and the pair."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not (name and equals and math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"config.{key}: expected NAME=WEIGHT with a weight >= 0, got {pair!r}")
        if name in found:
            raise ConfigError(f"config.{key}: {name!r} has two weights")
        found[name] = weight
    return found


def _check(c: Config) -> None:
    """Ranges. One list, so that every bound is seen at a glance."""
    positive = ("model.experts", "model.gate_hidden", "model.output_dim", "model.rank", "data.batch_size",
                "data.eval_batch_size", "data.window", "train.log_every", "train.keep_last")  # fmt: skip
    not_negative = ("model.full_rank_layers", "model.low_rank_layers", "model.embedding_init",
                    "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.clip_norm",
                    "optimizer.embedding_learning_rate", "optimizer.embedding_decay", "train.epochs",
                    "train.eval_every", "train.save_every", "train.patience", "seed",
                    "sharding.split_rows_gb")  # fmt: skip
    shares = ("model.id_dropout", "model.dropout", "optimizer.warmup", "optimizer.final_fraction")
    for keys, ok, expected in (
        (positive, lambda v: v > 0, "> 0"),
        (not_negative, lambda v: v >= 0 and math.isfinite(v), ">= 0"),
        (shares, lambda v: 0 <= v <= 1, "within 0..1"),
    ):
        for key in keys:
            value: Any = c
            for part in key.split("."):
                value = getattr(value, part)
            if not ok(value):
                raise ConfigError(f"config.{key}: expected a number {expected}, got {value}")
    if c.model.kind not in MODEL_KINDS.names:
        raise ConfigError(f"config.model.kind: unknown {c.model.kind!r}{nearest(c.model.kind, MODEL_KINDS.names)}")
    parse_weights(c.data.scenario_weights, "data.scenario_weights")
    parse_weights(c.train.task_weights, "train.task_weights")
    if not c.data.train_splits or len(set(c.data.train_splits)) < len(c.data.train_splits):
        raise ConfigError(f"config.data.train_splits: expected distinct names, got {c.data.train_splits}")
    if c.seed >= 2**32:  # JAX would drop the higher bits
        raise ConfigError(f"config.seed: expected a number below 2**32, got {c.seed}")
    if c.chunk_rows < -1:
        raise ConfigError(f"config.chunk_rows: expected -1, 0 or a number of rows, got {c.chunk_rows}")
    start, _, stop = c.profile.partition(":")
    if c.profile and not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise ConfigError(f"config.profile: expected start:stop with start < stop, got {c.profile!r}")
    if any(w <= 0 for w in c.model.mlp):
        raise ConfigError(f"config.model.mlp: expected widths > 0, got {c.model.mlp}")
    if c.chunk_rows > 0 and c.data.batch_size % c.chunk_rows:
        raise ConfigError(
            f"config.chunk_rows: expected a divisor of data.batch_size = {c.data.batch_size}, got {c.chunk_rows}"
        )
