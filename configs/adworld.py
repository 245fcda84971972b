"""MMoE-DCN two-tower on AdWorld, the synthetic world.

    tt-jax prepare adworld --out=prepared/adworld
    tt-jax train --config=configs/adworld.py:shopping --config.data.path=prepared/adworld --workdir=runs/shopping

The argument is a scenario (`standard`, `shopping`), or nothing for both in one model.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import config_dict
from tt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def config(scenario: str = "") -> Config:
    """The typed configuration."""
    return Config(
        model=ModelConfig(experts=4, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32),
        data=DataConfig(scenarios=(scenario,) if scenario else (), batch_size=1024),
        optimizer=OptimizerConfig(learning_rate=6e-3, embedding_learning_rate=0.1),
        train=TrainConfig(epochs=1),
        utility="bid * click",
    )


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a scenario; "" = all of them."""
    return config_dict(config(arg))
