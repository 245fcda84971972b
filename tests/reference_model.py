"""The two-tower MMoE-DCN written again in NumPy float64: one feature, one expert, one task at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tt_jax.config import ModelConfig
from tt_jax.schema import Feature, Schema, Task, Tower

Arrays = Mapping[str, Any]


# Widths that take turns, a table of one tower only, runs of features that are broken by others.
MIXED = Schema(
    "mixed",
    (
        Feature("a", "categorical", "query", dim=3, hash_size=7),
        Feature("b", "categorical", "query", dim=2, hash_size=5),
        Feature("c", "categorical", "query", dim=3, vocabulary=("x", "y")),
        Feature("d", "categorical", "query", dim=3, hash_size=9),
        Feature("e", "sequence", "query", dim=3, max_length=3, shares="h"),
        Feature("f", "categorical", "query", dim=3, shares="d"),
        Feature("g", "bag", "ad", dim=3, max_length=2, shares="a"),
        Feature("h", "categorical", "ad", dim=3, hash_size=6),
        Feature("i", "categorical", "ad", dim=6, hash_size=4),
    ),
    (Task("click", "l"),),
    "s",
    ("a",),
    "h",
)


def table_offsets(schema: Schema) -> dict[str, tuple[str, int]]:
    """Feature with a table of its own -> (fused table, its first row): owners of equal width follow each other."""
    used: dict[str, int] = {}
    out = {}
    for f in schema.features:
        if f.kind in ("categorical", "bag", "sequence") and not f.shares:
            table = f"dim{f.dim}"
            out[f.name] = (table, used.get(table, 0))
            used[table] = used.get(table, 0) + (len(f.vocabulary) + 2 if f.vocabulary else f.hash_size)
    return out


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Reference:
    """The forward pass; with `bf16`, inputs of a product are rounded to bfloat16 and nothing else is."""

    def __init__(self, schema: Schema, config: ModelConfig, params: Arrays, tables: Arrays, bf16: bool = False) -> None:
        self.schema, self.config, self.bf16 = schema, config, bf16
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.tables = {name: np.asarray(value, np.float64) for name, value in tables.items()}

    def logits(self, arrays: Arrays) -> np.ndarray:
        """Logits `[B, T]`."""
        query, ad = (self.tower(tower, arrays[f"{tower}_ids"], arrays[f"{tower}_floats"]) for tower in ("query", "ad"))
        return (query * ad).sum(axis=-1) + self.params["bias"]

    def tower(self, tower: Tower, ids: Any, floats: Any) -> np.ndarray:
        """Output of one tower, `[B, T, D]`; the query's is divided by the root of D."""
        x0 = self.inputs(tower, np.asarray(ids), np.asarray(floats, np.float64))
        at = f"{tower}/mmoe"
        experts = np.stack([self.expert(f"{at}/experts/{e}", x0) for e in range(self.config.experts)], axis=1)
        out = []
        for t in range(len(self.schema.tasks)):
            hidden = np.maximum(self.dense(f"{at}/gate_hidden/{t}", x0), 0)
            gate = softmax(self.dense(f"{at}/gate_out/{t}", hidden))
            out.append(self.dense(f"{at}/heads/{t}", np.einsum("be,bed->bd", gate, experts)))
        return np.stack(out, axis=1) * (self.config.output_dim**-0.5 if tower == "query" else 1.0)

    def expert(self, at: str, x0: np.ndarray) -> np.ndarray:
        x = x0
        for i in range(self.config.full_rank_layers):
            x = x0 * self.dense(f"{at}/full/{i}/inner", x) + x
        for i in range(self.config.low_rank_layers):
            inner = self.product(x, self.params[f"{at}/low/{i}/down/kernel"])
            x = x0 * self.dense(f"{at}/low/{i}/up", inner) + x
        for i in range(len(self.config.mlp)):
            x = np.maximum(self.dense(f"{at}/mlp/{i}", x), 0)
        return self.dense(f"{at}/out", x)

    def dense(self, at: str, x: np.ndarray) -> np.ndarray:
        return self.product(x, self.params[f"{at}/kernel"]) + self.params[f"{at}/bias"]

    def product(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        if self.bf16:
            x, w = (v.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64) for v in (x, w))
        return x @ w.T

    def inputs(self, tower: Tower, ids: np.ndarray, floats: np.ndarray) -> np.ndarray:
        """x0: the id features in schema order, then the floats."""
        parts, column = [], 0
        for f in self.schema.features:
            if f.tower == tower and f.kind in ("categorical", "bag", "sequence"):
                slots = 1 if f.kind == "categorical" else f.max_length
                parts.append(self.pooled(tower, f, ids[:, column : column + slots]))
                column += slots
        return np.concatenate([*parts, floats], axis=1)

    def pooled(self, tower: Tower, f: Feature, ids: np.ndarray) -> np.ndarray:
        table, offset = table_offsets(self.schema)[f.shares or f.name]
        weights = np.ones(ids.shape[1])
        if f.kind == "sequence":
            weights = softmax(self.params[f"{tower}/inputs/recency/{f.name}"])
        out = np.zeros((len(ids), f.dim))
        for b, row in enumerate(ids):
            present = np.flatnonzero(row >= 0)
            for slot in present:
                out[b] += weights[slot] / weights[present].sum() * self.tables[table][offset + row[slot]]
        return out
