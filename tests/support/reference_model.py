"""The model, of every kind, written again in NumPy float64: one feature, one expert, one task at a time."""

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
        if self.config.kind == "heavy":
            return self.heavy(arrays)
        query, ad = (self.tower(tower, arrays[f"{tower}_ids"], arrays[f"{tower}_floats"]) for tower in ("query", "ad"))
        return (query * ad).sum(axis=-1) + self.params["bias"]

    def tower(self, tower: Tower, ids: Any, floats: Any) -> np.ndarray:
        """Output of one tower, `[B, T, D]`; the query's is divided by the root of D."""
        ids = np.asarray(ids)
        x0, at = self.inputs(tower, ids, np.asarray(floats, np.float64)), f"{tower}/body"
        if self.config.kind.startswith("mmoe"):
            out = self.mmoe(at, x0)
        elif self.config.kind == "mtmd":
            out = self.mtmd(at, x0, self.domains(tower, ids, x0))
        else:
            shared = self.expert(f"{at}/stack", x0)
            out = [self.dense(f"{at}/heads/{t}", shared) for t in range(len(self.schema.heads))]
        return np.stack(out, axis=1) * (self.config.output_dim**-0.5 if tower == "query" else 1.0)

    def mmoe(self, at: str, x0: np.ndarray) -> list[np.ndarray]:
        """Output of every task, `[B, D]` each."""
        experts = np.stack([self.expert(f"{at}/experts/{e}", x0) for e in range(self.config.experts)], axis=1)
        out = []
        for t in range(len(self.schema.heads)):
            gate = softmax(self.dense(f"{at}/gate_out/{t}", self.gate_hidden(at, t, x0)))
            out.append(self.dense(f"{at}/heads/{t}", np.einsum("be,bed->bd", gate, experts)))
        return out

    def heavy(self, arrays: Arrays) -> np.ndarray:
        parts = [
            self.inputs(t, np.asarray(arrays[f"{t}_ids"]), np.asarray(arrays[f"{t}_floats"], np.float64))
            for t in ("query", "ad")
        ]
        tasks = self.mmoe("body", np.concatenate(parts, axis=1))
        logits = [self.product(np.maximum(h, 0), self.params[f"out/{t}/kernel"]) for t, h in enumerate(tasks)]
        return np.concatenate(logits, axis=1) + self.params["bias"]

    def domains(self, tower: Tower, ids: np.ndarray, x0: np.ndarray) -> np.ndarray:
        """Share of each scenario in each example, `[B, S]`."""
        names, column = self.schema.scenarios, 0
        for f in self.schema.features:
            if f.tower != tower or f.kind not in ("categorical", "bag", "sequence"):
                continue
            if f.name == self.schema.scenario and f.vocabulary:
                values = [str(f.vocabulary[i - 2]) if i >= 2 else "" for i in ids[:, column]]
                return np.array([[n == v if v in names else 1 / len(names) for n in names] for v in values], float)
            column += 1 if f.kind == "categorical" else f.max_length
        return softmax(self.dense(f"{tower}/body/domain_gate", x0))

    def mtmd(self, at: str, x0: np.ndarray, share: np.ndarray) -> list[np.ndarray]:
        """Example by example of the docstring of `tt_jax.models.mtmd`: output of every task, `[B, D]` each."""
        count, tasks = len(self.schema.scenarios), range(len(self.schema.heads))
        shared = [self.expert(f"{at}/task_shared/{s}", x0) for s in range(count)]
        common, out = self.expert(f"{at}/domain_shared", x0), []
        for t in tasks:
            gate = self.dense(f"{at}/gate_out/{t}", self.gate_hidden(at, t, x0)).reshape(len(x0), count, -1)
            total = np.zeros_like(common)
            for s in range(count):
                sources = [self.expert(f"{at}/task_specific/{s}/{t}", x0), shared[s], common]
                if count > 1:
                    others = [r for r in range(count) if r != s]
                    weight = softmax(self.params[f"{at}/affinity"][s, others])
                    mixed = sum(w * shared[r] for w, r in zip(weight, others, strict=True))
                    sources.append(self.dense(f"{at}/adapt/{s}", np.asarray(mixed)))
                shares = softmax(gate[:, s])
                total += share[:, s : s + 1] * np.einsum("bk,kbd->bd", shares, np.stack(sources))
            out.append(self.dense(f"{at}/heads/{t}", total))
        return out

    def gate_hidden(self, at: str, task: int, x0: np.ndarray) -> np.ndarray:
        return np.maximum(self.dense(f"{at}/gate_hidden/{task}", x0), 0)

    def expert(self, at: str, x0: np.ndarray) -> np.ndarray:
        x, crosses = x0, self.config.kind in ("mmoe_dcn", "dcn", "heavy")
        for i in range(self.config.full_rank_layers * crosses):
            x = x0 * self.dense(f"{at}/full/{i}/inner", x) + x
        for i in range(self.config.low_rank_layers * crosses):
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
