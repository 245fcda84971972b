"""Row by row through Grain, the way its own examples read: what blocks are measured against.

    python -m benchmarks.input_rows --rows 100000 --batch 4096

The rows are already in memory. Prints a JSON line for each number of read threads; see `benchmarks.input` for blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np


class Rows(Sequence[dict[str, np.ndarray]]):
    """A random access source of rows."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["labels"])

    def __getitem__(self, i: Any) -> Any:
        return {name: array[i] for name, array in self.arrays.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ids", 32), ("floats", 32), ("rows", 100_000), ("batch", 4096), ("runs", 3)):
        p.add_argument(f"--{name}", type=int, default=default)
    a = p.parse_args()
    rng = np.random.default_rng(0)
    source = Rows(
        {
            "ids": rng.integers(0, 1_000_000, (a.rows, a.ids), np.int32),
            "floats": rng.standard_normal((a.rows, a.floats), np.float32),
            "labels": (rng.random((a.rows, 2)) < 0.1).astype(np.float32),
        }
    )
    for threads in (0, 2, 16):
        rate = statistics.median(_rate(source, a.batch, threads) for _ in range(a.runs))
        found = {"peer": f"grain {grain.__version__}, rows", "threads": threads, "batch": a.batch}
        print(json.dumps({**found, "examples_per_s": round(rate)}), flush=True)


def _rate(source: Rows, batch: int, threads: int) -> float:
    """Examples/s of one pass."""
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(1, 4 * threads) if threads else 0)
    dataset = grain.MapDataset.source(source).seed(0).shuffle().to_iter_dataset(ahead)
    iterator = iter(dataset.batch(batch, drop_remainder=True))
    start, rows = time.perf_counter(), 0
    try:
        for found in iterator:
            rows += len(found["labels"])
    finally:
        iterator.close()
    return rows / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
