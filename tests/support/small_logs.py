"""Rows of the tiny schema, in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from input_pipeline.readers import Chunk
from tests.support import tiny

SPLITS = {"train": 700, "eval": 90}


def small_logs(seed: int = 0) -> dict[str, pa.Table]:
    rng = np.random.default_rng(seed)
    return {split: pa.table(tiny.columns(rng, rows)) for split, rows in SPLITS.items()}


def chunks_of(logs: dict[str, pa.Table], size: int = 64) -> Iterator[Chunk]:
    for split, table in logs.items():
        for first in range(0, table.num_rows, size):
            yield Chunk(split, f"{split}.log", first, table.slice(first, size))
