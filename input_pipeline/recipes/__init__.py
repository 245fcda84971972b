"""One module a data set: `SPLITS`, `schema(source)`, `read(source, errors=...)`, `ads(source)`. Copy `kuairand`.

With `parts(source)`, names of files, and `read(..., parts=...)`, which reads some of them, workers can share a log.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from tt_jax.io.strict_json import nearest

RECIPES = ("adworld", "census", "kuairand")


def load(name: str) -> ModuleType:
    """The module of a recipe. Raises `ValueError` with the nearest name if there is none."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, RECIPES)}")
    return importlib.import_module(f"{__name__}.{name}")
