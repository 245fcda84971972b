"""`--config=FILE[:ARG] --config.a.b=value` to a typed `Config`. The file is Python and makes a ConfigDict."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from tt_jax.cli.python_file import load_python
from tt_jax.config import Config, ConfigError
from tt_jax.io.strict_json import nearest


def load_config(file: str, overrides: Sequence[str]) -> Config:
    """The configuration of a file, with fields set by `--config.a.b=value` arguments, later ones winning.

    The file is executed, and its `get_config(ARG)` called. A tuple is written `64,32` or `(64, 32)`. Raises
    `ConfigError` naming the file, key or value that is wrong.
    """
    return with_overrides(_execute(file), overrides)


def with_overrides(given: Config, overrides: Sequence[str]) -> Config:
    """A configuration with fields set by `--config.a.b=value` arguments; raises as `load_config` does."""
    config = given.to_dict()
    hints = dict(_fields(Config))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not name.startswith("--config.") or not equals:
            raise ConfigError(f"unknown argument {override!r}; expected --config.KEY=VALUE")
        key = name.removeprefix("--config.")
        if key not in hints:
            raise ConfigError(f"unknown configuration key {key!r}{nearest(key, hints)}")
        *groups, last = key.split(".")
        group = config
        for g in groups:
            group = group[g]
        group[last] = _parse(hints[key], text, key)
    return Config.from_dict(config)


def _execute(file: str) -> Config:
    path, colon, argument = file.partition(":")
    module = load_python(path, "tt_jax_run_config", f"--config={file}", ConfigError)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={file}: the file has no get_config, which returns the configuration")
    try:
        found = module.get_config(*([argument] if colon else []))
    except Exception as e:  # whatever the user's file raises
        raise ConfigError(f"--config={file}: {type(e).__name__}: {e}") from e
    if not isinstance(found, ConfigDict):
        raise ConfigError(f"--config={file}: get_config returned {type(found).__name__}, expected a ConfigDict")
    try:
        return Config.from_dict(found.to_dict())
    except ConfigError as e:
        raise ConfigError(f"--config={file}: {e}") from None


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`a.b.c` -> type, of every field that is not a group of fields."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _fields(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def _parse(hint: Any, text: str, key: str) -> Any:
    """The value of a text, as Python writes it; strings go without quotes. `Config.from_dict` checks its type."""
    if hint is str or typing.get_origin(hint) is typing.Literal:
        return text
    if hint == tuple[str, ...] and not text.startswith(("(", "[")):
        return tuple(name for name in text.split(",") if name)
    is_tuple = typing.get_origin(hint) is tuple
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        expected = hint if is_tuple else hint.__name__
        raise ConfigError(f"config.{key}: expected {expected}, got {text!r}") from None
    return (value,) if is_tuple and not isinstance(value, tuple | list) else value
