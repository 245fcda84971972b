"""Times exact top-k over N ads, as a service runs it, against the keys of the peers' script (faiss flat, PyTorch).

    python -m benchmarks.top_k --n 1000000 --dim 64 --k 1000

Prints one JSON line per batch size: milliseconds (median of the timed runs) to get the best k of N ads for B queries.
It times the whole call: beside the inner products that the peers compute, sigmoid, utility, eligibility mask and the
probabilities of the winners. `--stream` also times one read of the ads, the floor for B = 1. `--recall` adds the share
of the best k of the float32 vectors that are among the best k of the rounded ones. `--where` times the
call with conditions too, see `benchmarks.eligible_ads`, and gives their ratio. The last line of a scan has GB of
memory: of the process at its end, with ids of the ads and a score buffer of each batch size, and of the ads alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.eligible_ads import on_device, random_attributes, random_conditions
from serving.eligibility.conditions import ConditionArrays
from serving.index.ad_arrays import DTYPES, VectorDType
from serving.index.ad_table import AdIds
from serving.index.quantized import stored, width
from serving.scoring.device_corpus import DeviceCorpus
from serving.scoring.scan import score_and_top_k, score_candidates
from serving.scoring.top_k import TopK
from tt_jax.utility import Utility

CHUNK = 2**18  # ads made at a time


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--n", type=int, default=1_000_000)
    p.add_argument("--dim", type=int, default=64)
    p.add_argument("--k", type=int, default=1000)
    p.add_argument("--batches", type=int, nargs="+", default=(1, 8, 32))
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--dtype", choices=tuple(DTYPES), default="f32")
    p.add_argument("--tasks", type=int, default=1, help="the utility is bid times the sum of the tasks' probabilities")
    p.add_argument("--candidates", type=int, default=0, help="rank a list of this many ads per query, not all N")
    p.add_argument("--recall", action="store_true", help="also compare with float32, which needs room for it")
    p.add_argument("--where", action="store_true", help="also rank only the ads that may serve, by their attributes")
    p.add_argument("--stream", action="store_true", help="also time one read of the ads")
    return p.parse_args()


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds from the call to its result being there. The first run compiles and is not timed."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 3)


def random_corpus(a: argparse.Namespace, dtype: VectorDType) -> DeviceCorpus:
    """`n` ads for each task, all of them eligible, bids in 0..1: the same ones in each dtype."""
    rng, stored_as = np.random.default_rng(1), DTYPES[dtype]
    rows_NTD = np.empty((a.n, a.tasks, width(a.dim, stored_as)), stored_as)
    for start in range(0, a.n, CHUNK):
        some = rng.standard_normal((min(CHUNK, a.n - start), a.tasks, a.dim), np.float32)
        rows_NTD[start : start + CHUNK] = stored(jnp.asarray(some), stored_as)
    bids_N = jnp.asarray(rng.random(a.n, np.float32))
    return DeviceCorpus.pack(jnp.asarray(rows_NTD), bids_N, jnp.ones(a.n, bool), scanned=tuple(range(a.tasks)))


def memory_gb() -> float:
    """Of this process, resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 2)


def scan_call(
    queries_TBD: Array, corpus: DeviceCorpus, utility: Utility, k: int, conditions: ConditionArrays | None = None
) -> Callable[[], TopK]:
    """A call that ranks all ads, and hands its score buffer on to the next."""
    compiled = jax.jit(score_and_top_k, static_argnames=("utility", "ks"), donate_argnames="scratch")
    biases_T = jnp.zeros(queries_TBD.shape[0], jnp.float32)
    scratch = corpus.scratch(queries_TBD.shape[1])

    def call() -> TopK:
        nonlocal scratch
        ads = corpus, biases_T, utility, (k,), scratch
        result, scratch = compiled(queries_TBD, *ads, conditions=conditions)
        return result

    return call


def list_call(
    queries_TBD: Array, corpus: DeviceCorpus, utility: Utility, k: int, candidates_BC: Array
) -> Callable[[], TopK]:
    """A call that ranks a list of ads for each query."""
    compiled = jax.jit(score_candidates, static_argnames=("utility", "k"))
    biases_T = jnp.zeros(queries_TBD.shape[0], jnp.float32)
    return lambda: compiled(queries_TBD, corpus, biases_T, utility, k, candidates_BC)


def recall(found: TopK, exact: TopK) -> float:
    """Share of the exact best that were found."""
    pairs = zip(np.asarray(found.positions_Bk), np.asarray(exact.positions_Bk), strict=True)
    return round(float(np.mean([np.isin(e, f).mean() for f, e in pairs])), 4)


def main() -> None:
    a = parse_args()
    rng = np.random.default_rng(0)
    names = tuple(f"t{i}" for i in range(a.tasks))
    utility = Utility.parse(f"bid * ({' + '.join(names)})", names)
    corpus, ids, calls = random_corpus(a, a.dtype), AdIds(np.arange(a.n)), []
    exact = random_corpus(a, "f32") if a.recall else None

    def report(peer: str, batch: int, ms: float, **more: float) -> None:
        line = {"peer": peer, "n": a.n, "dim": a.dim, "k": a.k, "batch": batch, "ms": ms}
        extra = {"dtype": a.dtype, "tasks": a.tasks} | ({"candidates": a.candidates} if a.candidates else {})
        print(json.dumps(line | extra | more), flush=True)

    attributes = random_attributes(np.random.default_rng(2), a.n if a.where else 0)
    if a.stream:
        read = jax.jit(lambda rows: jnp.sum(rows, dtype=jnp.float32))
        report("stream", 0, median_ms(lambda: read(corpus.rows_NTD), a.repeats))
    for batch in a.batches:
        queries = rng.standard_normal((a.tasks, batch, a.dim), np.float32) / np.float32(a.dim**0.5)
        if a.candidates:
            listed = np.stack([rng.choice(a.n, a.candidates, replace=False) for _ in range(batch)])
            call = list_call(jnp.asarray(queries), corpus, utility, a.k, jnp.asarray(listed, jnp.int32))
        else:
            call = scan_call(jnp.asarray(queries), corpus, utility, a.k)
        calls.append(call)
        found = (
            {} if exact is None else {"recall": recall(call(), scan_call(jnp.asarray(queries), exact, utility, a.k)())}
        )
        ms = median_ms(call, a.repeats)
        report("tt-jax", batch, ms, **found)
        if a.where:
            conditions = random_conditions(rng, attributes, batch, a.n)
            eligible = replace(corpus, attributes=on_device(attributes, len(corpus.valid_N)))
            filtered = scan_call(jnp.asarray(queries), eligible, utility, a.k, conditions)
            first, again = median_ms(filtered, a.repeats), median_ms(call, a.repeats)
            report("tt-jax, conditions", batch, first, ratio=round(2 * first / (ms + again), 3))
    if not a.candidates:
        ads_gb = round(sum(x.nbytes for x in jax.tree.leaves(corpus)) / 1e9, 2)
        print(json.dumps({"n": len(ids), "dtype": a.dtype, "tasks": a.tasks, "gb": memory_gb(), "ads_gb": ads_gb}))


if __name__ == "__main__":
    main()
