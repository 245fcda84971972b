"""One process with two devices trains on what two processes would read: `python -m tests.support.two_shares DATA OUT`.

The reference of `test_distributed.py`: the same setup, but a loop, a log and an input of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np

from input_pipeline.batches import train_batches
from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support.run_configs import get_config
from tt_jax.cli.configuration import load_config
from tt_jax.metrics import streaming
from tt_jax.parallel.sharding import batch_sharding
from tt_jax.training.setup import Setup
from tt_jax.training.step import MODEL_ARRAYS


def main(data: str, out: str) -> None:
    assert jax.device_count() == 2
    # Two hosts of one device, as the two processes are: tables are placed alike, and sums have the same order.
    overrides = [f"--config.data.path={data}", "--config.sharding.mesh=2x1"]
    config = load_config(f"{get_config.__code__.co_filename}:two", overrides)
    setup = Setup(config, PreparedSet.open(data))
    sizes = config.data.batch_size // 2, config.seed, config.data.window
    of = setup.prepared, ("train",), ()
    shares = [train_batches(*of, *sizes, process=(i, 2), arrays=MODEL_ARRAYS) for i in range(2)]
    state, step_function, losses = setup.fresh_state(), setup.compile_step(), {}
    for step in range(1, setup.total_steps + 1):
        parts = [next(share) for share in shares]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in MODEL_ARRAYS}
        state, _ = step_function(state, jax.device_put(batch, batch_sharding(setup.mesh)))
        if step % config.train.log_every == 0:
            found = streaming.compute(state.metrics, setup.model.schema.task_names)
            losses[step] = {task: figures["loss"] for task, figures in found.items()}
            zeros = jax.device_put(streaming.zeros(len(found)), setup.shardings.metrics)
            state = state.replace(metrics=zeros)
    for share in shares:
        share.close()
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
    np.savez(Path(out) / "state.npz", **leaves)
    (Path(out) / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
