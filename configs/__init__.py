"""Runs as Python: `get_config(arg)` in each file returns a locked ConfigDict.

ml_collections is used here and in the CLI only.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from tt_jax.config import Config, ModelConfig
from tt_jax.io.strict_json import nearest


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
