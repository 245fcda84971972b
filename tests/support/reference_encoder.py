"""An encoder written again, slowly: one value at a time, Python integers, straight from the schema's documentation."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from tt_jax.schema import Feature, Schema

_MASK = 2**64 - 1


def mix(x: int) -> int:
    """The finaliser of SplitMix64."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def string_hash(text: str) -> int:
    """The first 64 bits of BLAKE2b, little end first."""
    return sum(
        byte << 8 * i
        for i, byte in enumerate(hashlib.blake2b(text.encode("utf8", "surrogatepass"), digest_size=8).digest())
    )


def row_of(owner: Feature, value: str | int) -> int:
    """The table row of a value."""
    if value in owner.vocabulary:
        return owner.vocabulary.index(value) + 2
    if owner.vocabulary and not owner.hash_size:
        return 1
    raw = string_hash(value) if isinstance(value, str) else value & _MASK
    hashed = mix(mix(raw) ^ mix(string_hash(owner.name)))
    if owner.dynamic_rows:
        return hashed % (2**31 - 2) + 2
    return hashed % (owner.hash_size - 2) + 2 + len(owner.vocabulary)


def id_slots(schema: Schema, f: Feature, value: Any) -> list[int]:
    """The id columns of a feature."""
    owner = schema.table_owner(f)
    default = 0 if f.default is None else row_of(owner, f.default)  # type: ignore[arg-type]
    missing = (None,) if "" in owner.vocabulary else (None, "")
    if f.kind == "categorical":
        return [default if value in missing else row_of(owner, value)]
    values = [v for v in value or [] if v not in missing]
    if f.kind == "sequence":
        values = values[::-1]
    rows = [row_of(owner, v) for v in values][: f.max_length] or [default]
    return rows + [-1] * (f.max_length - len(rows))


def floats(f: Feature, value: Any) -> list[float]:
    """The float columns of a feature."""
    if f.kind == "dense":
        return [0.0] * f.dim if value is None else [_normal(f, v) for v in value]
    missing = value is None or math.isnan(value)
    number = f.default if missing else value
    normal = 0.0 if number is None else _normal(f, float(number))
    return [normal, 0.0 if missing else 1.0] if f.indicator else [normal]


def _normal(f: Feature, x: float) -> float:
    if math.isnan(x):
        return 0.0
    if f.transform == "log1p":
        x = math.copysign(math.log1p(abs(x)), x)
    return max(-f.clip, min(f.clip, (x - f.mean) / f.std))


def encode(schema: Schema, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The feature matrices of rows."""
    out = {}
    for tower in ("query", "ad"):
        features = schema.tower_features(tower)
        ids = [[s for f in features if f.is_ids for s in id_slots(schema, f, row[f.name])] for row in rows]
        numbers = [[v for f in features if not f.is_ids for v in floats(f, row[f.name])] for row in rows]
        out[f"{tower}_ids"] = np.array(ids, np.int32)
        out[f"{tower}_floats"] = np.array(numbers, np.float64).astype(np.float32)
    return out
