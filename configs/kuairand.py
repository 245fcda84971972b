"""MMoE-DCN two-tower on KuaiRand-Pure.

    tt-jax prepare kuairand --source=data/kuairand_pure --out=prepared/kuairand
    tt-jax train --config=configs/kuairand.py --config.data.path=prepared/kuairand --workdir=runs/kuairand

The argument is a scenario (`tab1`, `tab0`, ...), or nothing for all in one model; `select`, or `tab1,select`, learns
without the last day and evaluates on it, to choose by. Figures: docs/explanation/results.md.

`kind=mtmd` is another kind of model than `mmoe_dcn`. The widths of each two-tower kind give it the parameters and
operations of `mmoe_dcn` within 10 % (2.1 M; 4.2 MFLOP per pair of user and video). The teacher `heavy` has 3.7 M and
7.4 MFLOP.
"""

from __future__ import annotations

from dataclasses import replace

from ml_collections import ConfigDict

from tt_jax import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, config_dict
from tt_jax.config.files import model_of, split_argument

SELECT = "select"
BASE = ModelConfig(experts=4, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32)
MODELS: dict[str, ModelConfig] = {
    "mmoe_dcn": BASE,
    "mmoe_mlp": replace(BASE, kind="mmoe_mlp", mlp=(480, 128, 64)),
    "dcn": replace(BASE, kind="dcn", full_rank_layers=2, low_rank_layers=2, mlp=(1376, 128, 64)),
    "mlp": replace(BASE, kind="mlp", mlp=(1696, 256, 64)),
    "mtmd": replace(BASE, kind="mtmd", mlp=(88, 64)),
    "heavy": replace(BASE, kind="heavy", rank=64, low_rank_layers=2, mlp=(256, 128), output_dim=64),
}


def config(scenario: str = "", select: bool = False, kind: str = "mmoe_dcn") -> Config:
    """The typed configuration."""
    splits, eval_split = (("train",), "valid") if select else (("train", "valid"), "eval")
    scenarios = (scenario,) if scenario else ()
    return Config(
        model=model_of(MODELS, kind),
        # A window of all 18 blocks: a block is of one scenario, and few of them together are no sample of the log.
        data=DataConfig(scenarios=scenarios, train_splits=splits, eval_split=eval_split, batch_size=512, window=32),
        optimizer=OptimizerConfig(learning_rate=1e-3, embedding_learning_rate=0.1),
        train=TrainConfig(epochs=1),  # a second epoch overfits the ids: click AUC falls by .01
        utility="click",
    )


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of `SCENARIO,select,kind=KIND`, each of which may be left out."""
    parts = arg.split(",")
    rest = split_argument(",".join(part for part in parts if part != SELECT), kind="mmoe_dcn")
    return config_dict(config(select=SELECT in parts, **rest))
