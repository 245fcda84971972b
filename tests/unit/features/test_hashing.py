"""Hashed ids. The constants are those of release 0.1: another value would make every trained model useless."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tt_jax.features.encoder import Encoder
from tt_jax.features.hashing import hash_string, mix64
from tt_jax.schema import Feature, Schema, Task

ENCODER = Encoder(tiny.SCHEMA)


def test_golden_hashes():
    assert [hash_string(t) for t in ("", "a", "ads", "日本")] == [
        0xB4B2797457A0A6E4, 0x2F42665B399EF840, 0xCB4B1A4B718BD418, 0x3A9B54E1CF3533E8
    ]  # fmt: skip
    # Published outputs of SplitMix64 started at 1234567: its state advances by the golden ratio.
    states = np.array([1234567 + (i + 1) * 0x9E3779B97F4A7C15 for i in range(3)], object) % 2**64
    assert mix64(states.astype(np.uint64)).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_golden_rows():
    features = (
        Feature("user", "categorical", "query", hash_size=1_000_003),
        Feature("video", "categorical", "ad", "int", hash_size=1_000_003),
    )
    schema = Schema("golden", features, (Task("click", "l"),), "s", ("a",), "video", empty_is_missing=False)
    ints = [0, 1, -1, 12345, 2**63 - 1, -(2**63)]
    columns = {"user": ["", "a", "u1", "日本", None, "a"], "video": ints}
    arrays = Encoder(schema).encode(columns, outcomes=False).arrays
    assert arrays["query_ids"][:, 0].tolist() == [369188, 494044, 107876, 815021, 0, 494044]
    assert arrays["ad_ids"][:, 0].tolist() == [214531, 40407, 786811, 956799, 461161, 915607]
    encoder = Encoder(dataclasses.replace(schema, empty_is_missing=True))
    assert encoder.encode(columns, outcomes=False).arrays["query_ids"][:2, 0].tolist() == [0, 494044]


def hashed(name: str, dtype: str, values: list[Any], size: int = 1002) -> np.ndarray:
    """Rows of values in a hashed table."""
    f = Feature(name, "categorical", "query", dtype, hash_size=size)  # pyright: ignore[reportArgumentType]
    schema = Schema("hash", (f, Feature("n", "numeric", "ad")), (Task("click", "l"),), "s", ("a",), "id")
    return Encoder(schema).encode({name: values}, ("query",), outcomes=False).arrays["query_ids"][:, 0]


VALUES = {
    "ints": ("int", list(range(200_000))),
    "strided": ("int", list(range(0, 200_000 * 1000, 1000))),
    "high bits": ("int", [i << 40 for i in range(200_000)]),
    "strings": ("string", [f"user_{i}" for i in range(50_000)]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_hashed_rows_are_spread_evenly_and_leave_the_reserved_ones(kind):
    dtype, values = VALUES[kind]
    counts = np.bincount(hashed("x", dtype, values), minlength=1002)
    assert len(counts) == 1002
    assert counts[:2].sum() == 0
    expected = len(values) / 1000
    chi_square = ((counts[2:] - expected) ** 2 / expected).sum()
    assert abs(chi_square - 999) < 5 * (2 * 999) ** 0.5


def test_features_hash_apart():
    a, b = (hashed(name, "int", list(range(100_000))) for name in ("a", "b"))
    assert abs(np.mean(a == b) - 1 / 1000) < 5e-4


def test_a_sharing_feature_reads_its_owners_rows():
    ids = [5, 17, 999]
    rows = ENCODER.encode({**tiny.columns(np.random.default_rng(0), 3), "ad_id": ids, "history": [[i] for i in ids]})
    first = tiny.SCHEMA.layout["query"].ids[3][1]
    np.testing.assert_array_equal(rows.arrays["query_ids"][:, first], rows.arrays["ad_ids"][:, 0])
