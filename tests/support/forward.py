"""Forward passes of the tiny model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tests.support import tiny
from tt_jax.config import ModelConfig
from tt_jax.features.encoder import Encoder
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, Schema


def encoded(n: int, seed: int = 0) -> dict[str, Array]:
    """Random rows of the tiny schema: missing values, empty and full lists."""
    return device(Encoder(tiny.SCHEMA).encode(tiny.columns(np.random.default_rng(seed), n)).arrays)


def random_arrays(schema: Schema, n: int, seed: int = 0) -> dict[str, Array]:
    """Random ids, empty slots included, and floats of a schema."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for tower in TOWERS:
        layout = schema.layout[tower]
        ids = np.zeros((n, layout.id_slots), np.int32)
        for name, first, last in layout.ids:
            f = schema.feature(name)
            low = 0 if f.kind == "categorical" else -1
            ids[:, first:last] = rng.integers(low, schema.table_owner(f).rows, (n, last - first))
        arrays[f"{tower}_ids"] = ids
        arrays[f"{tower}_floats"] = rng.normal(size=(n, layout.float_width)).astype(np.float32)
    return device(arrays)


def predict(model: TwoTower, params: Any, tables: Any, arrays: Any) -> np.ndarray:
    """Compiled: operation by operation it would take seconds."""
    return np.asarray(jax.jit(model.predict)(params, tables, arrays))


@functools.cache  # one model of a kind, so that it is compiled once
def model_of(config: ModelConfig, precision: Any = "f32", schema: Schema = tiny.SCHEMA) -> Any:
    """A model with random weights: `(model, params, tables)`."""
    run = dataclasses.replace(tiny.CONFIG, model=config)
    return TwoTower(schema, config, precision), *tiny.weights(3, schema, run)


def device(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
    return {name: jnp.asarray(a) for name, a in arrays.items() if name != "keys"}
