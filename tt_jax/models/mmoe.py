"""Multi-gate mixture of experts (Ma et al., KDD 2018) whose experts are DCN-V2 stacks.

Shapes, examples in columns: B examples, d width of the tower's input x0, E experts, T tasks, D width of their outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tt_jax.config import ModelConfig
from tt_jax.models.cross import CrossLayer, LowRankCrossLayer
from tt_jax.models.dense import Dense, MatmulPrecision, wide
from tt_jax.models.tower_body import TowerBody, without_cross_layers
from tt_jax.schema import Schema


class Expert(nnx.Module):
    """Full-rank cross layers, then low-rank cross layers, then an MLP: x0 `[d, B]` -> `[D, B]`."""

    def __init__(self, width: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        c = config
        self.full = nnx.List([CrossLayer(width, precision=precision) for _ in range(c.full_rank_layers)])
        self.low = nnx.List([LowRankCrossLayer(width, c.rank, precision=precision) for _ in range(c.low_rank_layers)])
        widths = (width, *c.mlp)
        self.mlp = nnx.List([Dense(i, o, precision=precision, relu=True) for i, o in zip(widths, c.mlp, strict=False)])
        self.out = Dense(widths[-1], c.output_dim, precision=precision)
        self.dropout = c.dropout

    @property
    def first(self) -> Dense:
        """The product that is taken of x0; `MMoE` computes those of all experts at once."""
        layers = (*self.full, *self.low)
        return layers[0].first if layers else (*self.mlp, self.out)[0]

    def __call__(self, x0_dB: Array, product: Array | None, dropout_key: Array | None) -> Array:
        """`product`: `first(x0)`."""
        x = x0_dB
        for layer in (*self.full, *self.low):
            x, product = layer(x0_dB, x, product), None
        for i, layer in enumerate(self.mlp):
            x, product = jax.nn.relu(layer(x) if product is None else product), None
            if dropout_key is not None and self.dropout:
                keep = jax.random.bernoulli(jax.random.fold_in(dropout_key, i), 1.0 - self.dropout, x.shape)
                x = jnp.where(keep, x / (1.0 - self.dropout), jnp.float32(0.0))
        return self.out(x) if product is None else product


class MMoE(TowerBody):
    """`mmoe_dcn`. x0 `[d, B]` -> `[T, D, B]`: per task a softmax gate over the experts' outputs, then a linear head."""

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        self.experts = nnx.List([Expert(width, config, precision=precision) for _ in range(config.experts)])
        hidden, d = config.gate_hidden, config.output_dim
        self.gate_hidden = nnx.List([Dense(width, hidden, precision=precision, relu=True) for _ in range(tasks)])
        self.gate_out = nnx.List([Dense(hidden, config.experts, precision=precision) for _ in range(tasks)])
        self.heads = nnx.List([Dense(d, d, precision=precision) for _ in range(tasks)])

    def gates(self, x0_dB: Array) -> Array:
        """Share of each expert in each task, `[T, E, B]`; sums to 1 over E."""
        return self._gates(wide(self.gate_hidden, x0_dB))

    @staticmethod
    def gate_parts(schema: Schema, config: ModelConfig) -> tuple[str, ...]:
        """The experts, by number."""
        return tuple(map(str, range(config.experts)))

    def _gates(self, hidden: Sequence[Array]) -> Array:
        logits = [out(jax.nn.relu(h)) for out, h in zip(self.gate_out, hidden, strict=True)]
        return jax.nn.softmax(jnp.stack(logits), axis=1)

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        first = [expert.first for expert in self.experts]
        products = wide([*first, *self.gate_hidden], x0_dB)
        gates_TEB = self._gates(products[len(first) :])
        outputs = []
        for e, expert in enumerate(self.experts):
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, e)
            outputs.append(expert(x0_dB, products[e], key))
        # Sums over E of [B] * [D, B] fuse into one pass; a batched product of such thin matrices does not.
        tasks = []
        for t, head in enumerate(self.heads):
            mixed_DB = sum((gates_TEB[t, e] * h for e, h in enumerate(outputs)), jnp.zeros_like(outputs[0]))
            tasks.append(head(mixed_DB))
        return jnp.stack(tasks)


class MlpMMoE(MMoE):
    """`mmoe_mlp`: the same of experts without cross layers."""

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        super().__init__(width, tasks, without_cross_layers(config), precision=precision)
