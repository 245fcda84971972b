"""`--config=FILE[:ARG] --config.a.b=value` to a typed `Config`, through ml_collections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from tt_jax.config import Config, ConfigError
from tt_jax.schema import nearest


def load_config(file: str, overrides: Sequence[str]) -> Config:
    """The configuration of a file, with fields set by `--config.a.b=value` arguments.

    The file is Python and is executed. Raises `ConfigError` naming the file, key or value that is wrong.
    """
    path = file.partition(":")[0]
    if not Path(path).is_file():
        raise ConfigError(f"--config={file}: no file {path}")
    keys = {key for key, _ in _flat(dataclasses.asdict(Config()))}
    for override in overrides:
        name = override.partition("=")[0]
        if not name.startswith("--config.") or "=" not in override:
            raise ConfigError(f"unknown argument {override!r}; expected --config.KEY=VALUE")
        key = name.removeprefix("--config.")
        if key not in keys:
            raise ConfigError(f"unknown configuration key {key!r}{nearest(key, keys)}")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "run configuration", lock_config=True, flag_values=values)
    try:
        values(["tt-jax", f"--config={file}", *overrides])
        loaded = values["config"].value
    except (flags.Error, TypeError, AttributeError, KeyError) as e:
        raise ConfigError(f"--config={file}: {e}") from None
    return Config.from_dict(loaded.to_dict())


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
