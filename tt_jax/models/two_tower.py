"""The two towers and their dot products, and the model as pure functions of plain arrays.

    logit[b, t] = <query[b, t], ad[b, t]> / sqrt(D) + bias[t],    p = sigmoid(logit)

The division keeps fresh logits near the bias at any D; it is folded into the query tower's output, so that serving
takes a plain dot product. T are the tasks with a head of their own, `Schema.heads`. Outputs are not L2-normalised: a
cosine cannot express the spread of click probabilities.

What makes a tower's output of its input is a `TowerBody`, by `config.kind` one of
`tt_jax.config.registry.MODEL_KINDS`. The exception is a heavy ranker: it is no two-tower, but is trained and evaluated
as one.

Parameters are a flat dict `{"query/body/experts/0/full/0/inner/kernel": array}`: one namespace for regex rules,
checkpoints and exports. NNX modules exist only inside a trace.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tt_jax.config import ConfigError, ModelConfig
from tt_jax.config.registry import MODEL_KINDS
from tt_jax.models.dense import MatmulPrecision
from tt_jax.models.embedding import Tables, gather
from tt_jax.models.heavy_ranker import HeavyRanker
from tt_jax.models.tower_body import TowerBody
from tt_jax.schema import TOWERS, Schema, Tower

Params = dict[str, Array]
Gathered = dict[str, Array]


class TowerModule(nnx.Module):
    """One side: `inputs` makes x0 `[d, B]` of gathered rows and floats, the call makes `[T, D, B]` of x0."""

    def __init__(self, schema: Schema, tower: Tower, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        kind: type[TowerBody] = MODEL_KINDS[config.kind]
        self.inputs = kind.Input(schema, tower)
        self.body = kind.of(self.inputs, len(schema.heads), config, precision=precision)
        self.scale = config.output_dim**-0.5 if tower == "query" else 1.0

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        return self.body(x0_dB, dropout_key) * self.scale


class TwoTowerModule(nnx.Module):
    """Both towers and a bias per task."""

    def __init__(self, schema: Schema, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        self.query = TowerModule(schema, "query", config, precision=precision)
        self.ad = TowerModule(schema, "ad", config, precision=precision)
        self.bias = nnx.Param(jnp.zeros((len(schema.heads),), jnp.float32))

    def tower(self, tower: Tower) -> TowerModule:
        """The query or the ad side."""
        return self.query if tower == "query" else self.ad

    def __call__(self, inputs: Mapping[Tower, Array], key: Array | None) -> Array:
        """Logits `[B, T]` of both sides' x0. `key`: of dropout; None = no dropout."""
        keys = {t: None if key is None else jax.random.fold_in(key, i) for i, t in enumerate(TOWERS)}
        query_TDB, ad_TDB = (self.tower(t)(inputs[t], keys[t]) for t in TOWERS)
        return jnp.sum(query_TDB * ad_TDB, axis=1).T + self.bias[...]


@dataclass(frozen=True)
class TwoTower:
    """The model as pure functions of `(params, tables, arrays)`; arrays are named as in `schema.array_specs`."""

    schema: Schema
    config: ModelConfig
    precision: MatmulPrecision
    kind: type[TowerBody | HeavyRanker] = field(init=False)  # compared too: a name may be registered again

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", MODEL_KINDS[self.config.kind])

    @cached_property
    def tables(self) -> Tables:
        """The embedding tables."""
        return Tables(self.schema)

    @cached_property
    def _graph(self) -> tuple[nnx.GraphDef[TwoTowerModule | HeavyRanker], list[tuple[Any, Any]]]:
        """The module's structure, and the path and variable of every parameter."""
        whole: type[TwoTowerModule | HeavyRanker] = TwoTowerModule
        if issubclass(self.kind, HeavyRanker):
            whole = self.kind
        module = nnx.eval_shape(lambda: whole(self.schema, self.config, precision=self.precision))
        graph, state = nnx.split(module)
        return graph, list(nnx.to_flat_state(state))

    def init(self, seed: int) -> tuple[Params, Params]:
        """Fresh `(params, tables)`, float32 but for the int32 keys of dynamic tables; the same for the same seed.

        Parameters are drawn by NumPy, each by its name: compiling a draw per shape would take XLA seconds.
        """
        params = {}
        for path, leaf in self._graph[1]:
            name = _name(path)
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            std = leaf.get_metadata().get("std", 0.0)
            params[name] = jnp.asarray(std * rng.standard_normal(leaf.shape, np.float32))
        return params, self.tables.init(jax.random.key(seed), self.config.embedding_init)

    def shapes(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and dtypes of `(params, tables)`."""
        params = {_name(path): jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in self._graph[1]}
        tables = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in self.tables.shapes.items()}
        keys = {n: jax.ShapeDtypeStruct(shape, jnp.int32) for n, shape in self.tables.key_shapes.items()}
        return params, {**tables, **keys}

    def bind(self, params: Params) -> TwoTowerModule | HeavyRanker:
        """The NNX module with these parameters. For use inside a trace."""
        graph, leaves = self._graph
        return nnx.merge(
            graph, nnx.from_flat_state([(path, leaf.replace(params[_name(path)])) for path, leaf in leaves])
        )

    def rows(
        self, tables: Params, arrays: Mapping[str, Array], dropout_key: Array | None = None
    ) -> dict[Tower, Gathered]:
        """Table rows of both towers' ids; with a key, hashed ids are hidden at the rate of `id_dropout`."""
        keys = {t: None if dropout_key is None else jax.random.fold_in(dropout_key, i) for i, t in enumerate(TOWERS)}
        dropout = self.config.id_dropout
        return {t: self.tables.rows(t, tables, arrays[f"{t}_ids"], dropout, keys[t]) for t in TOWERS}

    def inputs(
        self,
        params: Params,
        gathered: Mapping[Tower, Gathered],
        rows: Mapping[Tower, Gathered],
        arrays: Mapping[str, Array],
    ) -> dict[Tower, Array]:
        """x0 float32 `[d, B]` of both towers from rows already gathered. Reads the `input_params` only."""
        module = self.bind(params)
        return {t: module.tower(t).inputs(gathered[t], rows[t], arrays[f"{t}_floats"]) for t in TOWERS}

    def input_params(self, params: Params) -> Params:
        """The parameters that `inputs` reads."""
        return {name: value for name, value in params.items() if "/inputs/" in name}

    def logits(self, params: Params, inputs: Mapping[Tower, Array], dropout_key: Array | None = None) -> Array:
        """Logits float32 `[B, T]` of the towers' inputs: where all the matrix products are."""
        return self.bind(params)(inputs, dropout_key)

    def predict(self, params: Params, tables: Params, arrays: Mapping[str, Array]) -> Array:
        """Logits float32 `[B, T]`."""
        rows = self.rows(tables, arrays)
        return self.logits(params, self.inputs(params, {t: gather(tables, rows[t]) for t in TOWERS}, rows, arrays))

    def gates(self, params: Params, tables: Params, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Share of each of the `experts` in each head, float32 `[T, E, B]`, of each mixture of experts.

        They are `query` and `ad`; a heavy ranker has one, `pair`; kinds without gates have none.
        """
        module = self.bind(params)
        if isinstance(module, HeavyRanker):
            rows = self.rows(tables, arrays)
            inputs = self.inputs(params, {t: gather(tables, rows[t]) for t in TOWERS}, rows, arrays)
            return {"pair": module.gates(inputs)}
        found = {t: self.tower_gates(params, tables, t, arrays[f"{t}_ids"], arrays[f"{t}_floats"]) for t in TOWERS}
        return {t: gates for t, gates in found.items() if gates is not None}

    def tower_gates(self, params: Params, tables: Params, tower: Tower, ids: Array, floats: Array) -> Array | None:
        """`gates` of one tower of two, for what `embed` takes; None for kinds without gates."""
        side, x0_dB = self._side(params, tables, tower, ids, floats)
        return side.body.gates(x0_dB)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of what the gates share out among, in order."""
        return self.kind.gate_parts(self.schema, self.config)

    def embed(self, params: Params, tables: Params, tower: Tower, ids: Array, floats: Array) -> Array:
        """Output of one tower, float32 `[n, T, D]`, for ids int32 `[n, S]` and floats `[n, F]`.

        Raises `ConfigError` for a heavy ranker.
        """
        side, x0_dB = self._side(params, tables, tower, ids, floats)
        return jnp.moveaxis(side(x0_dB), -1, 0)

    def _side(
        self, params: Params, tables: Params, tower: Tower, ids: Array, floats: Array
    ) -> tuple[TowerModule, Array]:
        """A tower and its x0."""
        require_two_towers(self.config)
        module = self.bind(params)
        assert isinstance(module, TwoTowerModule)
        side, rows = module.tower(tower), self.tables.rows(tower, tables, ids)
        return side, side.inputs(gather(tables, rows), rows, floats)


def is_two_tower(config: ModelConfig) -> bool:
    """Whether the kind is one; a heavy ranker is none."""
    return issubclass(MODEL_KINDS[config.kind], TowerBody)


def require_two_towers(config: ModelConfig) -> None:
    """Raises `ConfigError` for a heavy ranker, which has no tower to embed ads or queries with."""
    if not is_two_tower(config):
        raise ConfigError("config.model.kind: a heavy ranker has no ad tower to export or index; it is for labels only")


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
