"""Input: examples/s from prepared blocks on disk to ready, shuffled batches.

    python -m benchmarks.input [--ids 32 --floats 32 --rows 2000000 --batch 4096 --window 8 --threads 2]

The set is written to a temporary directory first and read from the page cache. `scan` reads the same blocks in order
in one thread, without shuffle or batches: what the storage allows. A figure is the median of the runs, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from input_pipeline.batches import THREADS, WINDOW, train_batches
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import BLOCK_ROWS
from input_pipeline.prepare.writer import PreparedWriter
from tt_jax.schema import Feature, Schema, Task, array_specs

_VALUES = 1_000_000  # of each id feature: nothing for LZ4 to find


def _schema(ids: int, floats: int) -> Schema:
    def features(tower: str, first: int) -> list[Feature]:
        kinds = [("i", "categorical", ids, {"dtype": "int", "hash_size": _VALUES}), ("f", "numeric", floats, {})]
        return [Feature(f"{k}{i}", kind, tower, **more) for k, kind, n, more in kinds for i in range(first, n, 2)]  # pyright: ignore[reportArgumentType]

    tasks = (Task("click", "click"), Task("like", "like"))
    return Schema(
        "input_benchmark", tuple(features("query", 0) + features("ad", 1)), tasks,
        scenario="scenario", scenarios=("only",), user_id="user", ad_id="ad", time="time",
    )  # fmt: skip


def _write(folder: Path, schema: Schema, rows: int, block_rows: int) -> PreparedSet:
    rng = np.random.default_rng(0)
    writer = PreparedWriter(folder, schema, block_rows)
    for first in range(0, rows, block_rows):
        arrays, n = {}, min(block_rows, rows - first)
        for name, (dtype, width) in array_specs(schema).items():
            drawn = rng.integers(0, _VALUES, (n, width)) if dtype.kind == "i" else rng.standard_normal((n, width))
            arrays[name] = drawn.astype(dtype)
        arrays["labels"] = (arrays["labels"] > 1).astype(np.float32)
        arrays["scenario"][:] = 0
        writer.add("train", "only", arrays, {})
    writer.close()
    writer.finish()
    return PreparedSet.open(folder)


def _scan(prepared: PreparedSet) -> int:
    blocks = prepared.blocks(("train",))
    return sum(len(blocks[i]["labels"]) for i in range(len(blocks)))


def _read(prepared: PreparedSet, batch: int, window: int, threads: int) -> int:
    with train_batches(prepared, ("train",), (), batch, seed=0, window=window, epochs=1, threads=threads) as batches:
        return sum(len(b["labels"]) for b in batches)


def _rate(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    rows = run()
    return rows / (time.perf_counter() - start)


def main() -> None:
    """Prints the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # pyright: ignore[reportOptionalMemberAccess]
    for name, default in (
        ("ids", 32), ("floats", 32), ("rows", 2_000_000), ("batch", 4096), ("block-rows", BLOCK_ROWS),
        ("window", WINDOW), ("threads", THREADS), ("runs", 5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    schema = _schema(args.ids, args.floats)
    with tempfile.TemporaryDirectory() as folder:
        prepared = _write(Path(folder), schema, args.rows, args.block_rows)
        rates: dict[str, list[float]] = {"pipeline": [], "scan": []}
        for _ in range(args.runs):
            rates["pipeline"].append(_rate(lambda: _read(prepared, args.batch, args.window, args.threads)))
            rates["scan"].append(_rate(lambda: _scan(prepared)))
    pipeline, scan = (statistics.median(r) for r in rates.values())
    row_bytes = sum(dtype.itemsize * width for dtype, width in array_specs(schema).values())
    figures = {
        "benchmark": "input", **vars(args), "row_bytes": row_bytes, "examples_per_s": round(pipeline),
        "scan_examples_per_s": round(scan), "ratio": round(pipeline / scan, 3),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
