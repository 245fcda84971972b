"""A finished run, to be damaged."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.support import tiny
from tt_jax.config import Config, TrainConfig
from tt_jax.training.loop import train


@pytest.fixture(scope="module")
def config(prepared_path: Path) -> Config:
    return dataclasses.replace(
        tiny.CONFIG,
        model=dataclasses.replace(tiny.CONFIG.model, experts=1, low_rank_layers=0, mlp=()),
        data=dataclasses.replace(tiny.CONFIG.data, path=str(prepared_path), batch_size=100),
        train=TrainConfig(epochs=0.4, save_every=4, keep_last=3),
    )


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the checkpoints 4, 8 and 12."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    train(config, workdir)
    return workdir


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "w")
    return tmp_path / "w"
