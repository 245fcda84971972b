#!/usr/bin/env python3
"""Peer for the input: shuffled batches by a PyTorch DataLoader over arrays that are already in memory.

    python benchmarks/peers/input_torch.py --rows 2000000 --batch 4096

Two ways: `rows`, one `__getitem__` per row as most users write it, and `batches`, its best setting, where
`__getitems__` takes the rows of a batch by one index operation per array. Prints a JSON line for each way and number of
workers. Needs torch and NumPy.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    """A row at a time, collated by torch."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays["labels"])

    def __getitem__(self, i):
        return {name: array[i] for name, array in self.arrays.items()}


class Batches(Rows):
    """The rows of a batch at once; nothing is left to collate."""

    def __getitems__(self, rows):
        rows = torch.as_tensor(rows)
        return {name: array[rows] for name, array in self.arrays.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ids", 32), ("floats", 32), ("rows", 2_000_000), ("batch", 4096), ("runs", 3)):
        p.add_argument(f"--{name}", type=int, default=default)
    a = p.parse_args()
    rng = np.random.default_rng(0)
    arrays = {
        "ids": torch.from_numpy(rng.integers(0, 1_000_000, (a.rows, a.ids), np.int32)),
        "floats": torch.from_numpy(rng.standard_normal((a.rows, a.floats), np.float32)),
        "labels": torch.from_numpy((rng.random((a.rows, 2)) < 0.1).astype(np.float32)),
    }
    few = {name: array[: a.rows // 20] for name, array in arrays.items()}  # row by row is slow
    for way, dataset in (("rows", Rows(few)), ("batches", Batches(arrays))):
        for workers in (0, 1, 2):
            rates = [rate(dataset, way, a.batch, workers) for _ in range(a.runs)]
            found = {"peer": f"torch DataLoader {torch.__version__}, {way}", "workers": workers, "batch": a.batch}
            print(json.dumps({**found, "examples_per_s": round(statistics.median(rates))}), flush=True)


def rate(dataset, way, batch, workers):
    """Examples/s of one pass."""
    collate = (lambda found: found) if way == "batches" else None
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers, collate_fn=collate, drop_last=True)
    start, rows = time.perf_counter(), 0
    for found in loader:
        rows += len(found["labels"])
    return rows / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
