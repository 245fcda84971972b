"""Ids to rows of an embedding table by hash, the same on every platform and release.

Ids are hashed with BLAKE2b (strings) or taken as they are (integers), mixed with a seed per table by the finaliser of
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) and reduced to the table's rows.
"""

from __future__ import annotations

import hashlib

import numpy as np

_FIRST_HASHED = 2  # rows before it: MISSING_ID and UNKNOWN_ID


DYNAMIC_KEYS = 2**31  # "rows" that the ids of a dynamic table are hashed to: what an int32 holds


def hash_string(value: str) -> int:
    """Unsigned 64-bit BLAKE2b of the UTF-8 bytes."""
    return int.from_bytes(hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of uint64, of any shape, that spreads every bit."""
    x = x.astype(np.uint64, copy=True)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def table_seed(name: str) -> np.uint64:
    """Of the table that the feature of that name owns."""
    return mix64(np.array([hash_string(name)], np.uint64))[0]


def hashed_rows(keys: np.ndarray, seeds: np.ndarray | np.uint64, sizes: np.ndarray | np.uint64) -> np.ndarray:
    """Rows, int32, of 64-bit keys in tables of these seeds and numbers of rows, all uint64 and broadcast together."""
    mixed = mix64(mix64(keys) ^ seeds)
    return (mixed % (sizes - np.uint64(_FIRST_HASHED))).astype(np.int32) + np.int32(_FIRST_HASHED)
