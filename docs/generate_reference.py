"""docs/reference/schema.md and config.md, from the dataclasses: `python docs/generate_reference.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tt_jax.config import Config
from tt_jax.schema import Feature, Schema, Task

COMMAND = "python docs/generate_reference.py"
DOCS = Path(__file__).parent / "reference"
_WRITTEN = f"Written by `{COMMAND}`; change the docstrings, not this page.\n"
_ENTRY = re.compile(r"  (\w+(?:, \w+)*): (.*)")

_SCHEMA = """# The schema

What a row of a log means: [tt_jax/schema/schema.py](../../tt_jax/schema/schema.py). `tt-jax init` writes a first one
([how to write one](../how-to/write_a_schema.md)); what the kinds of features are for, and how each is encoded, is in
[features/](features/index.md). A schema that contradicts itself is refused when it is made, by
the name of the feature or task.
"""
_CONFIG = """# The configuration

What a run is: [tt_jax/config.py](../../tt_jax/config.py). A configuration is a Python file with `get_config(arg)`, and
`tt-jax train` takes any field on the command line: `--config.model.experts=8`, of a tuple
`--config.model.mlp=256,128`. A name that does not exist, and a value that cannot be, is an error.
"""


def pages() -> dict[str, str]:
    """File name -> text. Raises `ValueError` as `described` does."""
    own = [_section(Config, "config", "config.")]
    for f in dataclasses.fields(Config):
        part = typing.get_type_hints(Config)[f.name]
        if dataclasses.is_dataclass(part):
            own.append(_section(part, f"config.{f.name}", f"config.{f.name}."))
    schema = [_section(cls, cls.__name__) for cls in (Schema, Feature, Task)]
    return {"schema.md": "\n".join([_SCHEMA, _WRITTEN, *schema]), "config.md": "\n".join([_CONFIG, _WRITTEN, *own])}


def _section(cls: Any, title: str, prefix: str = "") -> str:
    """A class as a heading, what its docstring says of it, and a table of its fields."""
    summary, meanings = described(cls)
    hints = typing.get_type_hints(cls)
    rows = [
        " | ".join([f"| `{prefix}{f.name}`", _type(hints[f.name]), _default(f), f"{meanings[f.name]} |"])
        for f in dataclasses.fields(cls)
    ]
    return "\n".join([f"## {title}", "", summary, "", "| field | type | default | |", "|---|---|---|---|", *rows, ""])


def described(cls: Any) -> tuple[str, dict[str, str]]:
    """What the docstring of a dataclass says before `Attributes:`, and of each field; one that is a dataclass says it.

    Raises `ValueError` naming a field without a line, or a line without a field.
    """
    summary, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:\n")
    hints = typing.get_type_hints(cls)
    parts = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    found = {name: described(part)[0] for name, part in parts.items()}
    for name, meaning in _entries(attributes):
        if name not in hints:
            raise ValueError(f"{cls.__name__}: the docstring describes {name!r}, which is no field")
        found[name] = meaning
    for f in dataclasses.fields(cls):
        if f.name not in found:
            raise ValueError(f"{cls.__name__}.{f.name}: no line in the docstring's Attributes says what it is")
    return " ".join(summary.split()), found


def _entries(attributes: str) -> Iterator[tuple[str, str]]:
    """`(field, meaning)` of an Attributes section; a line may describe several fields, and go on in the next ones."""
    names, text = [], ""
    for line in [*attributes.splitlines(), ""]:
        entry = _ENTRY.fullmatch(line)
        if entry or not line.strip():
            yield from ((name, " ".join(text.split())) for name in names)
            names, text = (entry[1].split(", "), entry[2]) if entry else ([], "")
        else:
            text += " " + line


def _type(hint: Any) -> str:
    """A type as people say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _either([f"`{a}`" for a in arguments])
    if origin in (types.UnionType, typing.Union):
        return _either([_type(a) for a in arguments])
    if origin is tuple:
        return f"tuple of {_type(arguments[0])}"
    if hint is type(None):
        return "None"
    name = hint.__name__
    return f"[{name}](#{name.lower()})" if hint in (Feature, Task) else name


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _default(f: Any) -> str:
    if f.default is not dataclasses.MISSING:
        return f"`{f.default!r}`"
    return "required" if f.default_factory is dataclasses.MISSING else "below"


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
