"""What it costs a run to verify its set, to hash its checkpoints and to look for NaN: seconds, and their share of it.

    python -m benchmarks.verification --config=configs/kuairand.py --data=prepared/kuairand [--config.train.epochs=2]

One JSON line. Hashing and syncing of checkpoints happen in threads beside the steps; their seconds count in full.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from input_pipeline.blocks import block
from input_pipeline.blocks.prepared_set import PreparedSet
from tt_jax.cli.configuration import load_config
from tt_jax.runs import checkpoints
from tt_jax.training import loop

# What is timed: module, name of the function, name of the figure.
PARTS = (
    (block, "verify_once", "set_hash_s"),
    (checkpoints, "describe_files", "checkpoint_hash_s"),
    (checkpoints, "sync_tree", "checkpoint_sync_s"),
    (checkpoints, "read_published", "restore_hash_s"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True)
    args, overrides = parser.parse_known_args()
    config = load_config(args.config, [*overrides, f"--config.data.path={args.data}"])
    seconds: dict[str, float] = {}
    for module, name, figure in PARTS:
        setattr(module, name, timed(getattr(module, name), seconds, figure))
    make = loop.make_finite_check
    loop.make_finite_check = lambda mesh: timed(make(mesh), seconds, "finite_check_s")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = loop.train(config, Path(folder))
        run_s = time.perf_counter() - begun
        loop.train(config, Path(folder))  # a resume: it verifies the newest checkpoint
    prepared = PreparedSet.open(config.data.path)
    cost = sum(seconds.values()) - seconds.get("restore_hash_s", 0.0)
    figures: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "steps": result.step,
        "set_mb": sum(f.bytes for f in prepared.manifest.files) / 1e6,
        "run_s": run_s,
        **seconds,
        "share": cost / run_s,
    }
    print(json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in figures.items()}))


def timed(function: Callable[..., Any], seconds: dict[str, float], figure: str) -> Callable[..., Any]:
    """The function, whose seconds are added to a figure."""
    seconds[figure] = 0.0

    def run(*args: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*args, **named)
        finally:
            seconds[figure] += time.perf_counter() - begun

    return run


if __name__ == "__main__":
    main()
