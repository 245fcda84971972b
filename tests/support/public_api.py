"""What is public, as text: `python -m tests.support.public_api > tests/repo/public_api.txt` writes it anew."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from types import ModuleType
from typing import Any

MODULES = (
    "tt_jax",
    "tt_jax.config.files",
    "tt_jax.metrics",
    "serving",
    "serving.client",
    "input_pipeline.logs",
    "input_pipeline.readers",
)

# The modules of a recipe are public as a whole, by the four functions that `input_pipeline.recipes` names.
RECIPES = "input_pipeline.recipes"
OURS = ("tt_jax", "input_pipeline", "serving")


def described(module: ModuleType) -> list[str]:
    """A line for each name in `__all__`, and for what it offers."""
    lines = []
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.isclass(value):
            lines += [f"class {name}{_signature(value)}", *(f"    {line}" for line in _members(value))]
        elif callable(value):
            lines.append(f"{name}{_signature(value)}")
        else:
            lines.append(f"{name}: {type(value).__name__}")
    return lines


def _members(cls: type) -> list[str]:
    """Public methods and properties, also inherited ones of ours; fields stand in the signature."""
    found = []
    for name in sorted(n for n in dir(cls) if not n.startswith("_")):
        owner = next(c for c in cls.__mro__ if name in vars(c))
        value = vars(owner)[name]
        if owner.__module__.split(".")[0] not in ("tt_jax", "input_pipeline", "serving"):
            continue
        if isinstance(value, staticmethod | classmethod) or inspect.isfunction(value):
            found.append(f"{name}{_signature(getattr(cls, name))}")
        elif hasattr(value, "__get__") and getattr(value, "__doc__", None):
            found.append(f"{name}: property")
    return found


def _signature(value: Any) -> str:
    try:
        hidden = inspect.isclass(value) and type(value) is not type  # the constructor, by a metaclass, as NNX's
        signature = inspect.signature(value.__init__ if hidden else value)
    except (TypeError, ValueError):
        return ""  # an exception that takes what any takes
    parameters = [p.replace(annotation=_Plain(p.annotation)) for p in signature.parameters.values()]
    parameters = parameters[1:] if hidden else parameters
    returned = _Plain(signature.return_annotation)
    return re.sub(r" at 0x\w+", "", str(signature.replace(parameters=parameters, return_annotation=returned)))


class _Plain:
    """An annotation that prints as it is written."""

    def __new__(cls, annotation: Any) -> Any:
        return super().__new__(cls) if isinstance(annotation, str) else annotation

    def __init__(self, annotation: str) -> None:
        self.annotation = annotation

    def __repr__(self) -> str:
        return self.annotation


def text() -> str:
    """All of it."""
    parts = []
    for name in MODULES:
        parts += [f"# {name}", *described(importlib.import_module(name)), ""]
    return "\n".join(parts)


def imported_privately(source: str) -> list[str]:
    """What a file imports of ours that is not public."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        wrong += [f"{module} {name}".strip() for module, name in names if not is_public(module, name)]
    return wrong


def is_public(module: str, name: str) -> bool:
    """Whether `from module import name`, or `import module`, is of public names, or of another package."""
    if module.split(".")[0] not in OURS or module == RECIPES or f"{module}.{name}" in MODULES:
        return True
    return module in MODULES and (not name or name in importlib.import_module(module).__all__)


if __name__ == "__main__":
    print(text(), end="")
