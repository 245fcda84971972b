"""The model against NumPy float64, and what its parts promise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import Array

from tests.support import tiny
from tests.support.forward import encoded, model_of, predict, random_arrays
from tests.support.reference_model import MIXED, Reference
from tt_jax.models.dense import matmul, resolve_precision
from tt_jax.models.embedding import gather
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, Feature

PLAIN = dataclasses.replace(
    tiny.CONFIG.model, experts=1, full_rank_layers=0, low_rank_layers=0, mlp=(), output_dim=5, gate_hidden=3
)
DEEP = dataclasses.replace(
    tiny.CONFIG.model, experts=3, full_rank_layers=2, low_rank_layers=2, rank=3, mlp=(12, 6), output_dim=7
)
SHAPES = {"tiny": tiny.CONFIG.model, "plain": PLAIN, "deep": DEEP}

FLOATS_ONLY = dataclasses.replace(
    MIXED, features=(Feature("n", "numeric", "query"), Feature("h", "dense", "ad", dim=4))
)


@pytest.mark.parametrize("shape", SHAPES)
def test_predict_is_the_reference_in_float32(shape):
    model, params, tables = model_of(SHAPES[shape])
    arrays = encoded(64)
    logits = predict(model, params, tables, arrays)
    assert (logits.dtype, logits.shape) == (jnp.float32, (64, 3))
    expected = Reference(tiny.SCHEMA, model.config, params, tables).logits(arrays)
    assert expected.std(axis=0).min() > 0.05  # the rows differ, so agreement means something
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("schema", [MIXED, FLOATS_ONLY], ids=["mixed widths", "no ids"])
def test_predict_is_the_reference_for_other_schemas(schema):
    model, params, tables = model_of(DEEP, schema=schema)
    arrays = random_arrays(schema, 64)
    expected = Reference(schema, model.config, params, tables).logits(arrays)
    logits = predict(model, params, tables, arrays)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_bf16_rounds_the_inputs_of_products_and_nothing_else():
    model, params, tables = model_of(DEEP, "bf16")
    arrays = encoded(64)
    logits = predict(model, params, tables, arrays)
    rounded = Reference(tiny.SCHEMA, DEEP, params, tables, bf16=True).logits(arrays)
    exact = Reference(tiny.SCHEMA, DEEP, params, tables).logits(arrays)
    # One rounding may fall the other way, in float32 against float64 before it: 1 part in 256 of one input.
    np.testing.assert_allclose(logits, rounded, atol=0.01 * exact.std())
    assert 0.001 < np.abs(logits - exact).max() / exact.std() < 0.1


@pytest.mark.parametrize("outputs", [20, 32, 7])
def test_bf16_gradients_are_those_of_the_rounded_product(outputs):
    rng = np.random.default_rng(0)
    w, x, g = (rng.normal(size=s).astype(np.float32) for s in ((outputs, 30), (30, 40), (outputs, 40)))
    value, backward = jax.vjp(lambda w, x: matmul(w, x, "bf16"), w, x)
    wr, xr, gr = (v.astype(ml_dtypes.bfloat16).astype(np.float64) for v in (w, x, g))
    for found, rounded, exact in zip(
        (value, *backward(jnp.asarray(g))), (wr @ xr, gr @ xr.T, wr.T @ gr), (w @ x, g @ x.T, w.T @ g), strict=True
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, rounded, atol=1e-5)
        np.testing.assert_allclose(found, exact, atol=0.01 * np.abs(exact).max())
        assert np.abs(found - exact).max() > 1e-4


def test_f32_products_are_not_rounded():
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(20, 30)).astype(np.float32), rng.normal(size=(30, 40)).astype(np.float32)
    np.testing.assert_allclose(matmul(w, x, "f32"), w.astype(np.float64) @ x, atol=1e-5)


def test_precision_is_resolved_by_platform():
    assert [resolve_precision("auto", p) for p in ("cpu", "gpu", "tpu")] == ["f32", "bf16", "bf16"]
    assert [resolve_precision(p, "cpu", training) for p in ("f32", "bf16") for training in (False, True)] == [
        "f32", "f32", "bf16", "bf16",
    ]  # fmt: skip
    multiplies_bf16 = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
    assert resolve_precision("auto", "cpu", training=True) == ("bf16" if multiplies_bf16 else "f32")
    assert resolve_precision("auto", "gpu", training=True) == "bf16"


def test_model_gradients_in_bf16_point_where_those_in_f32_do():
    arrays = encoded(64)

    def gradient(precision: str) -> np.ndarray:
        model, params, tables = model_of(tiny.CONFIG.model, precision)
        tree = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(model.predict(p, tables, arrays)))))(params)
        return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])

    f32, bf16 = gradient("f32"), gradient("bf16")
    assert f32 @ bf16 / np.linalg.norm(f32) / np.linalg.norm(bf16) > 0.999
    assert np.linalg.norm(f32 - bf16) > 1e-4 * np.linalg.norm(f32)


def test_gates_are_shares():
    model, params, tables = model_of(DEEP)
    arrays = encoded(64)
    rows = model.rows({}, arrays)["query"]
    tower = model.bind(params).query
    x0 = tower.inputs(gather(tables, rows), rows, arrays["query_floats"])
    gates = jax.jit(tower.body.gates)(x0)
    assert gates.shape == (3, 3, 64)  # tasks, experts, examples
    np.testing.assert_allclose(gates.sum(axis=1), 1.0, rtol=1e-6)
    assert gates.min() >= 0
    assert np.asarray(gates).std(axis=-1).min() > 0.01  # they depend on the input


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_embedded_towers_give_the_prediction_by_a_plain_dot_product(precision):
    model, params, tables = model_of(DEEP, precision)
    arrays = encoded(64)
    query, ad = (
        np.asarray(jax.jit(model.embed, static_argnums=2)(params, tables, t, arrays[f"{t}_ids"], arrays[f"{t}_floats"]))
        for t in TOWERS
    )
    assert query.shape == ad.shape == (64, 3, 7)
    logits = (query.astype(np.float64) * ad).sum(axis=-1) + np.asarray(params["bias"])
    np.testing.assert_allclose(logits, predict(model, params, tables, arrays), rtol=1e-5, atol=1e-5)


def test_a_row_is_predicted_alike_in_any_batch():
    model, params, tables = model_of(tiny.CONFIG.model)
    arrays = encoded(64)
    whole = predict(model, params, tables, arrays)
    one = predict(model, params, tables, {name: a[5:6] for name, a in arrays.items()})
    np.testing.assert_allclose(whole[5:6], one, rtol=1e-5, atol=1e-6)


# Fresh weights.


def test_init_follows_the_seed_and_the_stated_deviations():
    config = dataclasses.replace(tiny.CONFIG.model, mlp=(400,), embedding_init=0.02)
    model = TwoTower(tiny.SCHEMA, config, "f32")
    (params, tables), (again, tables_again), (other, _) = model.init(1), model.init(1), model.init(2)
    jax.tree.map(np.testing.assert_array_equal, (params, tables), (again, tables_again))
    kernel = "query/body/experts/0/mlp/0/kernel"
    assert not np.array_equal(params[kernel], other[kernel])
    assert not np.array_equal(params[kernel], params[kernel.replace("experts/0", "experts/1")])
    assert all(np.all(value == 0) for value in params.values() if value.ndim == 1)
    for name, inputs, gain in (
        (kernel, 29, 2), ("ad/body/experts/1/out/kernel", 400, 1), ("ad/body/experts/0/full/0/inner/kernel", 24, 1)
    ):  # fmt: skip
        assert params[name].std() == pytest.approx((gain / inputs) ** 0.5, rel=0.1)
    assert tables["dim8"].std() == pytest.approx(0.02, rel=0.1)
    assert {a.dtype for a in jax.tree.leaves((params, tables))} == {jnp.dtype("float32")}


# Dropout.


def test_id_dropout_of_1_hides_every_hashed_id_and_no_other():
    config = dataclasses.replace(tiny.CONFIG.model, id_dropout=1.0)
    model, params, tables = model_of(config)
    arrays = encoded(64)
    hidden, shown = model.rows({}, arrays, jax.random.key(0)), model.rows({}, arrays)
    for tower in TOWERS:
        assert (np.asarray(hidden[tower]["dim8"]) == len(tables["dim8"])).all()  # all of them are hashed
        np.testing.assert_array_equal(hidden[tower]["dim4"], shown[tower]["dim4"])  # and all of these vocabularies
    others = {**arrays, "query_ids": arrays["query_ids"].at[:, 0].set(3), "ad_ids": arrays["ad_ids"].at[:, :2].set(9)}

    @jax.jit
    def logits(rows: Any) -> Array:
        gathered = {t: gather(tables, rows[t]) for t in TOWERS}
        return model.logits(params, model.inputs(params, gathered, rows, arrays))

    a, b = logits(hidden), logits(model.rows({}, others, jax.random.key(0)))
    np.testing.assert_array_equal(a, b)
    assert np.abs(logits(model.rows({}, arrays)) - logits(model.rows({}, others))).max() > 0.01


def test_id_dropout_hides_its_share_anew_for_every_key():
    config = dataclasses.replace(tiny.CONFIG.model, id_dropout=0.3)
    model, _, tables = model_of(config)
    ids = {"query_ids": jnp.full((2000, 9), 2, jnp.int32), "ad_ids": jnp.full((2000, 4), 2, jnp.int32)}
    a, b, again = (model.rows({}, ids, jax.random.key(seed)) for seed in (0, 1, 0))
    jax.tree.map(np.testing.assert_array_equal, a, again)
    for tower in TOWERS:
        hidden_a, hidden_b = (np.asarray(x[tower]["dim8"]) == len(tables["dim8"]) for x in (a, b))
        assert abs(hidden_a.mean() - 0.3) < 0.03
        assert abs((hidden_a & hidden_b).mean() - 0.09) < 0.02


def test_predict_has_no_dropout():
    still, params, tables = model_of(tiny.CONFIG.model)
    moving = TwoTower(tiny.SCHEMA, dataclasses.replace(still.config, dropout=0.9, id_dropout=0.9), "f32")
    arrays = encoded(64)
    np.testing.assert_array_equal(predict(still, params, tables, arrays), predict(moving, params, tables, arrays))


def test_dropout_keeps_the_mean_of_an_experts_output():
    config = dataclasses.replace(tiny.CONFIG.model, dropout=0.4)
    model, params, tables = model_of(config)
    arrays = encoded(4)
    rows = model.rows({}, arrays)["ad"]
    gathered = gather(tables, rows)

    def output(key: Array | None) -> Array:
        ad = model.bind(params).ad
        return ad(ad.inputs(gathered, rows, arrays["ad_floats"]), key)

    samples = np.asarray(jax.jit(jax.vmap(output))(jax.random.split(jax.random.key(0), 4000)))
    error = samples.std(axis=0) / 4000**0.5
    assert samples.std(axis=0).min() > 1e-3
    assert (np.abs(samples.mean(axis=0) - jax.jit(output)(None)) < 5 * error + 1e-5).all()
