"""The embedding part of a training step by itself, in variants, beside what the device can do at best.

    python -m benchmarks.embedding --batch 65536 --rows 1e7

Prints JSON lines: milliseconds (median) and, where the work is bound by memory, the bytes that it has to move at least
and their rate. `copy` and `matmul` are the ceilings. Imports only jax, NumPy and this project's core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.top_k import median_ms
from tt_jax.training.optimizers import Table, sum_duplicates, update_rows

COPIED = 2**28  # bytes: far more than a cache
MATMUL = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # rows and columns of the largest products of a step, and more


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--slots", type=int, default=32, help="ids of an example")
    p.add_argument("--rows", type=float, default=1e6, help="rows of the table")
    p.add_argument("--dim", type=int, default=16)
    p.add_argument("--repeats", type=int, default=10)
    a = p.parse_args()
    rng, past_end = np.random.default_rng(0), int(a.rows)
    ids = (rng.zipf(1.2, a.batch * a.slots) * 7919) % past_end
    rows_M = jax.device_put(ids.astype(np.int32))
    gradients_Md = jax.device_put(rng.standard_normal((len(ids), a.dim), np.float32))
    distinct, of_row = len(np.unique(ids)), 4 * a.dim
    first = {"benchmark": "embedding", "device": jax.devices()[0].device_kind, "jax": jax.__version__, **vars(a)}
    print(json.dumps({**first, "ids": len(ids), "distinct": distinct}))
    _ceilings(a.repeats)

    def show(what: str, run: Callable[[], Any], moved: int | None = None) -> None:
        _show(what, median_ms(run, a.repeats), moved)

    table = jnp.zeros((past_end, a.dim), jnp.float32)
    gather = jax.jit(lambda table, rows: table.at[rows].get(mode="fill", fill_value=0.0))
    show("gather", lambda: gather(table, rows_M), len(ids) * (4 + of_row) + distinct * of_row)
    for name, sort in SORTS.items():
        sort = jax.jit(sort)
        show(f"sort, {name}", lambda sort=sort: sort(rows_M))
    dedupe = jax.jit(sum_duplicates, static_argnums=2)
    show("sort and sum of duplicates", lambda: dedupe(rows_M, gradients_Md, past_end), 2 * len(ids) * of_row)
    summed = jax.block_until_ready(dedupe(rows_M, gradients_Md, past_end))
    hints = {"indices_are_sorted": True, "unique_indices": True}
    for name, given in {"sorted and unique": hints, "unique": {"unique_indices": True}, "no hint": {}}.items():
        show(f"scatter, {name}", _in_place(table + 0, _scatter(given), *summed), 3 * distinct * of_row)
    show("scatter of all, duplicates too", _in_place(table + 0, _scatter({}), rows_M, gradients_Md))
    update = jax.jit(lambda table, rows, g: update_rows(table, rows, g, jnp.float32(0.01)), donate_argnums=0)
    state = Table(table, jnp.zeros(past_end, jnp.float32))
    least = len(ids) * (4 + of_row) + distinct * (2 * of_row + 8)
    show("row-wise Adagrad, whole", _in_place(state, update, rows_M, gradients_Md), least)


def _ceilings(repeats: int) -> None:
    source = jnp.zeros(COPIED // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    _show("copy", median_ms(lambda: copy(source), repeats), 2 * COPIED)
    n = MATMUL[jax.default_backend()]
    x = jnp.ones((n, n), jnp.bfloat16)
    product = jax.jit(lambda x: lax.dot(x, x, preferred_element_type=jnp.float32))
    ms = median_ms(lambda: product(x), repeats)
    print(json.dumps({"what": f"matmul, bf16, {n}", "ms": ms, "tflops": round(2 * n**3 / ms / 1e9, 3)}))


def _with_places(rows: Array, stable: bool) -> Any:
    return lax.sort((rows, lax.iota(jnp.int32, rows.shape[0])), num_keys=1, is_stable=stable)


def _packed(rows: Array, stable: bool) -> Any:
    with jax.enable_x64(True):
        keys = (rows.astype(jnp.int64) << 32) | lax.iota(jnp.int64, rows.shape[0])
        return lax.sort(keys, is_stable=stable)


SORTS = {
    "rows and places, stable": lambda rows: _with_places(rows, True),
    "rows and places, not stable": lambda rows: _with_places(rows, False),
    "packed, stable": lambda rows: _packed(rows, True),
    "packed, not stable": lambda rows: _packed(rows, False),
}


def _scatter(hints: dict[str, bool]) -> Callable[..., Array]:
    return jax.jit(lambda table, rows, g: table.at[rows].add(g, mode="drop", **hints), donate_argnums=0)


def _in_place(state: Any, update: Callable[..., Any], *args: Array) -> Callable[[], Any]:
    """Calls `update` of a donated state again and again."""
    held = [state]

    def run() -> Any:
        held[0] = update(held[0], *args)
        return held[0]

    return run


def _show(what: str, ms: float, moved: int | None) -> None:
    rate = {} if moved is None else {"mb": round(moved / 1e6, 1), "gb_per_s": round(moved / ms / 1e6, 1)}
    print(json.dumps({"what": what, "ms": ms, **rate}), flush=True)


if __name__ == "__main__":
    main()
