"""Why an ad may not serve a request: the rules that keep it out, read from its attributes one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from serving.eligibility.ad_attributes import AdAttributes, AttributeValue
from serving.eligibility.conditions import Condition
from tt_jax.schema import AdAttribute


def broken_rules(condition: Condition, ads: AdAttributes, place: int, now: int) -> list[str]:
    """A sentence for each rule by which the ad at a place may not serve; of a condition that was encoded.

    `now`: Unix seconds, where the condition tells none.
    """
    found = list[str]()
    for a in ads.schema:
        own = ad_value(ads, a, place)
        if a.kind == "interval":
            found += _flight(a.name, own, condition.context.get("now") or now)
        elif a.match == "targeting":
            given = _listed(condition.context.get(a.name))
            if own and not set(own) & set(given):
                found.append(f"context.{a.name}: the ad accepts {own}, the request has {given or 'none'}")
        elif (asked := condition.where.get(a.name)) is not None:
            found += [f"where.{a.name}{reason}" for reason in _asked(own, asked)]
    return found


def ad_value(ads: AdAttributes, a: AdAttribute, place: int) -> Any:
    """What the ad at a place has: a list of values, a number, two Unix seconds, or a flag."""
    column = ads.columns[a.name][place]
    if a.kind != "set":
        return column.tolist()
    return [ads.values[a.name].names[v] for v in _places(a, column)]


def _places(a: AdAttribute, column: np.ndarray) -> list[int]:
    if a.is_id:
        return [int(column)] if column >= 0 else []
    return [32 * i + v for i, word in enumerate(column.tolist()) for v in range(32) if word >> v & 1]


def _flight(name: str, own: list[int], now: int) -> Iterator[str]:
    start, end = own
    if now < start:
        yield f"{name}: starts at {start}, now is {now}"
    if now >= end:
        yield f"{name}: ended at {end}, now is {now}"


def _asked(own: Any, asked: Any) -> Iterator[str]:
    if not isinstance(asked, Mapping):
        if own != asked:
            yield f": the ad has {own}"
        return
    if "min" in asked and own < np.float32(asked["min"]):
        yield f".min: the ad has {own}"
    if "max" in asked and own > np.float32(asked["max"]):
        yield f".max: the ad has {own}"
    if "any" in asked and not set(own) & set(asked["any"]):
        yield f".any: the ad has {own or 'none'}"
    if lacking := [v for v in asked.get("all", ()) if v not in own]:
        yield f".all: the ad lacks {lacking}"
    if unwanted := [v for v in asked.get("none", ()) if v in own]:
        yield f".none: the ad has {unwanted}"


def _listed(given: Any) -> list[AttributeValue]:
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
