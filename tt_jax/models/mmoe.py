"""Multi-gate mixture of experts (Ma et al., KDD 2018) whose experts are DCN-V2 stacks.

Shapes: B rows, d width of the tower's input x0, E experts, T tasks, O width of an expert's output, D of a task's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tt_jax.config import ModelConfig
from tt_jax.models.cross import CrossLayer, LowRankCrossLayer
from tt_jax.models.dense import Dense, MatmulPrecision


class Expert(nnx.Module):
    """Full-rank cross layers, then low-rank cross layers, then an MLP: x0 `[B, d]` -> `[B, O]`, O = D."""

    def __init__(self, width: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        c = config
        self.full = nnx.List([CrossLayer(width, precision=precision) for _ in range(c.full_rank_layers)])
        self.low = nnx.List([LowRankCrossLayer(width, c.rank, precision=precision) for _ in range(c.low_rank_layers)])
        widths = (width, *c.mlp)
        self.mlp = nnx.List([Dense(i, o, precision=precision, relu=True) for i, o in zip(widths, c.mlp, strict=False)])
        self.out = Dense(widths[-1], c.output_dim, precision=precision)
        self.dropout = c.dropout

    def __call__(self, x0_Bd: Array, dropout_key: Array | None) -> Array:
        x = x0_Bd
        for layer in (*self.full, *self.low):
            x = layer(x0_Bd, x)
        for i, layer in enumerate(self.mlp):
            x = jax.nn.relu(layer(x))
            if dropout_key is not None and self.dropout:
                keep = jax.random.bernoulli(jax.random.fold_in(dropout_key, i), 1.0 - self.dropout, x.shape)
                x = jnp.where(keep, x / (1.0 - self.dropout), jnp.float32(0.0))
        return self.out(x)


class MMoE(nnx.Module):
    """x0 `[B, d]` -> `[B, T, D]`: per task a softmax gate over the experts' outputs, then a linear head."""

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        self.experts = nnx.List([Expert(width, config, precision=precision) for _ in range(config.experts)])
        hidden, d = config.gate_hidden, config.output_dim
        self.gate_hidden = nnx.List([Dense(width, hidden, precision=precision, relu=True) for _ in range(tasks)])
        self.gate_out = nnx.List([Dense(hidden, config.experts, precision=precision) for _ in range(tasks)])
        self.heads = nnx.List([Dense(d, d, precision=precision) for _ in range(tasks)])

    def gates(self, x0_Bd: Array) -> Array:
        """Share of each expert in each task, `[B, T, E]`; sums to 1 over E."""
        pairs = zip(self.gate_hidden, self.gate_out, strict=True)
        return jax.nn.softmax(jnp.stack([out(jax.nn.relu(hidden(x0_Bd))) for hidden, out in pairs], axis=1), axis=-1)

    def __call__(self, x0_Bd: Array, dropout_key: Array | None = None) -> Array:
        gates_BTE = self.gates(x0_Bd)
        outputs = []
        for e, expert in enumerate(self.experts):
            outputs.append(expert(x0_Bd, None if dropout_key is None else jax.random.fold_in(dropout_key, e)))
        # Sums over E of [B, 1] * [B, D] fuse into one pass; a batched product of such thin matrices does not.
        tasks = []
        for t, head in enumerate(self.heads):
            mixed_BD = sum((gates_BTE[:, t, e, None] * h for e, h in enumerate(outputs)), jnp.zeros_like(outputs[0]))
            tasks.append(head(mixed_BD))
        return jnp.stack(tasks, axis=1)
