"""Weights that are no numbers, or too large, in checkpoints of earlier versions and in evaluations."""

from __future__ import annotations

import dataclasses
import math
from contextlib import closing
from pathlib import Path

import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support.cli import Call
from tt_jax.config import Config, OptimizerConfig, TrainConfig
from tt_jax.runs.checkpoints import Checkpoints
from tt_jax.runs.finite import DivergedError
from tt_jax.training.loop import train
from tt_jax.training.setup import Setup
from tt_jax.training.trained import load_trained


def spoil(workdir: Path, config: Config, value: float) -> None:
    """Puts a value into the weights of the newest checkpoint."""
    setup = Setup(config, PreparedSet.open(config.data.path))
    with closing(Checkpoints(workdir, keep_last=2)) as checkpoints:
        found = checkpoints.restore(setup.abstract_state, 12)
        name, weights = next(iter(found.state.params.items()))
        spoilt = {**found.state.params, name: weights.at[(0,) * weights.ndim].set(value)}
        checkpoints._manager.delete(12)
        checkpoints.save(found.state.replace(params=spoilt), found.run, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_of_no_numbers_is_a_damaged_one(
    config: Config, copy: Path, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(copy, config, value)
    assert load_trained(copy).step == 8
    assert "12: cannot be read: NaN or infinite values in 1 of its arrays, as params/" in caplog.text
    assert train(config, copy).step == 12
    assert load_trained(copy).step == 12
    assert (copy / "damaged-checkpoint-12").is_dir()


@pytest.mark.parametrize("verb", ["evaluate", "calibrate", "label", "train"])
def test_weights_that_are_too_large_are_told(verb: str, config: Config, copy: Path, call: Call, tmp_path: Path) -> None:
    spoil(copy, config, 3e38)
    more = {"train": [f"--data={config.data.path}:eval"], "label": [f"--out={tmp_path / 'labelled'}"]}.get(verb, [])
    code, _, err = call(verb, f"--{'teacher' if verb == 'label' else 'workdir'}={copy}", *more)
    assert code == 2
    assert "are NaN or infinite: the weights are too large" in err.splitlines()[-1]


def test_an_evaluation_of_no_numbers_names_the_step(config: Config, tmp_path: Path) -> None:
    rates = OptimizerConfig(learning_rate=1e12, embedding_learning_rate=1e12, warmup=0.0)
    config = dataclasses.replace(config, optimizer=rates, train=TrainConfig(eval_every=1, log_every=100))
    with pytest.raises(DivergedError, match=r"step 1: .*logits of \d+ of \d+ rows of the split 'eval'"):
        train(config, tmp_path / "w")
