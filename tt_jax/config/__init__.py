"""The configuration of a run, what it chooses by name, and what a file for `--config` is made with."""

from tt_jax.config.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    Schedule,
    ShardingConfig,
    StageConfig,
    TrainConfig,
    parse_weights,
)

__all__ = [
    "Config", "ConfigError", "DataConfig", "ModelConfig", "OptimizerConfig", "Precision", "Schedule", "ShardingConfig",
    "StageConfig", "TrainConfig", "parse_weights",
]  # fmt: skip
