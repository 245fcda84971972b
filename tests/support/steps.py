"""Training steps of the tiny model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from tests.support import tiny
from tt_jax.config import Config
from tt_jax.features.encoder import Encoder
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import Schema
from tt_jax.training.step import MODEL_ARRAYS, TrainState, init_state, make_step

STEPS, ROWS = 6, 64
BASE = dataclasses.replace(
    tiny.CONFIG, optimizer=dataclasses.replace(tiny.CONFIG.optimizer, learning_rate=3e-3, warmup=0.4, clip_norm=0.3)
)


DECAY = dataclasses.replace(BASE, optimizer=dataclasses.replace(BASE.optimizer, embedding_decay=0.01))


def batches(n: int, rows: int = ROWS, seed: int = 0, schema: Schema = tiny.SCHEMA) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    encoded = [Encoder(schema).encode(tiny.columns(rng, rows)).arrays for _ in range(n)]
    return [{name: arrays[name] for name in MODEL_ARRAYS} for arrays in encoded]


@functools.cache  # one compilation of a kind
def compiled(run: Config = BASE, chunk_rows: int = 0, schema: Schema = tiny.SCHEMA) -> Any:
    """The step, which donates its state: a buffer that cannot be reused warns, which is an error here."""
    return jax.jit(make_step(TwoTower(schema, run.model, "f32"), run, STEPS, chunk_rows), donate_argnums=0)


def fresh(run: Config = BASE, schema: Schema = tiny.SCHEMA) -> TrainState:
    """The first state, with random biases."""
    state = init_state(TwoTower(schema, run.model, "f32"), run, STEPS)
    params, tables = tiny.weights(1, schema, run)
    return state.replace(params=params, tables=tables)


def trained(step: Any, state: TrainState, data: list[dict[str, np.ndarray]]) -> TrainState:
    for batch in data:
        state, _ = step(state, batch)
    return state
