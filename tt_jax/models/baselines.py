"""What the mixture of DCN-V2 experts is compared with: the same stacks without cross layers, and without experts."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tt_jax.config import ModelConfig
from tt_jax.models.dense import Dense, MatmulPrecision
from tt_jax.models.mmoe import Expert
from tt_jax.models.tower_body import TowerBody, without_cross_layers


class SharedStack(TowerBody):
    """`dcn`. x0 `[d, B]` -> `[T, D, B]`: one stack that all tasks share, then a linear head per task.

    A DCN-V2 in its stacked form; an MMoE of one expert is this, plus idle gates.
    """

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        self.stack = Expert(width, config, precision=precision)
        self.heads = nnx.List([Dense(config.output_dim, config.output_dim, precision=precision) for _ in range(tasks)])

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        shared_DB = self.stack(x0_dB, None, dropout_key)
        return jnp.stack([head(shared_DB) for head in self.heads])


class SharedMlp(SharedStack):
    """`mlp`: the same without cross layers."""

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        super().__init__(width, tasks, without_cross_layers(config), precision=precision)
