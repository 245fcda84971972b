"""MMoE-DCN two-tower on AdWorld, the synthetic world.

    tt-jax prepare adworld --out=prepared/adworld
    tt-jax train --config=configs/adworld.py:shopping --config.data.path=prepared/adworld --workdir=runs/shopping

The argument names a scenario (`standard`, `shopping`; none: both in one model) and the labels, as in
`shopping,labels=both`:

    hard    what users did with the auctions' winners (the default)
    soft    the heavy ranker's probabilities, on candidates, shown or not
    both    hard labels of the winners and soft ones of winners and candidates
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import config_dict
from tt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

SOFT, HARD = ("teacher_click", "teacher_long_click", "teacher_conversion"), ("click", "long_click", "conversion")
LABELS = {  # the splits to learn from, and the tasks not to learn
    "hard": (("train",), SOFT),
    "soft": (("train_candidates",), HARD),
    "both": (("train", "train_candidates"), ()),
}


def config(scenario: str = "", labels: str = "hard") -> Config:
    """The typed configuration."""
    if labels not in LABELS:
        raise ValueError(f"labels: expected one of {', '.join(LABELS)}, got {labels!r}")
    splits, left_out = LABELS[labels]
    return Config(
        model=ModelConfig(experts=4, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32),
        data=DataConfig(scenarios=(scenario,) if scenario else (), train_splits=splits, batch_size=1024),
        optimizer=OptimizerConfig(learning_rate=6e-3, embedding_learning_rate=0.1),
        train=TrainConfig(epochs=1, task_weights=tuple(f"{task}=0" for task in left_out)),
        utility="bid * click",
    )


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of `SCENARIO,labels=LABELS`, each of which may be left out."""
    scenario, labels = "", "hard"
    for part in filter(None, arg.split(",")):
        key, equals, value = part.partition("=")
        if equals and key != "labels":
            raise ValueError(f"expected SCENARIO,labels=LABELS, got {arg!r}")
        scenario, labels = (scenario, value) if equals else (part, labels)
    return config_dict(config(scenario, labels))
