"""Speed of one training step on synthetic ids, so that it measures the step and not the input.

    python -m benchmarks.train_step --batch 4096 --rows 1e6 --dtype f32

Prints one JSON line: `examples_per_s` is the median over the timed steps, `host_ms` what the call takes until Python
has it back, which a run spends while the step before is computed, `cpu_ms` processor time of all threads and
`page_faults` those of a step. FLOPs count matmuls, forward and backward, as 2 per
multiply-add. Imports only jax, flax, optax, NumPy and this project's core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time

import jax
import numpy as np

from tt_jax.config import Config, DataConfig, ModelConfig
from tt_jax.models.dense import resolve_precision
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, WAYS, Feature, Kind, Schema, Task
from tt_jax.training.step import MODEL_ARRAYS, init_state, make_step, resolve_chunk_rows

WARM_UP_STEPS = 4
DISTINCT_BATCHES = 4


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(p)
    p.add_argument("--steps", type=int, default=12)
    return p.parse_args()


def add_shape(p: argparse.ArgumentParser) -> None:
    """Arguments that say what a step computes."""
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--rows", type=float, default=1e6, help="rows of the fused embedding table")
    p.add_argument("--dim", type=int, default=16)
    p.add_argument("--dynamic", type=int, default=0, help="of these features per tower, how many have dynamic rows")
    p.add_argument("--cat", type=int, default=16, help="categorical features per tower")
    p.add_argument("--num", type=int, default=16, help="numeric features per tower")
    p.add_argument("--experts", type=int, default=4)
    p.add_argument("--full", type=int, default=2, help="full-rank cross layers per expert")
    p.add_argument("--low", type=int, default=2, help="low-rank cross layers per expert")
    p.add_argument("--rank", type=int, default=64)
    p.add_argument("--mlp", type=int, nargs=2, default=(256, 128))
    p.add_argument("--out", type=int, default=64)
    p.add_argument("--tasks", type=int, default=2)
    p.add_argument("--dtype", choices=("auto", "f32", "bf16"), default="auto")
    p.add_argument("--chunk", type=int, default=-1, help="rows per chunk, see Config.chunk_rows")


def make_config(a: argparse.Namespace) -> Config:
    """The configuration of these arguments."""
    model_config = ModelConfig(a.experts, a.full, a.low, a.rank, tuple(a.mlp), 64, a.out)
    return Config(model=model_config, data=DataConfig(batch_size=a.batch), precision=a.dtype, chunk_rows=a.chunk)


def synthetic_schema(a: argparse.Namespace) -> Schema:
    """`cat` categorical and `num` numeric features per tower, sharing a table of `rows` rows evenly."""
    each = int(a.rows) // (2 * a.cat)
    kinds: tuple[tuple[Kind, int], ...] = (("categorical", a.cat), ("numeric", a.num))
    features = [
        Feature(f"{tower}_{kind}{i}", kind, tower, "int", a.dim, each if kind == "categorical" else 0)
        for tower in TOWERS
        for kind, count in kinds
        for i in range(count)
    ]
    rows = {"hash_size": 0, "dynamic_rows": each // WAYS * WAYS}
    dynamic = {f"{tower}_categorical{i}" for tower in TOWERS for i in range(a.dynamic)}
    features = [dataclasses.replace(f, **rows) if f.name in dynamic else f for f in features]
    tasks = tuple(Task(f"t{i}", f"label{i}") for i in range(a.tasks))
    return Schema("synthetic", tuple(features), tasks, "scenario", ("all",), ad_id="ad")


def synthetic_batch(a: argparse.Namespace, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Zipf ids spread over each feature's rows, normal floats, one label in ten."""
    each = int(a.rows) // (2 * a.cat)
    batch: dict[str, np.ndarray] = {}
    for tower in ("query", "ad"):
        batch[f"{tower}_ids"] = ((rng.zipf(1.2, (a.batch, a.cat)) * 7919) % each).astype(np.int32)
        batch[f"{tower}_floats"] = rng.normal(size=(a.batch, a.num)).astype(np.float32)
    batch["labels"] = (rng.random((a.batch, a.tasks)) < 0.1).astype(np.float32)
    batch["weights"] = np.ones((a.batch, a.tasks), np.float32)
    return {name: batch[name] for name in MODEL_ARRAYS}


def flops_per_example(a: argparse.Namespace) -> int:
    """Matmul FLOPs of a step per example: 2 per multiply-add, forward once and backward twice, two towers."""
    d, (m1, m2) = a.cat * a.dim + a.num, a.mlp
    expert = a.full * d * d + a.low * 2 * d * a.rank + d * m1 + m1 * m2 + m2 * a.out
    gate = d * 64 + 64 * a.experts + a.out * a.out
    return 2 * 3 * 2 * (a.experts * expert + a.tasks * gate)


def main() -> None:
    a = parse_args()
    config = make_config(a)
    platform = jax.default_backend()
    model = TwoTower(synthetic_schema(a), config.model, resolve_precision(config.precision, platform, training=True))
    chunk_rows = resolve_chunk_rows(config, platform, 1)
    step = jax.jit(make_step(model, config, 1000, chunk_rows), donate_argnums=0)
    state = init_state(model, config, 1000)
    rng = np.random.default_rng(0)
    batches = [jax.device_put(synthetic_batch(a, rng)) for _ in range(DISTINCT_BATCHES)]
    times, host_times = [], []
    before = resource.getrusage(resource.RUSAGE_SELF)
    for i in range(a.steps + WARM_UP_STEPS):
        if i == WARM_UP_STEPS:
            before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        state, _ = step(state, batches[i % DISTINCT_BATCHES])
        host_times.append(time.perf_counter() - start)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = float(np.median(times[WARM_UP_STEPS:]))
    flops = flops_per_example(a)
    loss = float(np.mean(np.array(state.metrics.loss_T) / np.array(state.metrics.weight_T)))
    figures = {
        "framework": f"tt-jax, jax {jax.__version__}", "device": jax.devices()[0].device_kind, "dtype": model.precision,
        "chunk": chunk_rows, "batch": a.batch, "rows": int(a.rows), "step_ms": round(seconds * 1e3, 2),
        "host_ms": round(float(np.median(host_times[WARM_UP_STEPS:])) * 1e3, 3),
        "cpu_ms": round(cpu / a.steps * 1e3, 1), "page_faults": round((after.ru_minflt - before.ru_minflt) / a.steps),
        "examples_per_s": round(a.batch / seconds), "model_flops_per_example": flops,
        "gflops": round(flops * a.batch / seconds / 1e9, 1), "loss": round(loss, 4),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
