"""What a file for `--config` is made with: its `get_config(arg)` returns `config_dict` of a `Config`.

ml_collections is used here and in `tt_jax/cli/configuration.py` only.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from tt_jax.config.config import Config, ModelConfig
from tt_jax.io.strict_json import nearest

__all__ = ["config_dict", "model_of", "split_argument"]


def config_dict(config: Config) -> ConfigDict:
    """The typed configuration as a locked ConfigDict, whose every field `--config.a.b=value` can set."""
    return ConfigDict(config.to_dict()).lock()


def split_argument(arg: str, **defaults: str) -> dict[str, str]:
    """The parts of `SCENARIO,key=value,...`, any of them left out: `scenario` ("" by default) and the other keys.

    Raises `ValueError` naming a key that is none of `defaults`, or that has two values.
    """
    found, given = {"scenario": "", **defaults}, set()
    for part in filter(None, arg.split(",")):
        key, _, value = part.partition("=") if "=" in part else ("scenario", "=", part)
        if key not in found:
            raise ValueError(f"argument {arg!r}: unknown key {key!r}{nearest(key, found)}")
        if key in given:
            raise ValueError(f"argument {arg!r}: two values of {key!r}")
        given.add(key)
        found[key] = value
    return found


def model_of(models: Mapping[str, ModelConfig], kind: str) -> ModelConfig:
    """The model of a kind. Raises `ValueError` with the nearest kind if there is none."""
    if kind not in models:
        raise ValueError(f"unknown kind of model {kind!r}{nearest(kind, models)}")
    return models[kind]
