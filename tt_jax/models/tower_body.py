"""What a kind of two-tower is: the body of each tower, from the tower's input to its output.

Shapes, examples in columns: B examples, d width of the tower's input x0, T tasks with a head, D `config.output_dim`,
E parts that the gates share out among.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

from flax import nnx
from jax import Array

from tt_jax.config import ModelConfig
from tt_jax.models.dense import MatmulPrecision
from tt_jax.models.embedding import TowerInput
from tt_jax.schema import Schema


class TowerBody(nnx.Module):
    """x0 float32 `[d, B]` -> float32 `[T, D, B]`. A kind is a subclass with `__init__` and `__call__`.

    A kind with gates also has `gates` and `gate_parts`; one that needs more than x0 has its own `Input` and `of`.
    """

    Input: ClassVar[type[TowerInput]] = TowerInput

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        """`width`: d. `tasks`: T."""
        raise NotImplementedError

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        """`dropout_key`: None = no dropout."""
        raise NotImplementedError

    @classmethod
    def of(cls, inputs: TowerInput, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> Self:
        """The body on top of an `Input` of this kind."""
        return cls(inputs.width, tasks, config, precision=precision)

    def gates(self, x0_dB: Array) -> Array | None:
        """Share of each part in each task, float32 `[T, E, B]`, which sums to 1 over E; None: no gates."""
        return None

    @staticmethod
    def gate_parts(schema: Schema, config: ModelConfig) -> tuple[str, ...]:
        """Names of the E parts, in order."""
        return ()


def without_cross_layers(config: ModelConfig) -> ModelConfig:
    """The same sizes with experts or stacks that are MLPs."""
    return dataclasses.replace(config, full_rank_layers=0, low_rank_layers=0)
