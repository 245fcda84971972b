"""The model against NumPy float64, and what its parts promise."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import Array

from tests import tiny
from tests.reference_model import Reference, table_offsets
from tt_jax.config import ModelConfig
from tt_jax.features import Encoder
from tt_jax.models.dense import matmul, resolve_precision
from tt_jax.models.embedding import Tables, gather
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, Feature, Schema, SchemaError, Task

PLAIN = dataclasses.replace(
    tiny.CONFIG.model, experts=1, full_rank_layers=0, low_rank_layers=0, mlp=(), output_dim=5, gate_hidden=3
)
DEEP = dataclasses.replace(
    tiny.CONFIG.model, experts=3, full_rank_layers=2, low_rank_layers=2, rank=3, mlp=(12, 6), output_dim=7
)
SHAPES = {"tiny": tiny.CONFIG.model, "plain": PLAIN, "deep": DEEP}

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
FLOATS_ONLY = dataclasses.replace(
    MIXED, features=(Feature("n", "numeric", "query"), Feature("h", "dense", "ad", dim=4, tower="ad"))
) if False else dataclasses.replace(
    MIXED, features=(Feature("n", "numeric", "query"), Feature("h", "dense", "ad", dim=4))
)


def encoded(n: int, seed: int = 0) -> dict[str, Array]:
    """Random rows of the tiny schema: missing values, empty and full lists."""
    return device(Encoder(tiny.SCHEMA).encode(tiny.columns(np.random.default_rng(seed), n)).arrays)


def device(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
    return {name: jnp.asarray(a) for name, a in arrays.items() if name != "keys"}


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


def model_of(config: ModelConfig, precision: Any = "f32", schema: Schema = tiny.SCHEMA) -> Any:
    """A model with random weights: `(model, params, tables)`."""
    run = dataclasses.replace(tiny.CONFIG, model=config)
    return TwoTower(schema, config, precision), *tiny.weights(3, schema, run)


@pytest.mark.parametrize("shape", SHAPES)
def test_predict_is_the_reference_in_float32(shape):
    model, params, tables = model_of(SHAPES[shape])
    arrays = encoded(96)
    logits = jax.jit(model.predict)(params, tables, arrays)
    assert (logits.dtype, logits.shape) == (jnp.float32, (96, 3))
    expected = Reference(tiny.SCHEMA, model.config, params, tables).logits(arrays)
    assert expected.std(axis=0).min() > 0.05  # the rows differ, so agreement means something
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("schema", [MIXED, FLOATS_ONLY], ids=["mixed widths", "no ids"])
def test_predict_is_the_reference_for_other_schemas(schema):
    model, params, tables = model_of(DEEP, schema=schema)
    arrays = random_arrays(schema, 64)
    expected = Reference(schema, model.config, params, tables).logits(arrays)
    logits = jax.jit(model.predict)(params, tables, arrays)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_bf16_rounds_the_inputs_of_products_and_nothing_else():
    model, params, tables = model_of(DEEP, "bf16")
    arrays = encoded(96)
    logits = np.asarray(jax.jit(model.predict)(params, tables, arrays))
    rounded = Reference(tiny.SCHEMA, DEEP, params, tables, bf16=True).logits(arrays)
    exact = Reference(tiny.SCHEMA, DEEP, params, tables).logits(arrays)
    print(np.abs(logits - rounded).max()/exact.std(), np.abs(logits-exact).max()/exact.std(), exact.std(0))
    assert 0
