"""What a run left in its directory."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import jax
import numpy as np

from input_pipeline.blocks.prepared_set import PreparedSet
from tt_jax.config import Config
from tt_jax.runs.checkpoints import Checkpoints
from tt_jax.training.setup import Setup


def lines(workdir: Path) -> list[dict]:
    """What was logged, without the figures that depend on the clock."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in found]


def last_state(config: Config, workdir: Path):
    abstract = Setup(config, PreparedSet.open(config.data.path)).abstract_state
    with closing(Checkpoints(workdir)) as checkpoints:
        restored = checkpoints.restore_last(abstract)
    assert restored is not None
    return restored


def assert_same_bits(a, b) -> None:
    paths, leaves = zip(*jax.tree.leaves_with_path(a), strict=True)
    for path, x, y in zip(paths, leaves, jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path
