"""Columns that are read together give what each gives alone: the same arrays, or the very same error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tt_jax.features.columns import EncodeError, read_columns_of_ints, read_columns_of_numbers, read_ids, read_numbers

Columns = list[Any]
Arrays = tuple[np.ndarray, ...]

GOOD_INTS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])
ODD_INTS = st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**400, True, 1.0, float("nan"), "7", [7], {}, np.int64(7)])
GOOD_NUMBERS = st.none() | st.floats() | st.booleans() | st.integers(-(2**70), 2**70) | st.just(10**308)
ODD_NUMBERS = st.sampled_from([10**309, -(10**400), "1.5", [1.5], {}, 1j, b"1", np.float64(1.5), np.int32(1)])


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Columns]:
    """One to four columns of equal length."""
    shapes = st.tuples(st.integers(1, 4), st.integers(0, 3))
    return shapes.flatmap(
        lambda s: st.lists(st.lists(values, min_size=s[1], max_size=s[1]), min_size=s[0], max_size=s[0])
    )


def outcome(read: Callable[[], Arrays]) -> tuple[Any, ...]:
    """What was read, as bytes, or why not."""
    try:
        return tuple((array.dtype, array.shape, array.tobytes()) for array in read())
    except EncodeError as e:
        return e.column, e.row, e.reason


def names(columns: Columns) -> list[str]:
    return [f"c{i}" for i in range(len(columns))]


def ints_one_by_one(columns: Columns) -> Arrays:
    found = [read_ids(name, column, "int") for name, column in zip(names(columns), columns, strict=True)]
    # Where nothing is valid the integers are arbitrary; they are 0 either way.
    return np.stack([s.valid for s in found]), np.stack([s.ints for s in found])  # type: ignore[misc]


def numbers_one_by_one(columns: Columns) -> Arrays:
    found = np.stack([read_numbers(name, column) for name, column in zip(names(columns), columns, strict=True)])
    return (plain_nans(found),)


def plain_nans(values: np.ndarray) -> np.ndarray:
    """One NaN for all."""
    return np.where(np.isnan(values), np.nan, values)


def check_ints(columns: Columns) -> tuple[Any, ...]:
    together = outcome(lambda: read_columns_of_ints(names(columns), columns))
    assert together == outcome(lambda: ints_one_by_one(columns))
    return together


def check_numbers(columns: Columns) -> tuple[Any, ...]:
    together = outcome(lambda: (plain_nans(read_columns_of_numbers(names(columns), columns)),))
    assert together == outcome(lambda: numbers_one_by_one(columns))
    return together


@settings(max_examples=300, deadline=None)
@given(several(GOOD_INTS) | several(GOOD_INTS | ODD_INTS))
def test_ints_together_are_those_of_each_column(columns):
    check_ints(columns)


@settings(max_examples=300, deadline=None)
@given(several(GOOD_NUMBERS) | several(GOOD_NUMBERS | ODD_NUMBERS))
def test_numbers_together_are_those_of_each_column(columns):
    check_numbers(columns)


@pytest.mark.parametrize("odd", [2**63, -(2**63) - 1, 10**400, True, 1.0, float("nan"), "7", [7], np.int64(7)])
def test_the_first_column_that_is_wrong_is_named(odd):
    assert check_ints([[1, None], [2, odd], [odd, "later"]])[:2] == ("c1", 1)


@pytest.mark.parametrize("odd", [10**309, "1.5", [1.5], 1j, np.float64(1.5)])
def test_the_first_number_that_is_wrong_is_named(odd):
    assert check_numbers([[1, None, True], [2.5, 3, odd], [odd, "later", None]])[:2] == ("c1", 2)


def test_arrow_and_numpy_columns_may_stand_beside_lists():
    check_ints([[1, None], pa.array([None, 2]), np.array([3, 4]), np.array([5, None], object)])
    check_numbers([[1, None], pa.array([None, 2.5]), np.array([3, 4]), np.array([True, False]), (1, None)])
    assert check_ints([[1, 2], pa.array(["a", "b"])])[:2] == ("c1", None)
