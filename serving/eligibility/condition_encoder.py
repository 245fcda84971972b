"""Conditions of requests, read and checked, as arrays for the ads of one schema."""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from serving.eligibility.ad_attributes import OPEN_END, AdAttributes, AttributeValue
from serving.eligibility.conditions import (
    AND,
    AND_NOT,
    MAX_EXCLUDED,
    MAX_VALUES,
    OPEN,
    Condition,
    ConditionError,
    Conditions,
    Rules,
)
from tt_jax.io.strict_json import nearest
from tt_jax.schema import AdAttribute, Schema

NOW = "now"
SHOWN = 200  # values of a set
NO_ROW = 0  # a bitmap without an ad
_SET, _LARGE_SET, _NUMBER = ("any", "all", "none"), ("any", "none"), ("min", "max")  # operators
Find = Callable[[Sequence[Any]], np.ndarray]  # ids of ads -> positions, -1 of no ad; raises ValueError


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
    asked: int = 0  # values of sets

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
        return self.encode([Condition()] * n, AdAttributes.empty(self._schema, 0), np.asarray)

    def encode(self, conditions: Sequence[Condition], ads: AdAttributes, find: Find, first: int = 0) -> Conditions:
        """The conditions of n requests, of which the first has that number in errors.

        Args:
          ads: whose values of sets are known.
          find: of those ads.

        Raises `ConditionError` naming query, key and value.
        """
        n = len(conditions)
        values = np.array([[v.default for v in self._values.values()]] * n, np.float32).reshape(n, len(self._values))
        rules, excluded, clock = self._no_rules(n), list[np.ndarray](), int(time.time())
        for i, condition in enumerate(conditions):
            try:
                self._check_keys(condition)
                for j, name in enumerate(self._values):
                    if condition.context.get(name) is not None:
                        values[i, j] = _number(f"context.{name}", condition.context[name])
                if rules is not None:
                    self._fill(rules, i, condition, ads, clock)
                excluded.append(_excluded(condition.exclude, find))
            except ConditionError as e:
                raise ConditionError(f"query {first + i}: {e}") from None
        return Conditions(values, excluded, rules)

    def told(self, ads: AdAttributes) -> list[dict[str, Any]]:
        """Of each attribute its name, kind, `where` and by which operators a request says what it wants, and values."""
        found = []
        for a in self._attributes.values():
            told: dict[str, Any] = {"name": a.name, "kind": a.kind, "where": "where"}
            if a.match == "targeting" or a.kind == "interval":
                told["where"] = "context" if a.match == "targeting" else f"context.{NOW}"
            elif a.kind != "flag":
                told["operators"] = _NUMBER if a.kind == "number" else _LARGE_SET if a.is_id else _SET
            if a.kind == "set":
                told |= {"dtype": a.dtype, "values": list(ads.values[a.name].names[:SHOWN])}
            found.append(told)
        return found

    def unknown(self, condition: Condition, ads: AdAttributes) -> list[str]:
        """The name of a set for each of the values in a condition that no ad has had; of one that was encoded."""
        found = list[str]()
        for name, values in ads.values.items():
            asked = [condition.context.get(name), *dict(condition.where.get(name) or {}).values()]
            for given in asked:
                found += [name for v in _listed(name, given, self._attributes[name]) if v not in values.place]
        return found

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
                _fail(key, f"expected an object, got {reprlib.repr(given)}")
            for name in given:
                if name not in known:
                    what = nearest(name, known) if known else f"; the schema has nothing for {key!r}"
                    _fail(f"{key}.{name}", f"unknown{what}")

    def _fill(self, rules: Rules, i: int, condition: Condition, ads: AdAttributes, clock: int) -> None:
        program = _Program()
        for a in self._attributes.values():
            if a.match == "targeting":
                first = self._rows.first[a.name]
                given = _listed(f"context.{a.name}", condition.context.get(a.name), a)
                program.asked += len(given)
                found = _places(a, given, ads)
                program.add([(first, 0), *((first + 1 + v, 0) for v in found)], AND)
        for name, given in condition.where.items():
            a, key = self._attributes[name], f"where.{name}"
            if a.kind == "flag":
                if type(given) is not bool:
                    _fail(key, f"expected true or false, got {reprlib.repr(given)}")
                program.add([(self._rows.first[name], 0)], AND if given else AND_NOT)
            elif a.kind == "number":
                self._bound(rules, i, a, _operators(key, given, _NUMBER))
            else:
                self._sets(program, a, _operators(key, given, _LARGE_SET if a.is_id else _SET), ads)
        used = len(program.rows)
        if program.asked > MAX_VALUES:
            _fail("where", f"expected at most {MAX_VALUES} values of sets in a request, got {program.asked}")
        rules.rows[i, :used], rules.values[i, :used], rules.ends[i, :used] = program.rows, program.values, program.ends
        rules.lengths[i] = used
        now = condition.context.get(NOW)
        if now is not None and (type(now) is not int or not 0 <= now <= OPEN_END):
            _fail("context.now", f"expected whole Unix seconds, 0..{OPEN_END}, got {reprlib.repr(now)}")
        rules.now[i] = clock if now is None else now

    def _bound(self, rules: Rules, i: int, a: AdAttribute, given: Mapping[str, Any]) -> None:
        j = self._rows.numbers.index(a.name)
        for name, bounds in (("min", rules.lows), ("max", rules.highs)):
            if name in given:
                bounds[i, j] = _number(f"where.{a.name}.{name}", given[name])  # rounded as those of ads are
                rules.compares[i] = True

    def _sets(self, program: _Program, a: AdAttribute, given: Mapping[str, Any], ads: AdAttributes) -> None:
        for operator, some in given.items():
            key = f"where.{a.name}.{operator}"
            if not isinstance(some, list | tuple):
                _fail(key, f"expected a list of values, got {reprlib.repr(some)}")
            values = _listed(key, some, a)
            program.asked += len(values)
            found = [self._row(a, v) for v in _places(a, values, ads)]
            if operator == "all":
                for row in [*found, *[(NO_ROW, 0)] * (len(values) - len(found))]:
                    program.add([row], AND)
            else:
                program.add(found, AND if operator == "any" else AND_NOT)

    def _row(self, a: AdAttribute, value: int) -> tuple[int, int]:
        if a.is_id:
            return self._rows.count + self._rows.ids.index(a.name), value
        return self._rows.first[a.name] + value, 0


def _places(a: AdAttribute, values: Sequence[AttributeValue], ads: AdAttributes) -> list[int]:
    place = ads.values[a.name].place
    return [place[v] for v in values if v in place]


def _excluded(ids: Any, find: Find) -> np.ndarray:
    """Distinct positions of the ads of these ids; one of no ad is ignored."""
    if not isinstance(ids, list | tuple):
        _fail("exclude", f"expected a list of ids, got {reprlib.repr(ids)}")
    if len(ids) > MAX_EXCLUDED:
        _fail("exclude", f"expected at most {MAX_EXCLUDED} ids, got {len(ids)}")
    try:
        places = np.unique(find(ids)) if ids else np.zeros(0, np.int64)
    except ValueError as e:
        _fail("exclude", str(e))
    return places[places >= 0]


def _listed(key: str, given: Any, a: AdAttribute) -> list[AttributeValue]:
    """Values of a set, each once; one value is a list of one, null of none."""
    values = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    wanted = str if a.dtype == "string" else int
    for v in values:
        if type(v) is not wanted:
            _fail(key, f"expected {'strings' if wanted is str else 'integers'}, got {reprlib.repr(v)}")
    return list(dict.fromkeys(values))


def _operators(key: str, given: Any, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not given:
        _fail(key, f"expected an object of {', '.join(known)}, got {reprlib.repr(given)}")
    for name in given:
        if name not in known:
            _fail(f"{key}.{name}", f"unknown operator{nearest(name, known)}")
    return given


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not abs(value) < 2.0**127:
        _fail(key, f"expected a finite float32 number, got {reprlib.repr(value)}")
    return float(value)


def _fail(key: str, reason: str) -> NoReturn:
    raise ConditionError(f"{key}: {reason}")
