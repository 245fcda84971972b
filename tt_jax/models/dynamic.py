"""Dynamic rows: which row of its table an id has that was admitted while training. The one function of all who ask.

The encoder turns an id of a dynamic feature into a key, a hash of 31 bits (of n ids, n^2 / 2^32 pairs are expected to
have the same: 0.2 of 30,000 ids, 233 of a million). A table is a set-associative map: a key has one bucket, `key mod
buckets`, of `WAYS` rows, and `keys` int32 `[buckets, WAYS]` says whose each row is; 0 = nobody's. The keys travel with
the tables, in training, bundles and services alike. `tt_jax.training.admission` changes them.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from tt_jax.schema import UNKNOWN_ID, WAYS, Feature

FREE = 0  # no key: keys begin at `FIRST_KEY`
FIRST_KEY = UNKNOWN_ID + 1  # what is below has a row of the same number


def keys_name(feature: str) -> str:
    """Of a dynamic feature's keys among the tables."""
    return f"keys/{feature}"


def keys_shape(feature: Feature) -> tuple[int, int]:
    """Buckets and ways."""
    return feature.dynamic_rows // WAYS, WAYS


def find_rows(keys: Array, ids: Array) -> Array:
    """Rows of ids, both int32 of any shape. A key without a row has that of unknown values; what is no key, as missing
    values and empty slots, stays."""
    bucket = ids % jnp.int32(keys.shape[0])
    is_mine = keys[bucket] == ids[..., None]
    row = FIRST_KEY + bucket * WAYS + jnp.argmax(is_mine, axis=-1).astype(jnp.int32)
    return jnp.where(ids < FIRST_KEY, ids, jnp.where(is_mine.any(axis=-1), row, jnp.int32(UNKNOWN_ID)))
