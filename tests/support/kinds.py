"""Configurations of each kind of model."""

from __future__ import annotations

import dataclasses

from tests.support import tiny
from tt_jax.config import ModelConfig

DEEP = dataclasses.replace(
    tiny.CONFIG.model, experts=3, full_rank_layers=1, low_rank_layers=1, rank=3, mlp=(12, 6), output_dim=7
)


def kind_of(kind: str, config: ModelConfig = DEEP) -> ModelConfig:
    return dataclasses.replace(config, kind=kind)
