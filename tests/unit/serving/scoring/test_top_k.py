"""Exact top-k against a stable NumPy sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serving.scoring import top_k as module
from serving.scoring.device_corpus import BLOCK
from serving.scoring.top_k import top_k
from tests.support.reference_top_k import reference_top_k


def assert_top_k(scores: np.ndarray, k: int, block: int = BLOCK) -> None:
    values, positions = jax.jit(top_k, static_argnums=(1, 2))(jnp.asarray(scores, jnp.float32), k, block)
    want_values, want_positions = reference_top_k(scores, k)
    assert (values.dtype, positions.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(positions, want_positions)
    np.testing.assert_array_equal(values, want_values.astype(np.float32))


@pytest.mark.parametrize(
    ("n", "k", "block"),
    [
        (1, 1, 64),  # one ad
        (5, 9, 64),  # fewer ads than asked for
        (300, 300, 64),  # all of them, in order
        (300, 7, 64),  # blocks do not pay
        (1000, 1, 64),
        (1000, 5, 16),  # not a whole number of blocks
        (1024, 5, 16),
        (4096, 100, 8),
        (4096, 5, 1),  # a block of one
    ],
)
@pytest.mark.parametrize("distinct", [3, 10**6])
def test_equals_a_stable_sort(n: int, k: int, block: int, distinct: int) -> None:
    rng = np.random.default_rng(n + k)
    scores = rng.integers(-distinct, distinct, (4, n)).astype(np.float64)
    scores[1][rng.random(n) < 0.9] = -np.inf
    scores[2] = -np.inf
    scores[3][rng.random(n) < 0.3] = np.nan
    assert_top_k(scores, k, block)


@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_sorted_input(order: str) -> None:
    row = {"ascending": np.arange(4096), "descending": -np.arange(4096), "equal": np.zeros(4096)}[order]
    assert_top_k(row[None].astype(np.float64), 50, 16)


def test_best_all_in_one_block_or_one_in_each() -> None:
    scores = np.random.default_rng(0).random((2, 4096))
    scores[0, 160:176] += 1
    scores[1, ::16] += 1
    assert_top_k(scores, 64, 16)


def test_special_values_are_ordered_as_numbers() -> None:
    rng = np.random.default_rng(0)
    scores = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, -3e38], (3, 1024))
    scores[2] = rng.choice([0.0, -0.0], 1024)
    scores[np.abs(scores) == 1e-45] = 0.0  # subnormals may be flushed to zero
    assert_top_k(scores, 10, 16)
    assert_top_k(scores, 1024, 16)


def test_blocks_are_used_for_large_inputs_and_not_for_small() -> None:
    """The compiled program of a large input never selects from all N."""
    assert module._blocks_pay(1_000_000, 1000, BLOCK)
    assert not module._blocks_pay(1000, 1000, BLOCK)
    lengths = [
        e.invars[0].aval.shape[1]  # pyright: ignore
        for e in jax.make_jaxpr(lambda s: top_k(s, 20))(jnp.zeros((1, 65_536), jnp.float32)).eqns
        if e.primitive.name == "top_k"
    ]
    assert lengths == [65_536 // BLOCK, 20 * BLOCK]
