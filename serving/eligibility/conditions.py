"""What requests say of the ads they want, encoded: `context`, `where`, `exclude`, and values of the utility.

    context   {"country": "de", "now": 1760000000, "floor": 0.1}   for targeting sets, intervals and request values
    where     {"category": {"none": ["gambling"]}, "price": {"max": 20}, "adult": false}   for all other attributes
    exclude   ids of ads

A set of a request is a short program over bitmaps, see `Rules`. A schema with attributes has rules for every request,
as a targeted ad does not serve a request without a context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

NO_AD = -1  # in place of a position
MAX_VALUES = 256  # of the sets of one request, together
MAX_EXCLUDED = 16_384  # ads of one request
OPEN, AND, AND_NOT = range(3)  # what follows a row of a program, see `Rules`


class ConditionError(ValueError):
    """A condition that cannot be met or read: the key, its value, and what was expected."""


@dataclass(frozen=True)
class Condition:
    """What one request says of the ads it wants; see the module."""

    context: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    exclude: Sequence[Any] = ()


class Rules(NamedTuple):
    """Which ads may serve n requests, by their attributes.

    A program is some rows, each a bitmap of ads. A row is added to the set at hand (or). At its end `AND` keeps the ads
    of the set, `AND_NOT` the others, and an empty set is at hand again.

    Attributes:
      rows: int32 `[n, P]`: a row of `BitmapRows`; after the last, large set i, where a value is compared.
      values: int32 `[n, P]`: the value of a large set.
      ends: int32 `[n, P]`.
      lengths: int32 `[n]`, rows of each program.
      lows, highs: float32 `[n, F]`, bounds of the numbers, in the order of `BitmapRows`.
      now: uint32 `[n]`, Unix seconds.
      compares: bool `[n]`, whether a number is bounded or there are intervals.
    """

    rows: Any
    values: Any
    ends: Any
    lengths: Any
    lows: Any
    highs: Any
    now: Any
    compares: Any


class ConditionArrays(NamedTuple):
    """The conditions of one call, a pytree.

    Attributes:
      values: float32 `[n, V]`, values for the utility, in the order of the schema.
      excluded: int32 `[X, 2]`, pairs of a request and the position of an ad, filled up with `(0, NO_AD)`.
      excluded_count: int32 `[]`, how many pairs these are.
      rules: None without attributes.
    """

    values: Any
    excluded: Any
    excluded_count: Any
    rules: Rules | None


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditions of n requests, encoded for the ads of one version of an index.

    Attributes:
      values, rules: as of `ConditionArrays`.
      excluded: of each request the positions of ads, distinct.
    """

    values: np.ndarray
    excluded: list[np.ndarray]
    rules: Rules | None

    def at(self, rows: Sequence[int]) -> Conditions:
        """Of some of the requests."""
        rules = None if self.rules is None else Rules(*(x[rows] for x in self.rules))
        return Conditions(self.values[rows], [self.excluded[row] for row in rows], rules)

    @staticmethod
    def concatenate(parts: Sequence[Conditions]) -> Conditions:
        """Of all requests of several."""
        rules = [part.rules for part in parts if part.rules is not None]
        joined = Rules(*map(np.concatenate, zip(*rules, strict=True))) if rules else None
        excluded = [places for part in parts for places in part.excluded]
        return Conditions(np.concatenate([part.values for part in parts]), excluded, joined)

    def padded(self, queries: int) -> ConditionArrays:
        """For a call of that many queries: empty programs, which all ads pass, fill it up."""
        spare = queries - len(self.values)
        pad = lambda x: np.pad(x, ((0, spare), *((0, 0),) * (x.ndim - 1))) if spare else x  # noqa: E731
        pairs = np.zeros((excluded_size(queries), 2), np.int32)
        count = sum(map(len, self.excluded))
        if count:
            pairs[:count, 0] = np.repeat(np.arange(len(self.excluded)), list(map(len, self.excluded)))
            pairs[:count, 1] = np.concatenate(self.excluded)
        pairs[count:, 1] = NO_AD
        rules = self.rules and Rules(*map(pad, self.rules))
        return ConditionArrays(pad(self.values), pairs, np.asarray(count, np.int32), rules)


def excluded_size(queries: int) -> int:
    """Most excluded ads of all queries of a call together."""
    return max(MAX_EXCLUDED, 1024 * queries)


def conditions_of(queries: int, context: Any = (), where: Any = (), exclude: Any = ()) -> list[Condition] | None:
    """The conditions of that many queries, of which each part is for all, or a list of one for each; None of nothing.

    Raises `ConditionError` for a list of another length.
    """
    if not (context or where or exclude):
        return None
    parts: list[list[Any]] = []
    for key, part, is_one in (
        ("context", context, isinstance(context, Mapping)),
        ("where", where, isinstance(where, Mapping)),
        ("exclude", exclude, not any(isinstance(some, list | tuple) for some in exclude)),
    ):
        if not is_one and part and len(part) != queries:
            raise ConditionError(f"{key}: expected one for each of {queries} queries, got {len(part)}")
        empty: Any = () if key == "exclude" else {}
        parts.append([part] * queries if is_one else list(part) or [empty] * queries)
    return [Condition(*of_query) for of_query in zip(*parts, strict=True)]
