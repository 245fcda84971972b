"""Runs to copy. `config_dict` is that of the package, which files of older versions import from here."""

from tt_jax.config.files import config_dict

__all__ = ["config_dict"]
