"""MMoE-DCN two-tower on AdWorld, the synthetic world.

    tt-jax prepare adworld --out=prepared/adworld
    tt-jax train --config=configs/adworld.py:shopping --config.data.path=prepared/adworld --workdir=runs/shopping

The argument names a scenario (`standard`, `shopping`; none: both in one model), the kind of model (`mmoe_dcn` is the
default) and the labels, as in `shopping,kind=mtmd,labels=both`:

    hard    what users did with the auctions' winners (the default)
    soft    the heavy ranker's probabilities, on candidates, shown or not
    both    hard labels of the winners and soft ones of winners and candidates

The widths of each two-tower kind give it the parameters and operations of `mmoe_dcn` within 10 % (0.50 M; 0.99 MFLOP
per pair of request and ad). The teacher `heavy` has 1.06 M and 2.1 MFLOP.
"""

from __future__ import annotations

from dataclasses import replace

from ml_collections import ConfigDict

from tt_jax import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, config_dict
from tt_jax.config.files import model_of, split_argument

SOFT, HARD = ("teacher_click", "teacher_long_click", "teacher_conversion"), ("click", "long_click", "conversion")
LABELS = {  # the splits to learn from, and the tasks not to learn
    "hard": (("train",), SOFT),
    "soft": (("train_candidates",), HARD),
    "both": (("train", "train_candidates"), ()),
}


BASE = ModelConfig(experts=4, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32)
MODELS: dict[str, ModelConfig] = {
    "mmoe_dcn": BASE,
    "mmoe_mlp": replace(BASE, kind="mmoe_mlp", mlp=(176, 128, 64)),
    "dcn": replace(BASE, kind="dcn", full_rank_layers=2, low_rank_layers=2, mlp=(688, 128, 64)),
    "mlp": replace(BASE, kind="mlp", mlp=(576, 256, 64)),
    "mtmd": replace(BASE, kind="mtmd", mlp=(112, 64)),
    "heavy": replace(BASE, kind="heavy", rank=64, low_rank_layers=2, mlp=(256, 128), output_dim=64),
}


def config(scenario: str = "", labels: str = "hard", kind: str = "mmoe_dcn") -> Config:
    """The typed configuration."""
    if labels not in LABELS:
        raise ValueError(f"labels: expected one of {', '.join(LABELS)}, got {labels!r}")
    splits, left_out = LABELS[labels]
    return Config(
        model=model_of(MODELS, kind),
        data=DataConfig(scenarios=(scenario,) if scenario else (), train_splits=splits, batch_size=1024),
        optimizer=OptimizerConfig(learning_rate=6e-3, embedding_learning_rate=0.1),
        train=TrainConfig(epochs=1, task_weights=tuple(f"{task}=0" for task in left_out)),
        utility="bid * click",
    )


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of `SCENARIO,labels=LABELS,kind=KIND`, each of which may be left out."""
    return config_dict(config(**split_argument(arg, labels="hard", kind="mmoe_dcn")))
