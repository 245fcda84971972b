"""A kind of model and a loss that are defined here, in no file of ours, are trained by their names."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from tests.support import tiny
from tests.unit.training.test_step import batches
from tt_jax.config import Config, ConfigError, ModelConfig, TrainConfig
from tt_jax.config.registry import LOSSES, MODEL_KINDS
from tt_jax.losses import cross_entropy
from tt_jax.models.dense import Dense, MatmulPrecision
from tt_jax.models.tower_body import TowerBody
from tt_jax.models.two_tower import TwoTower, is_two_tower
from tt_jax.schema import Schema
from tt_jax.training.setup import check_config
from tt_jax.training.step import TrainState, init_state, make_step


class Bilinear(TowerBody):
    """x0 `[d, B]` -> `[T, D, B]`: two matrices for each task, shared out by a gate that is always even."""

    def __init__(self, width: int, tasks: int, config: ModelConfig, *, precision: MatmulPrecision) -> None:
        self.heads = nnx.List([Dense(width, config.output_dim, precision=precision) for _ in range(tasks)])

    def __call__(self, x0_dB: Array, dropout_key: Array | None = None) -> Array:
        return jnp.stack([head(x0_dB) for head in self.heads])

    def gates(self, x0_dB: Array) -> Array:
        return jnp.full((len(self.heads), 2, x0_dB.shape[1]), 0.5)

    @staticmethod
    def gate_parts(schema: Schema, config: ModelConfig) -> tuple[str, ...]:
        return ("left", "right")


def twice(logits_BT: Array, labels_BT: Array) -> Array:
    return 2 * cross_entropy(logits_BT, labels_BT)


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    """As a decorator would, but not while other tests are collected, which list the kinds."""
    MODEL_KINDS.register("bilinear")(Bilinear)
    LOSSES.register("twice")(twice)


def two_steps(config: Config) -> tuple[TwoTower, TrainState]:
    model = TwoTower(tiny.SCHEMA, config.model, "f32")
    state, step = init_state(model, config, 2), jax.jit(make_step(model, config, 2), donate_argnums=0)
    for batch in batches(2):
        state, _ = step(state, batch)
    return model, state


def test_a_kind_of_ones_own_trains_and_shows_its_gates():
    config = dataclasses.replace(tiny.CONFIG, model=dataclasses.replace(tiny.CONFIG.model, kind="bilinear"))
    assert Config.from_json(config.to_json()) == config
    assert is_two_tower(config.model)
    model, state = two_steps(config)
    names = {f"{tower}/body/heads/{t}/kernel" for tower in ("query", "ad") for t in range(3)}
    assert names <= set(state.params)
    first = model.init(config.seed)[0]
    assert all((np.asarray(state.params[name]) != first[name]).any() for name in names)
    assert model.experts == ("left", "right")
    gates = model.gates(state.params, state.tables, {n: jnp.asarray(a) for n, a in batches(1)[0].items()})
    assert {tower: g.shape for tower, g in gates.items()} == {"query": (3, 2, 64), "ad": (3, 2, 64)}


def test_a_name_that_is_registered_again_is_another_model():
    config = dataclasses.replace(tiny.CONFIG.model, kind="again")
    MODEL_KINDS.register("again")(Bilinear)
    before = TwoTower(tiny.SCHEMA, config, "f32")
    MODEL_KINDS.register("again")(type("Bilinear", (Bilinear,), {}))
    assert TwoTower(tiny.SCHEMA, config, "f32") != before  # else a compiled function of the old one would be taken
    with pytest.raises(ValueError, match="kind of model 'mtmd' is one of tt-jax"):
        MODEL_KINDS.register("mtmd")


def test_a_loss_of_ones_own_is_what_is_learned_and_reported():
    config = dataclasses.replace(tiny.CONFIG, train=TrainConfig(loss="twice"))
    states = [two_steps(c)[1] for c in (tiny.CONFIG, config)]
    plain, doubled = (jax.device_get(s.metrics.loss_T) for s in states)
    assert (doubled > 1.5 * plain).all()
    # Row-wise Adagrad sums squared gradients: those of the first step are four times as large.
    ratio = [float(jnp.sum(s.accumulators["dim8"])) for s in states]
    assert ratio[1] / ratio[0] == pytest.approx(4, rel=0.1)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"config\.model\.kind: unknown 'mtdm'; did you mean 'mtmd'\?"):
        Config(model=ModelConfig(kind="mtdm"))
    with pytest.raises(ConfigError, match=r"config\.train\.loss: unknown 'hinge'; valid names: .*cross_entropy"):
        check_config(Config(train=TrainConfig(loss="hinge")), tiny.SCHEMA)
    with pytest.raises(ValueError, match="unknown kind of model 'mtdm'; known are mmoe_dcn"):
        TwoTower(tiny.SCHEMA, ModelConfig(kind="mtdm"), "f32")
