"""Serving: `from serving import Scorer`.

The names are loaded when they are used, so that `serving.client` needs no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.index import AdIndex
    from serving.scorer import RequestError, ScoredAd, Scorer

__all__ = ["AdIndex", "RequestError", "ScoredAd", "Scorer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("serving.index" if name == "AdIndex" else "serving.scorer"), name)
