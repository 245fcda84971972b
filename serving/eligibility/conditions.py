"""What requests say of the ads they want, encoded: `context`, `where`, `exclude`, and values of the utility.

    context   {"country": "de", "now": 1760000000, "floor": 0.1}   for targeting sets, intervals and request values
    where     {"category": {"none": ["gambling"]}, "price": {"max": 20}, "adult": false}   for all other attributes
    exclude   ids of ads

A set of a request is a short program over bitmaps, see `Rules`. A schema with attributes has rules for every request,
as a targeted ad does not serve a request without a context.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from serving.eligibility.ad_attributes import OPEN_END, AdAttributes, AttributeValue
from serving.error_answer import shorten
from tt_jax.io.strict_json import nearest
from tt_jax.schema import AdAttribute, Schema

NOW = "now"
NO_AD = -1  # in place of a position
MAX_VALUES = 256  # of the sets of one request, together
MAX_EXCLUDED = 16_384  # ads of one request
OPEN, AND, AND_NOT = range(3)  # what follows a row of a program, see `Rules`
NO_ROW = 0  # a bitmap without an ad
_SET, _LARGE_SET, _NUMBER = ("any", "all", "none"), ("any", "none"), ("min", "max")  # operators


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


class BitmapRows:
    """Which row of the bitmaps is what. Row `NO_ROW` has no ad.

    Attributes:
      first: name of a small set, or a flag -> its first row. A targeting set begins with the ads that accept all.
      count: of rows.
      ids, numbers, intervals: names of the large sets, the numbers and the intervals, sorted, as JAX sorts dicts.
    """

    def __init__(self, attributes: Sequence[AdAttribute]) -> None:
        self.first: dict[str, int] = {}
        self.count = NO_ROW + 1
        for a in attributes:
            if a.is_bits or a.kind == "flag":
                self.first[a.name] = self.count
                self.count += 1 if a.kind == "flag" else a.max_values + (a.match == "targeting")
        self.ids = tuple(sorted(a.name for a in attributes if a.is_id))
        self.numbers = tuple(sorted(a.name for a in attributes if a.kind == "number"))
        self.intervals = tuple(sorted(a.name for a in attributes if a.kind == "interval"))


@dataclass
class _Program:
    rows: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, rows: Sequence[tuple[int, int]], end: int) -> None:
        """The ads that are in one of these (row, value), or are in none."""
        rows = rows or [(NO_ROW, 0)]
        self.rows += [row for row, _ in rows]
        self.values += [value for _, value in rows]
        self.ends += [OPEN] * (len(rows) - 1) + [end]


class ConditionEncoder:
    """Reads the conditions of requests, for the ads of one schema. Make one, use it often."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema.attributes
        self._attributes = {a.name: a for a in schema.attributes}
        self._values = {v.name: v for v in schema.request_values}
        self._rows = BitmapRows(schema.attributes)
        targeting = [a.name for a in schema.attributes if a.match == "targeting"]
        self._context_keys = (*targeting, *self._values, *((NOW,) if self._rows.intervals else ()))
        self._where_keys = tuple(a.name for a in schema.attributes if a.match != "targeting" and a.kind != "interval")

    def none(self, n: int) -> Conditions:
        """Of n requests that say nothing."""
        return self.encode([Condition()] * n, AdAttributes.empty(self._schema, 0), [np.zeros(0, np.int64)] * n)[0]

    def encode(
        self, conditions: Sequence[Condition], ads: AdAttributes, excluded: list[np.ndarray]
    ) -> tuple[Conditions, list[str]]:
        """The conditions of n requests, and the name of a set for each of its values that no ad has.

        Args:
          ads: whose values of sets are known.
          excluded: distinct positions of the ads that each request excludes.

        Raises `ConditionError`.
        """
        n = len(conditions)
        values = np.array([[v.default for v in self._values.values()]] * n, np.float32).reshape(n, len(self._values))
        rules, unknown, clock = self._no_rules(n), list[str](), int(time.time())
        for i, condition in enumerate(conditions):
            self._check_keys(condition)
            for j, name in enumerate(self._values):
                if condition.context.get(name) is not None:
                    values[i, j] = _number(f"context.{name}", condition.context[name])
            if rules is not None:
                self._fill(rules, i, condition, ads, unknown, clock)
        return Conditions(values, excluded, rules), unknown

    def _no_rules(self, n: int) -> Rules | None:
        """Of n requests that bound nothing."""
        if not self._attributes:
            return None
        program = np.zeros((n, MAX_VALUES + 2 * len(self._attributes)), np.int32)
        bounds = np.empty((n, len(self._rows.numbers)), np.float32)
        lows, highs = np.full_like(bounds, -np.inf), np.full_like(bounds, np.inf)
        compares = np.full(n, bool(self._rows.intervals))
        now = np.zeros(n, np.uint32)
        return Rules(program, program.copy(), program.copy(), np.zeros(n, np.int32), lows, highs, now, compares)

    def _check_keys(self, condition: Condition) -> None:
        for key, given, known in (
            ("context", condition.context, self._context_keys),
            ("where", condition.where, self._where_keys),
        ):
            if not isinstance(given, Mapping):
                _fail(key, f"expected an object, got {_show(given)}")
            for name in given:
                if name not in known:
                    what = nearest(name, known) if known else f"; the schema has nothing for {key!r}"
                    _fail(f"{key}.{name}", f"unknown{what}")

    def _fill(
        self, rules: Rules, i: int, condition: Condition, ads: AdAttributes, unknown: list[str], clock: int
    ) -> None:
        program = _Program()
        for a in self._attributes.values():
            if a.match == "targeting":
                first = self._rows.first[a.name]
                given = _listed(f"context.{a.name}", condition.context.get(a.name), a)
                found = self._places(a, given, ads, unknown)
                program.add([(first, 0), *((first + 1 + v, 0) for v in found)], AND)
        for name, given in condition.where.items():
            a, key = self._attributes[name], f"where.{name}"
            if a.kind == "flag":
                if type(given) is not bool:
                    _fail(key, f"expected true or false, got {_show(given)}")
                program.add([(self._rows.first[name], 0)], AND if given else AND_NOT)
            elif a.kind == "number":
                self._bound(rules, i, a, _operators(key, given, _NUMBER))
            else:
                self._sets(program, a, _operators(key, given, _LARGE_SET if a.is_id else _SET), ads, unknown)
        used = len(program.rows)
        if used > rules.rows.shape[1]:
            _fail("where", f"expected at most {MAX_VALUES} values of sets in a request, got {used}")
        rules.rows[i, :used], rules.values[i, :used], rules.ends[i, :used] = program.rows, program.values, program.ends
        rules.lengths[i] = used
        now = condition.context.get(NOW)
        if now is not None and (type(now) is not int or not 0 <= now <= OPEN_END):
            _fail("context.now", f"expected whole Unix seconds, 0..{OPEN_END}, got {_show(now)}")
        rules.now[i] = clock if now is None else now

    def _bound(self, rules: Rules, i: int, a: AdAttribute, given: Mapping[str, Any]) -> None:
        j = self._rows.numbers.index(a.name)
        for name, bounds in (("min", rules.lows), ("max", rules.highs)):
            if name in given:
                bounds[i, j] = _number(f"where.{a.name}.{name}", given[name])  # rounded as those of ads are
                rules.compares[i] = True

    def _sets(
        self, program: _Program, a: AdAttribute, given: Mapping[str, Any], ads: AdAttributes, unknown: list[str]
    ) -> None:
        for operator, some in given.items():
            key = f"where.{a.name}.{operator}"
            if not isinstance(some, list | tuple):
                _fail(key, f"expected a list of values, got {_show(some)}")
            values = _listed(key, some, a)
            found = [self._row(a, v) for v in self._places(a, values, ads, unknown)]
            if operator == "all":
                for row in [*found, *[(NO_ROW, 0)] * (len(values) - len(found))]:
                    program.add([row], AND)
            else:
                program.add(found, AND if operator == "any" else AND_NOT)

    def _row(self, a: AdAttribute, value: int) -> tuple[int, int]:
        if a.is_id:
            return self._rows.count + self._rows.ids.index(a.name), value
        return self._rows.first[a.name] + value, 0

    def _places(
        self, a: AdAttribute, values: Sequence[AttributeValue], ads: AdAttributes, unknown: list[str]
    ) -> list[int]:
        place = ads.values[a.name].place
        unknown += [a.name for v in values if v not in place]
        return [place[v] for v in values if v in place]


def _listed(key: str, given: Any, a: AdAttribute) -> list[AttributeValue]:
    """Values of a set, each once; one value is a list of one, null of none."""
    values = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    wanted = str if a.dtype == "string" else int
    for v in values:
        if type(v) is not wanted:
            _fail(key, f"expected {'strings' if wanted is str else 'integers'}, got {_show(v)}")
    return list(dict.fromkeys(values))


def _operators(key: str, given: Any, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not given:
        _fail(key, f"expected an object of {', '.join(known)}, got {_show(given)}")
    for name in given:
        if name not in known:
            _fail(f"{key}.{name}", f"unknown operator{nearest(name, known)}")
    return given


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not abs(value) < 2.0**127:
        _fail(key, f"expected a finite float32 number, got {_show(value)}")
    return float(value)


def _fail(key: str, reason: str) -> NoReturn:
    raise ConditionError(f"{key}: {reason}")


def _show(value: Any) -> str:
    try:
        return shorten(repr(value))
    except RecursionError:
        return "a value nested too deeply"
