"""Attributes of random ads and conditions of random queries, of the kind that `benchmarks.top_k --where` times.

Four sets of 128 values in all (two of them targeting), two numbers, a flight, and 1,000 excluded ads: every query asks
for all of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from serving.eligibility.ad_attributes import AdAttributes, SetValues
from serving.eligibility.condition_encoder import ConditionEncoder
from serving.eligibility.conditions import Condition, ConditionArrays
from serving.eligibility.device_attributes import DeviceAttributes
from tt_jax.schema import AdAttribute, Feature, Schema, Task

NOW, EXCLUDED = 1_760_000_000, 1000
ATTRIBUTES = (
    AdAttribute("country", "set", match="targeting", max_values=32),
    AdAttribute("placement", "set", match="targeting", max_values=32),
    AdAttribute("category", "set", max_values=32),
    AdAttribute("label", "set", max_values=32),
    AdAttribute("price", "number"),
    AdAttribute("age", "number"),
    AdAttribute("flight", "interval"),
)
SCHEMA = Schema(
    name="eligible",
    features=(
        Feature("user", "categorical", "query", dim=2, hash_size=5),
        Feature("ad", "categorical", "ad", dim=2, hash_size=5),
    ),
    tasks=(Task("click", "clicked"),),
    scenario="s",
    scenarios=("a",),
    ad_id="ad",
    attributes=ATTRIBUTES,
)


def random_attributes(rng: np.random.Generator, n: int) -> AdAttributes:
    """Of n ads, each with up to three values of every set, most of them in flight."""
    columns: dict[str, Any] = {}
    for a in ATTRIBUTES:
        if a.kind == "set":
            bits = np.left_shift(np.uint32(1), rng.integers(0, a.max_values, (n, 3), np.uint32))
            columns[a.name] = np.bitwise_or.reduce(bits, axis=1)[:, None]
    columns["price"], columns["age"] = rng.random((2, n), np.float32)
    columns["flight"] = (NOW + rng.integers(-1000, 100, (n, 1)) + np.array([0, 1000])).astype(np.uint32)
    values = {a.name: SetValues(f"v{i}" for i in range(a.max_values)) for a in ATTRIBUTES if a.kind == "set"}
    return AdAttributes(ATTRIBUTES, columns, values)


def on_device(attributes: AdAttributes, places: int) -> DeviceAttributes:
    """With empty places up to that many."""
    columns = {name: jnp.asarray(column) for name, column in attributes.padded(places).columns.items()}
    return jax.jit(lambda columns: DeviceAttributes.pack(ATTRIBUTES, columns))(columns)


def random_conditions(rng: np.random.Generator, attributes: AdAttributes, queries: int, n: int) -> ConditionArrays:
    """Of that many queries, each of which excludes ads too."""
    values = [f"v{i}" for i in range(32)]
    conditions = [
        Condition(
            context={"country": str(rng.choice(values)), "placement": str(rng.choice(values)), "now": NOW},
            where={
                "category": {"none": rng.choice(values, 4, replace=False).tolist()},
                "label": {"any": rng.choice(values, 16, replace=False).tolist()},
                "price": {"max": 0.9},
                "age": {"min": 0.1},
            },
            exclude=rng.choice(n, min(EXCLUDED, n), replace=False).tolist(),
        )
        for _ in range(queries)
    ]
    return ConditionEncoder(SCHEMA).encode(conditions, attributes, np.asarray).padded(queries)
