"""Looking up whole numbers, against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from tt_jax.features.int_lookup import IntLookup

LOWEST, HIGHEST = -(2**63), 2**63 - 1
RNG = np.random.default_rng(0)
LISTS = {
    "none": [],
    "one": [7],
    "dense": (1000 + RNG.permutation(500)).tolist(),
    "negative": (-RNG.permutation(300)).tolist(),
    "far apart": np.unique(RNG.integers(LOWEST, HIGHEST, 2000)).tolist(),
    "the lowest and the highest": [HIGHEST, 0, LOWEST],
    "the highest": [HIGHEST, HIGHEST - 2],
    "the lowest": [LOWEST + 1, LOWEST],
    "some far": [3, 5, 10**12, *range(100, 200)],
}


@pytest.mark.parametrize("name", LISTS)
def test_positions_are_those_of_a_dictionary(name: str) -> None:
    numbers = LISTS[name]
    expected = {number: i for i, number in enumerate(numbers)}
    asked = [*numbers, *RNG.integers(LOWEST, HIGHEST, 600).tolist(), LOWEST, -1, 0, 1, HIGHEST, *numbers[:9]]
    asked += [n + d for n in numbers for d in (-1, 1) if LOWEST <= n + d <= HIGHEST]
    lookup = IntLookup(np.array(numbers, np.int64))
    found = lookup.find(np.array(asked, np.int64))
    assert found.dtype == np.int32
    assert found.tolist() == [expected.get(number, -1) for number in asked]
    assert lookup.find(np.array(asked[:300], np.int64)).tolist() == found[:300].tolist()
    assert lookup.find(np.zeros(0, np.int64)).tolist() == []
