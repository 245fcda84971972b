"""Strict numerics for every test: no implicit dtype promotion. Warnings are errors (pyproject.toml)."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

# Set before jax is imported, and inherited by the processes that tests start. The cache lives as long as the tests:
# many of them compile the same training step.
_COMPILED = tempfile.TemporaryDirectory(prefix="tt-jax-tests-")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


TRAIN_ROWS, EVAL_ROWS = 3000, 500


@pytest.fixture(scope="session")
def prepared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of the tiny schema: splits train and eval, two scenarios, several blocks."""
    from input_pipeline.prepare import prepare
    from input_pipeline.readers import Chunk
    from tests import tiny

    rng = np.random.default_rng(0)

    def chunks() -> Iterator[Chunk]:
        for split, rows in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
            yield Chunk(split, f"{split}.parquet", 0, pa.table(tiny.columns(rng, rows)))

    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(tiny.SCHEMA, chunks(), out, block_rows=256, ads=tiny.ads_table(rng, 40))
    return out
