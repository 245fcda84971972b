"""The service under load: the real server in a process of its own, driven by `benchmarks.load` from another.

    python -m benchmarks.serve
    python -m benchmarks.serve --peer-python=peers-venv/bin/python
    python -m benchmarks.serve --heavy 64 1000 --clients 1

Makes a bundle of the default model with random weights and an index of random ads, and prints JSON lines:

    bare      the compiled call alone, in this process: milliseconds for 1, 8 and 32 queries, queries/s at best
    closed    each client sends its next request when it has its answer: latency and throughput by number of clients
    overhead  p50 of one client less the bare call; share of the bare throughput that the service reaches at best
    overload  twice that throughput offered, every request with a deadline: what is answered with ads, and in time
    fairness  with --heavy: p50 of one client alone, and beside one that sends large requests; and what that one gets
    peer      the same requests at a FastAPI + PyTorch handler of the same model shape and the same ads

`cpu` is processor time in cores, see `benchmarks.load`.

The server, the load generator and, on a small machine, the compiled call share the cores. Nothing else should run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.train_step import add_shape, make_config, synthetic_schema
from serving import AdIndex, Scorer
from serving.index.ad_index import index_table
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import Schema, Tower

ROOT = Path(__file__).parents[1]
REQUESTS = 1000  # different ones


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(p)
    p.add_argument("--ads", type=int, default=100_000)
    p.add_argument("--k", type=int, default=100)
    p.add_argument("--clients", type=int, nargs="+", default=(1, 2, 4, 8, 16, 32, 64, 128))
    p.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    p.add_argument("--repeats", type=int, default=100, help="runs of the bare call")
    p.add_argument(
        "--deadline-ms", type=int, nargs="+", default=(100, 200), help="of the open loop, one after the other"
    )
    p.add_argument("--heavy", type=int, nargs=2, metavar=("QUERIES", "K"), help="of a large request")
    p.add_argument("--serve", nargs="*", default=(), help="more arguments of `tt-jax serve`, without their dashes")
    p.add_argument("--peer-python", help="a Python with torch, fastapi and uvicorn: measure the peer too")
    return p.parse_args()


def random_rows(schema: Schema, tower: Tower, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Raw columns: Zipf ids, normal numbers."""
    return {
        f.name: rng.zipf(1.2, n) % (1 << 40) if f.is_ids else rng.normal(size=n).round(4)
        for f in schema.tower_features(tower)
    }


def as_dicts(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The same, row by row."""
    lists = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def prepare(a: argparse.Namespace, folder: Path) -> None:
    """Writes bundle, index and requests.jsonl."""
    rng, schema = np.random.default_rng(0), synthetic_schema(a)
    config = dataclasses.replace(make_config(a), utility="bid * t0")
    params, tables = TwoTower(schema, config.model, "f32").init(0)
    pairs = zip(*(as_dicts(random_rows(schema, tower, 4, rng)) for tower in ("query", "ad")), strict=True)
    write_bundle(
        folder / "bundle",
        schema=schema,
        config=config,
        params=params,
        tables=tables,
        metrics={},
        golden_rows=[{"query": query, "ad": ad} for query, ad in pairs],
    )
    ads = {**random_rows(schema, "ad", a.ads, rng), "ad": np.arange(a.ads)}
    table = pa.table({**ads, "bid": rng.exponential(1.0, a.ads), "eligible": np.ones(a.ads, bool)})
    index_table(Bundle.load(folder / "bundle"), table).save(folder / "index")
    queries = as_dicts(random_rows(schema, "query", REQUESTS, rng))
    (folder / "requests.jsonl").write_text("".join(json.dumps({"query": q, "k": a.k}) + "\n" for q in queries))


def measure_bare(a: argparse.Namespace, folder: Path) -> tuple[dict[int, float], float]:
    """Milliseconds of the call by number of queries, and the most queries/s."""
    scorer = Scorer.load(folder / "bundle", folder / "index", max_k=max(a.k, 128))
    lines = (folder / "requests.jsonl").read_text().splitlines()
    encoded = scorer.encode([json.loads(line)["query"] for line in lines[:32]])
    found = {}
    for batch in (1, 8, 32):
        some = encoded.at(list(range(batch)))
        times = []
        for _ in range(a.repeats):
            start = time.perf_counter()
            scorer.start(some, [a.k] * batch, None).wait()
            times.append(time.perf_counter() - start)
        found[batch] = float(np.median(times[a.repeats // 10 :])) * 1e3
    return found, max(batch / ms * 1e3 for batch, ms in found.items())


@contextmanager
def running(command: Sequence[str | Path]) -> Iterator[tuple[int, int]]:
    """A server; gives its port, once it has printed its address, and its process id."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.match(r"serving http://127\.0\.0\.1:(\d+)", line)
            if not address:
                raise RuntimeError(f"expected the address of the server, got {line!r}")
            yield int(address[1]), server.pid
        finally:
            server.terminate()


def load(a: argparse.Namespace, folder: Path, server: tuple[int, int], clients: int, *more: str) -> dict[str, Any]:
    """What the load generator measured."""
    port, pid = server
    arguments = [f"--port={port}", f"--pid={pid}", f"--requests={folder / 'requests.jsonl'}", f"--clients={clients}"]
    arguments += more
    command = [sys.executable, "-m", "benchmarks.load", *arguments, f"--seconds={a.seconds}"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def closed(a: argparse.Namespace, folder: Path, server: tuple[int, int], name: str) -> dict[int, dict[str, Any]]:
    """Measures and prints all numbers of clients."""
    load(a, folder, server, 8)  # warm
    found = {}
    for clients in a.clients:
        found[clients] = load(a, folder, server, clients)
        say(name, found[clients])
    return found


def fairness(a: argparse.Namespace, folder: Path, server: tuple[int, int]) -> None:
    """Measures and prints what a client of large requests does to one of small requests, and the other way round."""
    queries, k = a.heavy
    some = [json.loads(line)["query"] for line in (folder / "requests.jsonl").read_text().splitlines()[:queries]]
    (folder / "heavy.jsonl").write_text(json.dumps({"queries": some, "k": k}) + "\n")
    heavy = f"--requests={folder / 'heavy.jsonl'}"
    load(a, folder, server, 1, heavy)  # warm
    alone, heavy_alone = load(a, folder, server, 1), load(a, folder, server, 1, heavy)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load, a, folder, server, 1, heavy)
        beside = load(a, folder, server, 1)
        both = running.result()
    light = {"alone": alone["p50_ms"], "beside": beside["p50_ms"]}
    large = {"queries": queries, "k": k, "alone": heavy_alone["p50_ms"], "beside": both["p50_ms"]}
    say("fairness", {"p50_ms": light, "heavy_p50_ms": large})


def say(what: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


def main() -> None:
    a = parse_args()
    with tempfile.TemporaryDirectory(prefix="tt-jax-serve-") as name:
        folder = Path(name)
        prepare(a, folder)
        bare, most = measure_bare(a, folder)
        say("bare", {"ms": {str(b): round(ms, 3) for b, ms in bare.items()}, "per_s": round(most)})
        max_k = max(a.k, 128, a.heavy[1] if a.heavy else 0)
        flags = [f"--bundle={folder / 'bundle'}", f"--index={folder / 'index'}", "--port=0", f"--max-k={max_k}"]
        with running([sys.executable, "-m", "tt_jax", "serve", *flags, *(f"--{flag}" for flag in a.serve)]) as server:
            ours = closed(a, folder, server, "closed")
            peak = max(line["per_s"] for line in ours.values())
            share = {"share_of_bare": round(peak / most, 3), "peak_per_s": peak}
            if 1 in ours:
                share["overhead_ms"] = round(ours[1]["p50_ms"] - bare[1], 3)
            say("overhead", share)
            if a.heavy:
                fairness(a, folder, server)
            for deadline in a.deadline_ms:
                again = load(a, folder, server, 512, f"--rate={2 * peak}", f"--deadline-ms={deadline}")
                shares = {"served_share": round(again["per_s"] / peak, 3)}
                say("overload", {**again, **shares, "goodput_share": round(again["in_time_per_s"] / peak, 3)})
        if a.peer_python:
            save_ads(folder)
            shape = {"cat": a.cat, "num": a.num, "dim": a.dim, "experts": a.experts, "full": a.full, "low": a.low}
            shape |= {"rank": a.rank, "out": a.out, "tasks": a.tasks, "rows": int(a.rows) // (2 * a.cat)}
            widths = [f"--{name}={value}" for name, value in shape.items()]
            script = ROOT / "benchmarks" / "peers" / "serve_torch.py"
            mlp = ["--mlp", *map(str, a.mlp)]
            with running([a.peer_python, script, f"--ads={folder / 'ads.npz'}", *widths, *mlp]) as server:
                theirs = closed(a, folder, server, "peer")
            best = max(line["per_s"] for line in theirs.values())
            say("ratio", {"throughput": round(peak / best, 2), "peer_peak_per_s": best})


def save_ads(folder: Path) -> None:
    """The ads, for the peer: ads.npz."""
    index = AdIndex.load(folder / "index")
    np.savez(folder / "ads.npz", vectors=index.vectors, bids=index.bids, ids=np.asarray(index.ids))


if __name__ == "__main__":
    main()
