"""Row-wise Adagrad on touched rows against the dense update in NumPy float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.dense_training import adagrad as dense
from tt_jax.training.optimizers import Table, sum_duplicates, update_rows

ROWS, DIM, RATE = 50, 6, 0.1
update = jax.jit(update_rows, static_argnums=4)


def start(seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    values, accumulator = rng.normal(size=(ROWS, DIM)), rng.exponential(size=ROWS) * (rng.random(ROWS) < 0.7)
    return Table(jnp.asarray(values.astype(np.float32)), jnp.asarray(accumulator.astype(np.float32)))


CASES = {
    "duplicates": lambda rng: rng.integers(0, 12, 200),
    "distinct": lambda rng: rng.permutation(ROWS)[:30],
    "empty slots": lambda rng: np.where(rng.random(200) < 0.4, ROWS, rng.integers(0, ROWS, 200)),
    "one row": lambda rng: np.full(200, 17),
    "first and last": lambda rng: rng.choice([0, ROWS - 1, ROWS], 100),
    "every row": lambda rng: rng.permutation(np.repeat(np.arange(ROWS), 3)),
    "one entry": lambda rng: np.array([3]),
}


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("case", CASES)
def test_an_update_is_the_dense_one(case, decay):
    rng = np.random.default_rng(1)
    rows = CASES[case](rng).astype(np.int32)
    gradients = rng.normal(size=(len(rows), DIM)).astype(np.float32)
    before = start()
    after = update(before, rows, gradients, RATE, decay)
    expected = dense(*map(np.asarray, before), rows, gradients, RATE, decay)
    np.testing.assert_allclose(after.values, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.accumulator, expected[1], rtol=1e-5)
    untouched = ~np.isin(np.arange(ROWS), rows)
    for new, old in zip(after, before, strict=True):
        assert np.asarray(new)[untouched].tobytes() == np.asarray(old)[untouched].tobytes()
        assert new.dtype == old.dtype
    assert not np.array_equal(after.values, before.values)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_empty_slots_alone_change_nothing(decay):
    before = start()
    after = update(before, np.full(64, ROWS, np.int32), np.full((64, DIM), 1e3, np.float32), RATE, decay)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_touched_row_without_a_gradient_stays_bit_for_bit():
    before = start()
    after = update(before, np.arange(ROWS, dtype=np.int32), np.zeros((ROWS, DIM), np.float32), RATE, 0.0)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_sequence_of_updates_is_the_dense_one():
    rng = np.random.default_rng(2)
    table = start()
    expected = tuple(map(np.asarray, table))
    for step in range(25):
        rows = np.where(rng.random(64) < 0.2, ROWS, rng.zipf(1.5, 64) % ROWS).astype(np.int32)
        gradients = (rng.normal(size=(64, DIM)) * 10.0 ** rng.integers(-5, 1, (64, 1))).astype(np.float32)
        table = update(table, rows, gradients, RATE / (1 + step), 0.001)
        expected = dense(*expected, rows, gradients, RATE / (1 + step), 0.001)
    np.testing.assert_allclose(table.values, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.accumulator, expected[1], rtol=1e-5)


def test_the_order_of_the_entries_does_not_matter():
    rng = np.random.default_rng(3)
    rows, gradients = rng.integers(0, 20, 100).astype(np.int32), rng.normal(size=(100, DIM)).astype(np.float32)
    order = rng.permutation(100)
    a, b = update(start(), rows, gradients, RATE, 0.0), update(start(), rows[order], gradients[order], RATE, 0.0)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_summed_duplicates_are_distinct_and_ascending():
    rng = np.random.default_rng(4)
    rows = rng.integers(0, ROWS + 1, 120).astype(np.int32)
    gradients = rng.normal(size=(120, DIM)).astype(np.float32)
    found = jax.tree.map(np.asarray, jax.jit(sum_duplicates, static_argnums=2)(rows, gradients, ROWS))
    assert (np.diff(found.rows) > 0).all()
    distinct = np.unique(rows)
    np.testing.assert_array_equal(found.rows[: len(distinct)], distinct)
    assert (found.rows[len(distinct) :] > ROWS).all()
    for row, gradient in zip(found.rows[: len(distinct)], found.gradients, strict=False):
        np.testing.assert_allclose(gradient, gradients[rows == row].astype(np.float64).sum(axis=0), atol=1e-5)
    assert (found.gradients[len(distinct) :] == 0).all()


def test_a_donated_table_is_updated_in_place_with_memory_of_the_touched_rows_only():
    rows, entries = 1_000_000, 256
    table = Table(jax.ShapeDtypeStruct((rows, DIM), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.float32))
    batch = jax.ShapeDtypeStruct((entries,), jnp.int32), jax.ShapeDtypeStruct((entries, DIM), jnp.float32)
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    memory = jax.jit(update_rows, donate_argnums=0).lower(table, *batch, rate).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= rows * (DIM + 1) * 4
    assert memory.temp_size_in_bytes < 1_000_000
