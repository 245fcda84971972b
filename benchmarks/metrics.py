"""What metrics add to training and to evaluation: `python -m benchmarks.metrics` prints one JSON line.

`train_share`: of a training step, the running sums alone, compiled by themselves, over the step that has them in it.
`eval_share`: of an evaluation in the loop, storing the rows and the exact report by task and scenario, over the
predictions of the same rows. `bootstrap_s`: intervals of all metrics of these rows, every task, as the verb makes them.
Medians of `--repeats`; model, batch and platform are those of `benchmarks.train_step`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from benchmarks.top_k import median_ms
from benchmarks.train_step import add_shape, make_config, synthetic_batch, synthetic_schema
from tt_jax.evaluation.predict import INPUT_ARRAYS, make_predict
from tt_jax.losses import cross_entropy
from tt_jax.metrics import EvalRows, streaming
from tt_jax.metrics.bootstrap import metric_intervals
from tt_jax.metrics.ranking import user_codes
from tt_jax.metrics.task_rows import TaskRows
from tt_jax.models.dense import resolve_precision
from tt_jax.models.two_tower import TwoTower
from tt_jax.training.step import init_state, make_step, resolve_chunk_rows

SCENARIOS, USERS_OF_A_ROW = 3, 0.1


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(p)
    p.set_defaults(tasks=3)
    p.add_argument("--eval_batches", type=int, default=24, help="of the batch size")
    p.add_argument("--replicates", type=int, default=200)
    p.add_argument("--repeats", type=int, default=5)
    return p.parse_args()


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median; the first run compiles and is not timed."""
    return median_ms(call, repeats) / 1e3


def main() -> None:
    a = parse_args()
    config, schema, rng = make_config(a), synthetic_schema(a), np.random.default_rng(0)
    platform = jax.default_backend()
    batch = jax.device_put(synthetic_batch(a, rng))
    model = TwoTower(schema, config.model, resolve_precision(config.precision, platform, training=True))
    step = jax.jit(make_step(model, config, 1000, resolve_chunk_rows(config, platform, 1)), donate_argnums=0)
    state = init_state(model, config, 1000)

    def one_step() -> Any:
        nonlocal state
        state, done = step(state, batch)
        jax.block_until_ready(state)
        return done

    logits = jnp.asarray(rng.normal(-2, 1, (a.batch, a.tasks)), jnp.float32)
    losses = cross_entropy(logits, batch["labels"])
    sums, zeros = jax.jit(streaming.update), streaming.zeros(a.tasks)
    step_s = seconds(one_step, a.repeats)
    sums_s = seconds(lambda: sums(zeros, losses, logits, batch["labels"], batch["weights"]), a.repeats)

    evaluated = TwoTower(schema, config.model, resolve_precision(config.precision, platform))
    predict, inputs = make_predict(evaluated), {name: batch[name] for name in INPUT_ARRAYS}
    n = a.batch * a.eval_batches
    predict_s = a.eval_batches * seconds(lambda: predict(state.params, state.tables, inputs), a.repeats)
    parts = [_rows(a, rng) for _ in range(a.eval_batches)]

    def report() -> dict[str, Any]:
        scenarios = tuple(f"s{i}" for i in range(SCENARIOS))
        logged = dataclasses.replace(schema, scenarios=scenarios, ad_id="user", user_id="user")  # one key
        batches = [EvalRows(logged, scenarios, z, y, w, s, users[:, None]) for z, y, w, s, users in parts]
        return EvalRows.concat(batches).report()

    report_s = seconds(report, a.repeats)
    z, y, w, _, users = (np.concatenate(column) for column in zip(*parts, strict=True))
    p, codes = expit(z), user_codes(users)

    def intervals() -> None:
        for t in range(a.tasks):
            rows = TaskRows.of(p[:, t], y[:, t], w[:, t], codes, soft=False)
            metric_intervals(rows, users, replicates=a.replicates)

    figures = {
        "benchmark": "metrics", "device": jax.devices()[0].device_kind, "batch": a.batch, "tasks": a.tasks,
        "step_ms": round(step_s * 1e3, 2), "sums_ms": round(sums_s * 1e3, 3), "train_share": round(sums_s / step_s, 5),
        "eval_rows": n, "predict_s": round(predict_s, 3), "report_s": round(report_s, 3),
        "eval_share": round(report_s / predict_s, 4), "replicates": a.replicates,
        "bootstrap_s": round(seconds(intervals, 1), 2),
    }  # fmt: skip
    print(json.dumps(figures))


def _rows(a: argparse.Namespace, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    logits = rng.normal(-2, 1, (a.batch, a.tasks)).astype(np.float32)
    labels = (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    users = rng.integers(0, int(a.batch * a.eval_batches * USERS_OF_A_ROW), a.batch)
    return logits, labels, np.ones_like(labels), rng.integers(0, SCENARIOS, a.batch).astype(np.int32), users


if __name__ == "__main__":
    main()
