"""Serving: `from serving import Scorer`.

The names are loaded when they are used, so that `serving.client` needs no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.batching.batcher import Batcher
    from serving.batching.request import Work
    from serving.index.ad_index import AdIndex
    from serving.scorer import RequestError, ScoredAd, Scorer

_PLACES = {
    "AdIndex": "serving.index.ad_index",
    "Batcher": "serving.batching.batcher",
    "RequestError": "serving.scorer",
    "ScoredAd": "serving.scorer",
    "Scorer": "serving.scorer",
    "Work": "serving.batching.request",
}
__all__ = ["AdIndex", "Batcher", "RequestError", "ScoredAd", "Scorer", "Work"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
