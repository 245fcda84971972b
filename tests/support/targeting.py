"""A tiny schema with attributes of every kind, random ads and requests of it, and who may serve, one ad at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support import tiny
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle
from tt_jax.schema import AdAttribute, RequestValue

ATTRIBUTES = (
    AdAttribute("countries", "set", match="targeting", max_values=40),
    AdAttribute("placements", "set", match="targeting", dtype="int", max_values=33),
    AdAttribute("category", "set", max_values=70),
    AdAttribute("brand", "set", dtype="int", max_values=1000),
    AdAttribute("cost", "number"),
    AdAttribute("pacing", "number", default=1.0),
    AdAttribute("flight", "interval"),
    AdAttribute("adult", "flag"),
)
SCHEMA = dataclasses.replace(
    tiny.SCHEMA, attributes=ATTRIBUTES, request_values=(RequestValue("floor", 0.1), RequestValue("boost", 1.0))
)
UTILITY = "bid * pacing * click * boost + where(cost > 5, 0.5 * teacher, 0) - floor"
COUNTRIES, PLACEMENTS, CATEGORIES = [f"c{i}" for i in range(12)], list(range(5)), [f"k{i}" for i in range(60)]
NOW = 1_760_000_000


def bundle(out: Path) -> Bundle:
    """Of the tiny model, with random weights."""
    params, tables = tiny.weights(5)
    config = dataclasses.replace(tiny.CONFIG, utility=UTILITY)
    golden = tiny.golden_rows(np.random.default_rng(1), 2)
    write_bundle(
        out, schema=SCHEMA, config=config, params=params, tables=tables, metrics={}, golden_rows=golden,
        platforms=("cpu",),
    )  # fmt: skip
    return Bundle.load(out)


def some(rng: np.random.Generator, values: list[Any], most: int) -> list[Any]:
    return [values[i] for i in rng.permutation(len(values))[: int(rng.integers(0, most + 1))]]


def attributes(rng: np.random.Generator) -> dict[str, Any]:
    """Of one ad."""
    start, end = sorted(NOW + int(x) for x in rng.integers(-1000, 1000, 2))
    return {
        "countries": some(rng, COUNTRIES, 4),
        "placements": some(rng, PLACEMENTS, 2),
        "category": some(rng, CATEGORIES, 3),
        "brand": [int(rng.zipf(1.5) % 900)] if rng.random() < 0.9 else [],
        "cost": float(np.float32(rng.exponential(10))),
        "pacing": float(np.float32(rng.random())),
        "flight": [start if rng.random() < 0.5 else None, end if rng.random() < 0.5 else None],
        "adult": bool(rng.random() < 0.2),
    }


def ads(rng: np.random.Generator, n: int) -> tuple[pa.Table, list[dict[str, Any]]]:
    """A table of ads, and their attributes."""
    table, rows = tiny.ads_table(rng, n), [attributes(rng) for _ in range(n)]
    for a in ATTRIBUTES:
        table = table.append_column(a.name, pa.array([row[a.name] for row in rows]))
    return table, rows


def request(rng: np.random.Generator, ids: list[Any]) -> dict[str, Any]:
    """`context`, `where` and `exclude` of a request, any of which may say nothing."""
    context: dict[str, Any] = {"now": NOW + int(rng.integers(-500, 500))}
    if rng.random() < 0.7:
        context["countries"] = str(rng.choice([*COUNTRIES, "nowhere"]))
    if rng.random() < 0.7:
        context["placements"] = some(rng, PLACEMENTS, 2)
    if rng.random() < 0.5:
        context |= {"floor": 0.25, "boost": 2.0}
    where: dict[str, Any] = {}
    for operator in ("any", "all", "none"):
        if rng.random() < 0.3:
            where.setdefault("category", {})[operator] = some(
                rng, [*CATEGORIES, "unknown"], 40 if operator == "any" else 2
            )
    for operator in ("any", "none"):
        if rng.random() < 0.3:
            where.setdefault("brand", {})[operator] = some(rng, list(range(12)), 8)
    for operator, value in (("min", 2.0), ("max", 20.0)):
        if rng.random() < 0.4:
            where.setdefault("cost", {})[operator] = value
    if rng.random() < 0.4:
        where["adult"] = bool(rng.random() < 0.3)
    return {"context": context, "where": where, "exclude": some(rng, ids, 300) if rng.random() < 0.6 else []}


def may_serve(ad: dict[str, Any], ad_id: Any, request: dict[str, Any]) -> bool:
    """Whether an ad may serve a request, as the documentation says it."""
    context, where = request["context"], request["where"]
    for name in ("countries", "placements"):
        given = context.get(name, [])
        given = given if isinstance(given, list) else [given]
        if ad[name] and not set(ad[name]) & set(given):
            return False
    start, end = ad["flight"]
    if (start is not None and context["now"] < start) or (end is not None and context["now"] >= end):
        return False
    for name in ("category", "brand"):
        own, asked = set(ad[name]), where.get(name, {})
        if "any" in asked and not own & set(asked["any"]):
            return False
        if not set(asked.get("all", ())) <= own or own & set(asked.get("none", ())):
            return False
    bounds = where.get("cost", {})
    if not bounds.get("min", -np.inf) <= ad["cost"] <= bounds.get("max", np.inf):
        return False
    return where.get("adult", ad["adult"]) == ad["adult"] and ad_id not in request["exclude"]
