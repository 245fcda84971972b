"""Parameters and operations: against XLA's count, and equal budgets of the configurations that are compared."""

from __future__ import annotations

import dataclasses
from math import prod

import jax
import jax.numpy as jnp
import pytest

from configs import adworld as adworld_config
from configs import kuairand as kuairand_config
from input_pipeline.recipes import adworld, kuairand
from tests.support import tiny
from tests.support.kinds import kind_of
from tt_jax.compare.cost import cost_of
from tt_jax.config.registry import MODEL_KINDS
from tt_jax.models.two_tower import TwoTower

KINDS = MODEL_KINDS.names
TWO_TOWERS = tuple(kind for kind in KINDS if kind != "heavy")
WIDE = dataclasses.replace(tiny.CONFIG.model, rank=40, mlp=(200, 80), gate_hidden=40, output_dim=64)
SCHEMA = dataclasses.replace(
    tiny.SCHEMA,
    features=tuple(dataclasses.replace(f, dim=150) if f.kind == "dense" else f for f in tiny.SCHEMA.features),
)
ROWS = 128


@pytest.mark.parametrize("kind", KINDS)
def test_cost_is_what_xla_counts(kind):
    model = TwoTower(SCHEMA, kind_of(kind, WIDE), "f32")
    params, tables = model.shapes()
    arrays = {}
    for tower, layout in SCHEMA.layout.items():
        arrays[f"{tower}_ids"] = jax.ShapeDtypeStruct((ROWS, layout.id_slots), jnp.int32)
        arrays[f"{tower}_floats"] = jax.ShapeDtypeStruct((ROWS, layout.float_width), jnp.float32)
    found, cost = jax.jit(model.predict).lower(params, tables, arrays).cost_analysis(), cost_of(model)
    assert cost.forward_flops == pytest.approx(found["flops"] / ROWS, rel=0.08)  # the rest is elementwise
    assert cost.dense_parameters == sum(prod(p.shape) for p in params.values())
    assert cost.table_parameters == 150 * 8 + 13 * 4
    if kind == "heavy":
        assert (cost.query_flops, cost.ad_flops, cost.score_flops) == (None, None, cost.forward_flops)
        return
    assert cost.query_flops is not None
    assert cost.ad_flops is not None
    assert cost.score_flops == 2 * 3 * 64
    assert cost.query_flops + cost.ad_flops + cost.score_flops == cost.forward_flops
    arguments = (arrays["ad_ids"], arrays["ad_floats"])
    embed = jax.jit(model.embed, static_argnums=2).lower(params, tables, "ad", *arguments).cost_analysis()
    assert cost.ad_flops == pytest.approx(embed["flops"] / ROWS, rel=0.08)


@pytest.mark.parametrize("kind", TWO_TOWERS)
@pytest.mark.parametrize("name", ["adworld", "kuairand"])
def test_compared_kinds_have_equal_budgets(name, kind):
    schema = adworld.schema(None) if name == "adworld" else kuairand.schema()
    config = adworld_config.config if name == "adworld" else kuairand_config.config
    found, reference = (cost_of(TwoTower(schema, config(k).model, "f32")) for k in (kind, "mmoe_dcn"))
    assert found.dense_parameters == pytest.approx(reference.dense_parameters, rel=0.1)
    assert found.forward_flops == pytest.approx(reference.forward_flops, rel=0.1)
    assert found.table_parameters == reference.table_parameters
