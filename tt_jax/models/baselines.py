"""What the mixture of DCN-V2 experts is compared with: the same stacks without cross layers, and without experts."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tt_jax.config import ModelConfig
from tt_jax.models.dense import Dense, MatmulPrecision
from tt_jax.models.mmoe import Expert


def without_cross_layers(config: ModelConfig) -> ModelConfig:
    """The same sizes with experts that are MLPs."""
    return dataclasses.replace(config, full_rank_layers=0, low_rank_layers=0)


class SharedStack(nnx.Module):
    """x0 `[d, B]` -> `[T, D, B]`: one stack that all tasks share, then a linear head per task.

    An MLP, or with cross layers a DCN-V2 (its stacked form); an MMoE of one expert is this, plus idle gates.
    """

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        self.stack = Expert(width, config, precision=precision)
        self.heads = nnx.List([Dense(config.output_dim, config.output_dim, precision=precision) for _ in range(tasks)])

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        shared_DB = self.stack(x0_dB, None, dropout_key)
        return jnp.stack([head(shared_DB) for head in self.heads])
