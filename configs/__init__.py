"""Runs as Python: `get_config(arg)` in each file returns a locked ConfigDict.

ml_collections is used here and in the CLI only.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from tt_jax.config import Config


def config_dict(config: Config) -> ConfigDict:
    """The typed configuration as a locked ConfigDict, whose every field `--config.a.b=value` can set."""
    return ConfigDict(config.to_dict()).lock()
