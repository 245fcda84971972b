"""A recipe, by its name or as a Python file of one's own."""

from __future__ import annotations

import inspect
from types import ModuleType


def load_recipe(name: str, verb: str = "prepare") -> ModuleType:
    """The module of a recipe. Raises ValueError if there is none, or a function that it must have is not in it."""
    from input_pipeline import recipes
    from tt_jax.cli.python_file import load_python

    if not name.endswith(".py"):
        return recipes.load(name)
    module = load_python(name, "tt_jax_recipe", f"{verb} {name}", ValueError)
    for function in ("schema", "read", "ads"):
        if not callable(getattr(module, function, None)):
            raise ValueError(f"{verb} {name}: expected a function {function}(source) in it")
    if "errors" not in inspect.signature(module.read).parameters:
        raise ValueError(f"{verb} {name}: expected read(source, errors), got read{inspect.signature(module.read)}")
    return module
