"""The heavy ranker: an early-interaction DCN-V2 with MMoE over the features of both sides, the teacher.

    logit[b, t] = w_t relu(h[b, t]) + bias[t],    h = MMoE-DCN of concat(query x0, ad x0)

Each pair of query and ad goes through all of it, so no part of it can be computed before the request: it trains,
evaluates and labels, and is never served on the path of lightweight ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tt_jax.config import ModelConfig
from tt_jax.models.dense import Dense, MatmulPrecision
from tt_jax.models.embedding import TowerInput
from tt_jax.models.mmoe import MMoE
from tt_jax.schema import TOWERS, Schema, Tower


class Side(nnx.Module):
    """The features of one side; there is no tower on them."""

    def __init__(self, schema: Schema, tower: Tower) -> None:
        self.inputs = TowerInput(schema, tower)


class HeavyRanker(nnx.Module):
    """x0 `[d, B]` of both sides -> logits `[B, T]`."""

    def __init__(self, schema: Schema, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        tasks = len(schema.heads)
        self.query, self.ad = Side(schema, "query"), Side(schema, "ad")
        width = self.query.inputs.width + self.ad.inputs.width
        self.body = MMoE(width, tasks, config, precision=precision)
        self.out = nnx.List([Dense(config.output_dim, 1, precision=precision, bias=False) for _ in range(tasks)])
        self.bias = nnx.Param(jnp.zeros((tasks,), jnp.float32))

    def tower(self, tower: Tower) -> Side:
        """The query or the ad side."""
        return self.query if tower == "query" else self.ad

    def gates(self, inputs: Mapping[Tower, Array]) -> Array:
        """Share of each expert in each task, float32 `[T, E, B]`, of both sides' x0."""
        return self.body.gates(_joined(inputs))

    gate_parts = staticmethod(MMoE.gate_parts)

    def __call__(self, inputs: Mapping[Tower, Array], key: Array | None) -> Array:
        """Logits `[B, T]` of both sides' x0. `key`: of dropout; None = no dropout."""
        hidden_TDB = self.body(_joined(inputs), key)
        logits = [out(jax.nn.relu(hidden_TDB[t]))[0] for t, out in enumerate(self.out)]
        return jnp.stack(logits, axis=1) + self.bias[...]


def _joined(inputs: Mapping[Tower, Array]) -> Array:
    return jnp.concatenate([inputs[t] for t in TOWERS])
