"""tt-jax as a library: `import tt_jax as tt`. What is listed in `__all__` is public.

    what a row means    Schema, Feature, Task, SchemaError; Encoder: raw columns to arrays
    data                prepare: raw logs to a PreparedSet; Chunk: some rows of a log; train_batches, eval_batches
    a run               Config and its parts; config_dict, for a file of `--config`; train, to a directory
    its result          load_trained -> Trained; predictions, evaluate, export
    serving             Bundle, build_index; Scorer, AdIndex (also of `serving`)
    the parts of a run  make_model -> TwoTower; init_state -> TrainState; make_step, step_arrays; metrics
    your own            MODEL_KINDS, of TowerBody and Dense; LOSSES, such as cross_entropy

A name is imported when it is first used: `import tt_jax` loads neither JAX nor any other package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from input_pipeline.batches import Batches, eval_batches, train_batches
    from input_pipeline.blocks.prepared_set import PreparedSet
    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.readers import Chunk
    from serving.index.ad_index import AdIndex
    from serving.index.build import build_index
    from serving.scorer import Scorer
    from tt_jax import metrics
    from tt_jax.bundle.reader import Bundle
    from tt_jax.config import (
        Config,
        ConfigError,
        DataConfig,
        ModelConfig,
        OptimizerConfig,
        ShardingConfig,
        StageConfig,
        TrainConfig,
    )
    from tt_jax.config.files import config_dict
    from tt_jax.config.registry import LOSSES, MODEL_KINDS
    from tt_jax.features.encoder import Encoder
    from tt_jax.losses import cross_entropy
    from tt_jax.models.dense import Dense
    from tt_jax.models.tower_body import TowerBody
    from tt_jax.models.two_tower import TwoTower
    from tt_jax.schema import Feature, Schema, SchemaError, Task
    from tt_jax.training.loop import train
    from tt_jax.training.setup import make_model
    from tt_jax.training.step import TrainState, init_state, make_step, step_arrays
    from tt_jax.training.trained import Trained, evaluate, export, load_trained, predictions

    __version__: str

_PLACES = {
    "input_pipeline.batches": ("Batches", "eval_batches", "train_batches"),
    "input_pipeline.blocks.prepared_set": ("PreparedSet",),
    "input_pipeline.prepare.sequential": ("prepare",),
    "input_pipeline.readers": ("Chunk",),
    "serving.index.ad_index": ("AdIndex",),
    "serving.index.build": ("build_index",),
    "serving.scorer": ("Scorer",),
    "tt_jax.bundle.reader": ("Bundle",),
    "tt_jax.config": (
        "Config", "ConfigError", "DataConfig", "ModelConfig", "OptimizerConfig", "ShardingConfig", "StageConfig",
        "TrainConfig",
    ),
    "tt_jax.config.files": ("config_dict",),
    "tt_jax.features.encoder": ("Encoder",),
    "tt_jax.losses": ("cross_entropy",),
    "tt_jax.models.dense": ("Dense",),
    "tt_jax.models.tower_body": ("TowerBody",),
    "tt_jax.models.two_tower": ("TwoTower",),
    "tt_jax.config.registry": ("LOSSES", "MODEL_KINDS"),
    "tt_jax.schema": ("Feature", "Schema", "SchemaError", "Task"),
    "tt_jax.training.loop": ("train",),
    "tt_jax.training.setup": ("make_model",),
    "tt_jax.training.step": ("TrainState", "init_state", "make_step", "step_arrays"),
    "tt_jax.training.trained": ("Trained", "evaluate", "export", "load_trained", "predictions"),
}  # fmt: skip
__all__ = [
    "LOSSES",
    "MODEL_KINDS",
    "AdIndex",
    "Batches",
    "Bundle",
    "Chunk",
    "Config",
    "ConfigError",
    "DataConfig",
    "Dense",
    "Encoder",
    "Feature",
    "ModelConfig",
    "OptimizerConfig",
    "PreparedSet",
    "Schema",
    "SchemaError",
    "Scorer",
    "ShardingConfig",
    "StageConfig",
    "Task",
    "TowerBody",
    "TrainConfig",
    "TrainState",
    "Trained",
    "TwoTower",
    "__version__",
    "build_index",
    "config_dict",
    "cross_entropy",
    "eval_batches",
    "evaluate",
    "export",
    "init_state",
    "load_trained",
    "make_model",
    "make_step",
    "metrics",
    "predictions",
    "prepare",
    "step_arrays",
    "train",
    "train_batches",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tt-jax")
    if name == "metrics":
        return importlib.import_module("tt_jax.metrics")
    for module, names in _PLACES.items():
        if name in names:
            try:
                return getattr(importlib.import_module(module), name)
            except ImportError as e:
                from tt_jax.io.extras import missing_package

                if needs := missing_package(e):
                    raise ModuleNotFoundError(f"tt_jax.{name} {needs}", name=e.name) from e
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
