"""Pages of docs/reference that are written from the code: `python docs/generate_reference.py`.

The schema and the configuration come from the dataclasses and their docstrings, the command line from its parsers, the
paths of the HTTP API from the service's OpenAPI document, the Python API from the docstrings of what packages export.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from litestar import Litestar

from serving.scorer import ScoredAd
from serving.service import app
from serving.service.openapi import openapi_config
from tt_jax.cli.main import VERBS, parser_of
from tt_jax.config import Config
from tt_jax.schema import Feature, Schema, Task

COMMAND = "python docs/generate_reference.py"
REFERENCE = Path(__file__).parent / "reference"
_WRITTEN = f"Written by `{COMMAND}`; change the docstrings, not this page.\n"
_ENTRY = re.compile(r"  (\w+(?:, \w+)*): (.*)")
_COLUMNS = 98  # of prose and of help
_PATHS = "## Paths\n"

_SCHEMA = """# The schema

What a row of a log means: [tt_jax/schema/schema.py](../../tt_jax/schema/schema.py). `tt-jax init`
writes a first one ([how to](../how-to/write_a_schema.md)). What the kinds of features are for, and
how each is encoded, is in [kinds of features](features/index.md). A schema that contradicts itself
is refused when it is made, by the name of the feature or task.
"""
_CONFIG = """# The configuration

What a run is: [tt_jax/config](../../tt_jax/config/config.py). A configuration is a Python file with
`get_config(arg)`. `tt-jax train` takes any field on the command line: `--config.model.experts=8`,
of a tuple `--config.model.mlp=256,128`. A name that does not exist, and a value that cannot be, is
an error.
"""
_CLI = """# The command line

`tt-jax VERB --help` prints what stands here. A verb exits with 0 when it is done, and with 2 and
one line on standard error for bad input; `TT_JAX_TRACEBACK=1` shows where the error was raised.
`parity` and `skew` exit with 1 when what they measure is past its limit, `serve` with 70 when its
dispatcher has died.
"""
_PYTHON = """# The Python API

What the packages export. Every other name may change with any version.
"""
PACKAGES = ("tt_jax", "serving", "serving.client")
_OWN_PAGE = {cls.__name__: f"schema.md#{cls.__name__.lower()}" for cls in (Schema, Feature, Task)}
_PARTS: dict[str, Any] = {
    n: hint for n, hint in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(hint)
}
_OWN_PAGE |= {part.__name__: f"config.md#config{name}" for name, part in _PARTS.items()}
_OWN_PAGE["Config"] = "config.md"


def pages() -> dict[str, str]:
    """File name -> text. Raises `ValueError` as `described` does."""
    return {
        "schema.md": "\n".join([_SCHEMA, _WRITTEN, *(_section(cls, cls.__name__) for cls in (Schema, Feature, Task))]),
        "config.md": _config_page(),
        "cli.md": _cli_page(),
        "http_api.md": _http_page(),
        "python_api.md": _python_page(),
    }


def _config_page() -> str:
    parts = [_section(part, f"config.{name}", f"config.{name}.") for name, part in _PARTS.items()]
    return "\n".join([_CONFIG, _WRITTEN, _section(Config, "config", "config."), *parts])


def _section(cls: Any, title: str, prefix: str = "") -> str:
    """A class as a heading, what its docstring says of it, and a table of its fields."""
    summary, meanings = described(cls)
    hints = typing.get_type_hints(cls)
    rows = [
        " | ".join([f"| `{prefix}{f.name}`", _type(hints[f.name]), _default(f), f"{meanings[f.name]} |"])
        for f in dataclasses.fields(cls)
    ]
    return "\n".join(
        [f"## {title}", "", _filled(summary), "", "| field | type | default | |", "|---|---|---|---|", *rows, ""]
    )


def _filled(prose: str) -> str:
    return textwrap.fill(prose, _COLUMNS, break_long_words=False, break_on_hyphens=False)


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


def _cli_page() -> str:
    """What `--help` prints, of each verb."""
    sections = [_CLI, _WRITTEN]
    for verb in VERBS:
        parser = parser_of(verb)
        parser.formatter_class = functools.partial(argparse.RawDescriptionHelpFormatter, width=_COLUMNS)
        sections.append(f"## {verb}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(sections)


def _http_page() -> str:
    """The page as it stands up to `_PATHS`, and from there on what the service's OpenAPI document has."""
    by_hand = (REFERENCE / "http_api.md").read_text(encoding="utf-8").partition(_PATHS)[0]
    routes = [app.rank, app.model, app.live, app.ready, app.metrics]
    document = Litestar(routes, openapi_config=openapi_config(tokens=True)).openapi_schema.to_schema()
    operations = [
        _operation(f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    messages = [_message(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n".join([by_hand + _PATHS, _WRITTEN, *operations, "## Messages", "", *messages])


def _operation(title: str, operation: dict[str, Any]) -> str:
    lines = [f"### {title}", "", _filled(operation["description"]), ""]
    if body := operation.get("requestBody"):
        lines += [_fields(body["content"]["application/json"]["schema"])]
    lines += ["| status | answer |", "|---|---|"]
    for status, answer in operation["responses"].items():
        ((media, content),) = answer["content"].items()
        told = {"Request fulfilled, document follows": "", "Additional response": ""}.get(*[answer["description"]] * 2)
        kind = _json_type(content["schema"]) if media == "application/json" else media
        lines.append(f"| {status} | {kind}{': ' * bool(told)}{told} |")
    return "\n".join([*lines, ""])


def _message(name: str, schema: dict[str, Any]) -> str:
    told = {cls.__name__: cls.__doc__ or "" for cls in (ScoredAd, *msgspec.Struct.__subclasses__())}
    return f"### {name}\n\n{_filled(inspect.cleandoc(told[name]))}\n\n{_fields(schema)}"


def _python_page() -> str:
    """Every public name of the packages, with its signature and docstring; what several export, at the first."""
    sections, seen = [_PYTHON, _WRITTEN], dict[int, str]()
    for package in (importlib.import_module(name) for name in PACKAGES):
        sections.append(f"## {package.__name__}\n")
        for name in package.__all__:
            value = getattr(package, name)
            if first := seen.get(id(value)):
                sections.append(f"### {name}\n\nThe same as in `{first}`.\n")
            else:
                sections.append(_described(f"### {name}", name, value))
                seen[id(value)] = package.__name__
    return "\n".join(sections)


def _described(heading: str, name: str, value: Any) -> str:
    """A public name; of a class, or of an object by its class, the public methods too."""
    if name in _OWN_PAGE:
        return f"{heading}\n\nAll fields are in [a page of their own]({_OWN_PAGE[name]}).\n"
    if isinstance(value, str):
        return f"{heading}\n\nA string.\n"
    if isinstance(value, types.UnionType):
        return f"{heading}\n\n`{value}`\n"
    told = _told(inspect.getdoc(value) or "")
    if inspect.ismodule(value) or (inspect.isclass(value) and issubclass(value, Exception)):
        return f"{heading}\n\n{told}\n"
    parts = [heading, f"```text\n{_signature(name, value)}\n```" if callable(value) else "An object.", told]
    owner = value if callable(value) else type(value)
    for method, raw in vars(owner).items() if inspect.isclass(owner) else ():
        if not method.startswith("_") and inspect.isfunction(getattr(raw, "__func__", raw)):
            signature = _signature(f"{name}.{method}", getattr(owner, method))
            parts += [f"```text\n{signature}\n```", _told(inspect.getdoc(raw) or "")]
    return "\n\n".join(parts) + "\n"


def _signature(name: str, value: Any) -> str:
    """On one line if that fits, else a line a parameter; without the quotes of annotations."""
    made_by_metaclass = inspect.isclass(value) and type(value) is not type  # whose call hides the constructor, as NNX's
    signature = inspect.signature(value.__init__ if made_by_metaclass else value)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    lines = [re.sub(r": '([^']*)'", r": \1", str(inspect.Signature([p]))[1:-1]) for p in parameters]
    keyword_only = [i for i, p in enumerate(parameters) if p.kind is inspect.Parameter.KEYWORD_ONLY]
    lines = [re.sub(r"<[\w.]*?(\w+) object at \w+>", r"\1()", line.removeprefix("*, ")) for line in lines]
    if keyword_only:
        lines.insert(keyword_only[0], "*")
    returned = signature.return_annotation
    end = ")" if inspect.isclass(value) or returned is signature.empty else f") -> {returned}"
    line = f"{name}({', '.join(lines)}{end}"
    return line if len(line) <= _COLUMNS else f"{name}(\n    " + ",\n    ".join(lines) + f",\n{end}"


def _told(docstring: str) -> str:
    """Paragraphs of a docstring filled, its sections of arguments and attributes as lists."""
    parts = []
    for block in docstring.split("\n\n"):
        title, _, rest = block.partition("\n")
        if title in ("Args:", "Attributes:"):
            entries = [
                textwrap.fill(f"`{n}`: {m}", _COLUMNS, initial_indent="- ", subsequent_indent="  ")
                for n, m in _entries(rest)
            ]
            parts.append("\n".join(entries))
        else:
            parts.append(_filled(" ".join(block.split())))
    return "\n\n".join(parts)


def _fields(schema: dict[str, Any]) -> str:
    """The keys of a JSON object as a table."""
    rows = []
    for name, value in schema["properties"].items():
        default = f"default `{value['default']}`. " if "default" in value else ""
        rows.append(f"| `{name}` | {_json_type(value)} | {default}{value.get('description', '')} |")
    return "\n".join(["| key | type | |", "|---|---|---|", *rows, ""])


def _json_type(schema: dict[str, Any]) -> str:
    """A JSON schema as people say it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if either := schema.get("anyOf") or schema.get("oneOf"):
        return _either([_json_type(part) for part in either])
    if schema.get("type") == "array":
        return f"array of {_json_type(schema['items'])}"
    if inside := schema.get("additionalProperties"):
        return f"object of {_json_type(inside)}"
    return schema.get("type", "any")


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
