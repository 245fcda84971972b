"""Serving: `from serving import Scorer`."""

from serving.index import AdIndex
from serving.scorer import RequestError, ScoredAd, Scorer

__all__ = ["AdIndex", "RequestError", "ScoredAd", "Scorer"]
