"""Bytes that each device sends per training step, by kind of collective, beside the least that it has to send.

    python -m benchmarks.sharding --devices 8 --mesh 2x4 --tables "dim16=rows+columns"

Reads the program that XLA compiled; runs nothing, allocates no table. On a CPU the devices are simulated. Takes the
shape arguments of `benchmarks.train_step`. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.collectives import Collective, collectives
from benchmarks.train_step import add_shape, make_config, synthetic_schema
from tt_jax.config import ShardingConfig
from tt_jax.models.dense import resolve_precision
from tt_jax.models.two_tower import TwoTower
from tt_jax.parallel.sharding import batch_sharding, make_mesh, on_mesh, place_tables, replicated, state_specs
from tt_jax.schema import TOWERS, array_specs
from tt_jax.training.collectives import ManyDevices, shard_step
from tt_jax.training.step import MODEL_ARRAYS, init_state, make_step


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(p)
    p.add_argument("--devices", type=int, default=8)
    p.add_argument("--mesh", default="", help="see ShardingConfig.mesh")
    p.add_argument("--tables", default="", help="see ShardingConfig.tables, by commas")
    p.add_argument("--split-rows-gb", type=float, default=ShardingConfig.split_rows_gb)
    return p.parse_args()


def minimum(model: TwoTower, batch: int, devices: int) -> dict[str, float]:
    """Bytes that each device sends at least, in this scheme: its ids to all, once; every embedding value and its
    gradient once, unless it stays; the gradients of the dense part by a ring all-reduce."""
    values = sum(batch // devices * len(g.columns) * model.tables.shapes[g.table][1] for t in TOWERS
                 for g in model.tables.groups[t])  # fmt: skip
    ids = sum(batch // devices * len(g.columns) for t in TOWERS for g in model.tables.groups[t])
    dense = sum(prod(p.shape) for p in model.shapes()[0].values())
    share = (devices - 1) / devices
    return {
        "ids": 4.0 * (devices - 1) * ids,
        "values": 4.0 * share * values,
        "value_gradients": 4.0 * share * values,
        "dense_gradients": 4.0 * 2 * share * dense,
    }


def compile_step(a: argparse.Namespace, model: TwoTower) -> tuple[str, dict[str, str]]:
    """Text of the compiled step, and where its tables are."""
    config = make_config(a)
    mesh = make_mesh(a.mesh, jax.devices()[: a.devices])
    rules = ShardingConfig(a.mesh, tuple(r for r in a.tables.split(",") if r), a.split_rows_gb)
    placements = place_tables(mesh, model.tables.shapes, rules)
    state: Any = jax.eval_shape(lambda: init_state(model, config, 1000))
    specs = state_specs(state, placements)
    shardings = on_mesh(mesh, specs)
    arrays = array_specs(model.schema)
    batch = {
        name: jax.ShapeDtypeStruct((a.batch, arrays[name][1]), arrays[name][0], sharding=batch_sharding(mesh))
        for name in MODEL_ARRAYS
    }
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.dtype(x.dtype), sharding=s), state, shardings
    )
    step = make_step(model, config, 1000, 0, ManyDevices(placements, mesh.shape))
    jitted = jax.jit(
        shard_step(step, mesh, specs), out_shardings=(shardings, replicated(mesh)), donate_argnums=0
    )  # fmt: skip
    hlo = jitted.lower(abstract, batch).compile().as_text()
    assert hlo
    return hlo, placements


def purpose(c: Collective) -> str:
    """What a collective of the step is for, told by dtype and rank."""
    if c.kind == "all-reduce":
        return "sums"
    return "ids" if c.shapes[0][0] == "s32" else "values"


def main() -> None:
    a = parse_args()
    flag = f"--xla_force_host_platform_device_count={a.devices}"  # read when JAX first looks for devices
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    platform = jax.default_backend()
    if a.devices > jax.device_count() or a.batch % a.devices:
        raise SystemExit(f"--devices {a.devices}: {jax.device_count()} devices are here; --batch must be a multiple")
    model = TwoTower(synthetic_schema(a), make_config(a).model, resolve_precision(a.dtype, platform, training=True))
    hlo, placements = compile_step(a, model)
    sent: Counter[str] = Counter()
    for c in collectives(hlo):
        if not c.at_top:
            raise SystemExit(f"{c} is in a loop: its bytes cannot be told")
        sent[f"{c.kind} {purpose(c)}"] += round(c.bytes_sent)
    least = minimum(model, a.batch, a.devices)
    total, least_total = sum(sent.values()), sum(least.values())
    figures = {
        "device": jax.devices()[0].device_kind, "devices": a.devices, "mesh": a.mesh, "batch": a.batch,
        "rows": int(a.rows), "dim": a.dim, "tables": placements, "bytes_sent": dict(sorted(sent.items())),
        "bytes_sent_total": total, "minimum": {k: round(v) for k, v in least.items()},
        "minimum_total": round(least_total), "over_minimum": round(total / least_total, 3),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
