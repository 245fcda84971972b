"""A small comparison for the tests of `tt-jax compare` and of its report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from input_pipeline.prepare import prepare
from input_pipeline.readers import Chunk
from tests import run_configs, tiny

SEEDS, TEST_ROWS = 2, 400


def prepare_splits(out: Path) -> None:
    """A prepared set with a test split, twice as many rows of one scenario as of the other."""
    rng = np.random.default_rng(7)

    def chunks() -> Iterator[Chunk]:
        for split, rows in (("train", 1500), ("eval", 300), ("test", TEST_ROWS)):
            columns = tiny.columns(rng, rows)
            columns["scenario"] = [tiny.SCENARIOS[int(v)] for v in rng.random(rows) < 1 / 3]
            yield Chunk(split, f"{split}.parquet", 0, pa.table(columns))

    prepare(tiny.SCHEMA, chunks(), out, block_rows=128)


def compare_arguments(data: Path, out: Path, **changes: str) -> list[str]:
    """Of the command line: pooled and split, two seeds; `changes` set other arguments, or add them."""
    given = {"configs": f"{run_configs.__file__}:two", "modes": "pooled,split", "seeds": str(SEEDS), "replicates": "40"}
    return ["compare", f"--data={data}", f"--out={out}", *(f"--{k}={v}" for k, v in {**given, **changes}.items())]
