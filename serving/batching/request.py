"""A request to rank ads, checked and independent of HTTP."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from serving.eligibility.conditions import Condition
from serving.error_answer import shorten
from serving.index.ad_columns import AdId
from serving.scorer import RequestError, Scorer
from serving.scoring.explore import Explore


@dataclass(frozen=True)
class Work:
    """A checked request: queries, one list of candidate ids for each (or None for the whole index), and k of each.

    `model`: the scorer of the batcher that ranks it; "" = the first. `conditions`: of each query; None = none.
    `explore`: query i of these draws from its seed and i.
    """

    queries: list[dict[str, Any]]
    k: int
    candidates: list[list[AdId]] | None
    model: str = ""
    conditions: list[Condition] | None = None
    explore: Explore | None = None

    def copied(self) -> Work:
        """The same, with lists that nobody else changes.

        Raises `RequestError` naming what is not as the types say. Values of features, ids and `k` are for the scorer
        to check.
        """
        queries, lists = self.queries, self.candidates
        if not isinstance(queries, list | tuple) or not queries:
            raise RequestError(f"queries: expected a list of at least one query, got {shorten(repr(queries))}")
        for i, query in enumerate(queries):
            if not isinstance(query, Mapping):
                raise RequestError(f"query {i}: expected an object of features, got {shorten(repr(query))}")
        said = self.conditions
        if said is not None and (len(said) != len(queries) or not all(isinstance(c, Condition) for c in said)):
            raise RequestError(f"conditions: expected a Condition for each of {len(queries)} queries")
        said = said and [replace(c, exclude=copy.copy(c.exclude)) for c in said]
        if lists is None:
            return replace(self, queries=list(queries), conditions=said)
        if not isinstance(lists, list | tuple) or len(lists) != len(queries):
            got = len(lists) if isinstance(lists, list | tuple) else shorten(repr(lists))
            raise RequestError(f"candidates: expected a list for each of {len(queries)} queries, got {got}")
        for i, ids in enumerate(lists):
            if not isinstance(ids, list | tuple):
                raise RequestError(f"candidates of query {i}: expected a list of ids, got {shorten(repr(ids))}")
        return replace(self, queries=list(queries), candidates=[list(ids) for ids in lists], conditions=said)


def deadline_seconds(deadline: Any) -> float:
    """A deadline of `time.perf_counter`, inf = none. Raises TypeError or ValueError for what is no number."""
    if isinstance(deadline, bool) or not issubclass(type(deadline), Real):
        raise TypeError(f"deadline: expected a number of seconds, got {deadline!r}")
    try:
        seconds = float(deadline)
    except OverflowError:  # of an int
        return math.inf if deadline > 0 else 0.0
    if math.isnan(seconds):
        raise ValueError(f"deadline: expected a number of seconds, got {deadline!r}")
    return max(seconds, 0.0)  # of `time.perf_counter`, which was 0 long ago


def by_model(scorers: Scorer | Mapping[str, Scorer]) -> dict[str, Scorer]:
    """Model -> scorer, at least one; a lone scorer is that of the model that its schema names."""
    found = {scorers.schema.name: scorers} if isinstance(scorers, Scorer) else dict(scorers)
    if not found:
        raise ValueError("scorers: expected at least one, got none")
    return found
