"""Trains the tiny model on several meshes of 8 simulated CPU devices and prints JSON of what came out.

A program of its own, because the number of devices is fixed when JAX starts:
`python -m tests.support.sharded_runs OUT.npz PREPARED WORKDIR`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.support import tiny
from tests.support.steps import DECAY, STEPS, batches, compiled, fresh
from tt_jax.config import Config, ShardingConfig
from tt_jax.evaluation.predict import INPUT_ARRAYS
from tt_jax.models.two_tower import TwoTower
from tt_jax.parallel.sharding import batch_sharding, make_mesh, on_mesh, place_tables, replicated, state_specs
from tt_jax.schema import Schema
from tt_jax.training.collectives import ManyDevices, shard_predict, shard_step
from tt_jax.training.loop import train
from tt_jax.training.step import TrainState, make_step

CONFIG = dataclasses.replace(
    DECAY, model=dataclasses.replace(DECAY.model, experts=1, low_rank_layers=0, mlp=(8,))
)  # every kind of input, fewer products to compile
MTMD = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, kind="mtmd"))
BATCHES = 4
# name -> mesh, chunk_rows, rules. The tables of the tiny schema are dim8 (150 rows) and dim4.
RUNS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "2": ("1x2", 0, ()),
    "4": ("1x4", 8, ()),
    "8": ("1x8", 0, ()),
    "2x4": ("2x4", 0, ()),
    "2x4 rows+columns": ("2x4", 0, ("dim8=rows+columns",)),
    "2x2 rows": ("2x2", 0, ("dim8=rows", "dim.*=replicated")),
}


def run(
    shape: str, chunk_rows: int, rules: tuple[str, ...], config: Config = CONFIG, schema: Schema = tiny.SCHEMA
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts of a run, and its arrays: losses by step, state, predictions."""
    hosts, devices = map(int, shape.split("x"))
    mesh = make_mesh(shape, jax.devices()[: hosts * devices])
    model = TwoTower(schema, config.model, "f32")
    placements = place_tables(mesh, model.tables.shapes, ShardingConfig(tables=rules))
    specs = state_specs(fresh(config, schema), placements)
    shardings = on_mesh(mesh, specs)
    step = make_step(model, config, STEPS, chunk_rows, ManyDevices(placements, mesh.shape))
    state = jax.device_put(fresh(config, schema), shardings)
    data = [jax.device_put(batch, batch_sharding(mesh)) for batch in batches(BATCHES, schema=schema)]
    jitted = jax.jit(
        shard_step(step, mesh, specs), out_shardings=(shardings, replicated(mesh)), donate_argnums=0
    )  # fmt: skip
    compiled = jitted.lower(state, data[0]).compile()
    losses = []
    for batch in data:
        state, _ = compiled(state, batch)
        losses.append(np.asarray(state.metrics.loss_T))
    arguments = state.params, state.tables, {name: data[0][name] for name in INPUT_ARRAYS}
    predict = jax.jit(shard_predict(model, mesh, placements)).lower(*arguments).compile()
    logits = predict(*arguments)
    one = state.tables["dim8"].addressable_shards[0].data
    facts = {
        "placements": placements,
        "part": list(one.shape),
        "hlo": compiled.as_text(),
        "hlo_predict": predict.as_text(),
    }
    return facts, arrays_of(state, losses, logits)


def arrays_of(state: TrainState, losses: list[np.ndarray], logits: jax.Array) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(state)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}
    return {**found, "losses": np.stack(losses), "logits": np.asarray(logits)}


def one_device(config: Config = CONFIG, schema: Schema = tiny.SCHEMA) -> dict[str, np.ndarray]:
    """Arrays of the same run on one device, by the step that is used there."""
    model, state, losses = TwoTower(schema, config.model, "f32"), fresh(config, schema), []
    for batch in batches(BATCHES, schema=schema):
        state, _ = compiled(config, schema=schema)(state, batch)
        losses.append(np.asarray(state.metrics.loss_T))
    first = batches(1, schema=schema)[0]
    return arrays_of(state, losses, jax.jit(model.predict)(state.params, state.tables, first))


def run_config(prepared: str, mesh: str) -> Config:
    """Of a short run of the whole loop."""
    data = dataclasses.replace(CONFIG.data, path=prepared, batch_size=64)
    small = dataclasses.replace(CONFIG.train, epochs=0.2)
    return dataclasses.replace(CONFIG, data=data, train=small, sharding=ShardingConfig(mesh, ("dim8=rows+columns",)))


def main() -> None:
    facts: dict[str, Any] = {}
    arrays: dict[str, Any] = {f"1|{key}": value for key, value in one_device().items()}
    for name, arguments in RUNS.items():
        facts[name], found = run(*arguments)
        arrays.update({f"{name}|{key}": value for key, value in found.items()})
    for name, found in (
        ("mtmd 1", one_device(MTMD)),
        ("mtmd 2", run("1x2", 0, (), MTMD)[1]),
        ("dynamic 1", one_device(schema=tiny.DYNAMIC)),
        ("dynamic 2x4", run("2x4", 0, ("dim8=rows+columns",), schema=tiny.DYNAMIC)[1]),
    ):
        arrays.update({f"{name}|{key}": value for key, value in found.items()})
    np.savez(sys.argv[1], **arrays)
    report = train(run_config(sys.argv[2], "2x4"), Path(sys.argv[3])).facts.report
    print(json.dumps({"runs": facts, "report": report}))


if __name__ == "__main__":
    main()
