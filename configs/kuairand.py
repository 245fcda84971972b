"""MMoE-DCN two-tower on KuaiRand-Pure.

    tt-jax prepare kuairand --source=data/kuairand_pure --out=prepared/kuairand
    tt-jax train --config=configs/kuairand.py --config.data.path=prepared/kuairand --workdir=runs/kuairand

The argument is a scenario (`tab1`, `tab0`, ...), or nothing for all in one model; `select`, or `tab1,select`, learns
without the last day and evaluates on it, to choose by. Nothing is chosen on the eval part. Figures: docs/quality.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import config_dict
from tt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

SELECT = "select"


def config(scenario: str = "", select: bool = False) -> Config:
    """The typed configuration."""
    splits, eval_split = (("train",), "valid") if select else (("train", "valid"), "eval")
    scenarios = (scenario,) if scenario else ()
    return Config(
        model=ModelConfig(experts=4, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32),
        data=DataConfig(scenarios=scenarios, train_splits=splits, eval_split=eval_split, batch_size=1024),
        optimizer=OptimizerConfig(learning_rate=1e-3, embedding_learning_rate=0.1),
        train=TrainConfig(epochs=1),  # a second epoch overfits the ids: click AUC falls by .01
        utility="click",
    )


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a scenario; "" = all of them. `select`: see above."""
    names = [name for name in arg.split(",") if name and name != SELECT]
    if len(names) > 1:
        raise ValueError(f"expected a scenario, '{SELECT}', or both, got {arg!r}")
    return config_dict(config("".join(names), SELECT in arg.split(",")))
