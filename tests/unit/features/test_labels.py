"""Labels, masks, weights, scenarios and keys; and the errors of wrong values and columns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support import tiny
from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoder
from tt_jax.features.hashing import hash_string
from tt_jax.schema import Task

ENCODER = Encoder(tiny.SCHEMA)


def outcomes(**changes: Any) -> dict[str, np.ndarray]:
    """Encoded outcomes of four rows, some columns changed."""
    columns = tiny.columns(np.random.default_rng(5), 4)
    columns.update(clicked=[1, 0, 1, 0], converted=[1, 0, 0, 0], teacher_score=[0.25, 0.0, 1.0, None])
    return ENCODER.encode({**columns, **changes}).arrays


def test_labels_masks_and_weights():
    nan = np.nan
    found = outcomes(importance=[1, 2.5, 0, 3])
    expected = [[1, 1, 0.25], [0, nan, 0.0], [1, 0, 1.0], [0, nan, nan]]
    np.testing.assert_array_equal(found["labels"], np.array(expected, np.float32))
    np.testing.assert_array_equal(
        found["weights"], np.array([[1, 1, 1], [1, 2.5, 1], [1, 0, 1], [1, 3, 1]], np.float32)
    )


def test_a_null_label_or_mask_is_no_label():
    for clicked in ([1, None, 0, None], pa.array([1, None, 0, None], pa.int8()), pa.array([True, None, False, None])):
        found = outcomes(clicked=clicked, converted=[None, 1, 1, 1])["labels"]
        np.testing.assert_array_equal(found[:, 0], np.array([1, np.nan, 0, np.nan], np.float32))
        assert np.isnan(found[:, 1]).all()


BAD_LABELS = {
    "NaN": ("clicked", [1, float("nan"), 0, 0], 1, "label of 0 or 1, got nan"),
    "NaN of a teacher": ("teacher_score", [0.1, 0.1, 0.1, float("nan")], 3, "within 0..1, got nan"),
    "above 1": ("teacher_score", [0.1, 1.5, 0.1, 2.0], 1, "within 0..1, got 1.5"),
    "below 0": ("teacher_score", [-0.1, 0.1, 0.1, 0.1], 0, "within 0..1, got -0.1"),
    "infinite": ("teacher_score", [0.1, 0.1, float("inf"), 0.1], 2, "within 0..1, got inf"),
    "half a click": ("clicked", [1, 0, 0.5, 0], 2, "label of 0 or 1, got 0.5"),
    "two clicks": ("clicked", [1, 0, 0, 2], 3, "label of 0 or 1, got 2"),
    "half a conversion": ("converted", [0, 0, 0, 0.5], 3, "label of 0 or 1, got 0.5"),
    "masked": ("converted", [0, 7, 0, 0], 1, "label of 0 or 1, got 7"),
    "weight": ("importance", [1, -1, 1, 1], 1, "weight >= 0, got -1"),
    "weight NaN": ("importance", [1, 1, float("nan"), 1], 2, "weight >= 0, got nan"),
    "weight missing": ("importance", [1, 1, None, 1], 2, "weight >= 0, got nan"),
    "weight infinite": ("importance", [float("inf"), 1, 1, 1], 0, "got inf"),
    "weight beyond float32": ("importance", [1, 1, 1, 1e39], 3, "got 1e+39"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("form", [list, np.array, pa.array])
def test_a_bad_outcome_names_column_row_and_value(case, form):
    column, values, row, reason = BAD_LABELS[case]
    with pytest.raises(EncodeError) as error:
        outcomes(**{column: form(values)})
    assert (error.value.column, error.value.row) == (column, row)
    assert f"column '{column}', row {row}: expected" in str(error.value)
    assert reason in str(error.value)


def test_a_mask_is_0_or_1():
    schema = dataclasses.replace(tiny.SCHEMA, tasks=(Task("buy", "converted", mask="valid"),))
    columns = {**tiny.columns(np.random.default_rng(0), 3), "valid": [1, 0, 0.5]}
    with pytest.raises(EncodeError, match="column 'valid', row 2: expected a mask of 0 or 1"):
        Encoder(schema).encode(columns)


def test_scenarios_are_indexed_by_name():
    for values in (
        ["shopping", "standard"] * 2,
        np.array(["shopping", "standard"] * 2),
        pa.array(["shopping", "standard"] * 2),
    ):
        assert outcomes(scenario=values)["scenario"].tolist() == [[1], [0], [1], [0]]
    numbered = Encoder(dataclasses.replace(tiny.SCHEMA, scenarios=("7", "3")))
    for column in ([3, 7, 3], np.array([3, 7, 3]), pa.array([3, 7, 3], pa.int16()), ["3", "7", "3"]):
        columns = {**tiny.columns(np.random.default_rng(0), 3), "scenario": column}
        assert numbered.encode(columns).arrays["scenario"].tolist() == [[1], [0], [1]]
        with pytest.raises(EncodeError, match="row 1: unknown scenario '7', expected one of 3"):
            Encoder(dataclasses.replace(tiny.SCHEMA, scenarios=("3",))).encode(columns)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            ["standard", "shoping", "shopping", "x"],
            "row 1: unknown scenario 'shoping', expected one of standard, shopping",
        ),
        (["standard", "shopping", None, None], "row 2: the scenario is missing"),
        ([None] * 4, "row 0: the scenario is missing"),
    ],
)
def test_an_unknown_or_missing_scenario_names_its_row(values, reason):
    for form in (list, pa.array):
        with pytest.raises(EncodeError, match=reason):
            outcomes(scenario=form(values))


def test_keys_are_integers_times_and_hashes_of_strings():
    found = outcomes(request_id=[7, None, -3, 2**62], user_id=["a", None, "", "a"])["keys"]
    assert found[:, 0].tolist() == [7, -1, -3, 2**62]
    hashed = int(np.uint64(hash_string("a")).astype(np.int64))
    assert found[:, 1].tolist() == [hashed, -1, -1, hashed]
    times = pa.array([10, 20, None, 40], pa.timestamp("ms"))
    for column in (times, pa.chunked_array([times])):
        assert outcomes(time=column)["keys"][:, 3].tolist() == [10, 20, -1, 40]
    assert (outcomes(user_id=[None] * 4)["keys"][:, 1] == -1).all()
    assert (outcomes(user_id=pa.nulls(4))["keys"][:, 1] == -1).all()


BAD_VALUES = {
    "a number for a string": ("user", 3, "expected a string, got 3"),
    "a list for a string": ("user", ["a"], r"expected a string, got \['a'\]"),
    "bytes for a string": ("country", b"de", "expected a string, got b'de'"),
    "a string for a list": ("interests", "art", "expected a list, got 'art'"),
    "a number in a list": ("interests", ["art", 3], "in a list: expected a string, got 3"),
    "a number for a list": ("history", 3, "expected a list, got 3"),
    "a digit string": ("history", [1, "2"], "in a list: expected an integer, got '2'"),
    "a float id": ("history", [1.0], "in a list: expected an integer, got 1.0"),
    "a boolean id": ("history", [True], "in a list: expected an integer, got True"),
    "an id above int64": ("history", [2**63], f"in a list: expected a 64-bit integer, got {2**63}"),
    "an id below int64": ("history", [-(2**63) - 1], "in a list: expected a 64-bit integer, got -9223372036854775809"),
    "a digit string for a number": ("age", "33", "expected a number, got '33'"),
    "a list for a number": ("age", [33], r"expected a number, got \[33\]"),
    "an endless number": ("age", 10**400, "expected a number that fits a float64"),
    "a short vector": ("query_embedding", [1.0, 2.0], "expected 3 numbers, got 2"),
    "a long vector": ("query_embedding", [1.0] * 4, "expected 3 numbers, got 4"),
    "an empty vector": ("query_embedding", [], "expected 3 numbers, got 0"),
    "a hole in a vector": ("query_embedding", [1.0, None, 2.0], "expected 3 numbers, got 2"),
    "a string in a vector": ("query_embedding", [1.0, "x", 2.0], "in a list: expected a number, got 'x'"),
    "a number for a vector": ("query_embedding", 1.0, "expected a list, got 1.0"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_value_of_the_wrong_type_names_column_row_and_value(case):
    column, value, reason = BAD_VALUES[case]
    good = tiny.queries(np.random.default_rng(6), 2)
    good[0]["history"] = good[0]["interests"] = None
    with pytest.raises(EncodeError, match=f"^column '{column}', row 2: {reason}") as error:
        ENCODER.encode_queries([*good, {column: value}])
    assert (error.value.column, error.value.row) == (column, 2)


BAD_COLUMNS = {
    "user": (pa.array([1, 2, 3, 4]), "expected strings, got int64"),
    "ad_id": (pa.array(["1", "2", "3", "4"]), "expected integers, got string"),
    "age": (pa.array(["1", "2", "3", "4"]), "expected numbers, got string"),
    "interests": (pa.array(["a", "b", "c", "d"]), "expected lists, got string"),
    "topics": (pa.array([[1]] * 4), "in a list: expected strings, got int64"),
    "history": (pa.array([[1.5]] * 4), "in a list: expected integers, got double"),
    "query_embedding": (pa.array([["a"]] * 4), "expected 3 numbers, got 1"),
    "ad_embedding": (pa.array([["a"] * 3] * 4), "in a list: expected numbers, got string"),
    "clicked": (pa.array(["1"] * 4), "expected numbers, got string"),
    "request_id": (pa.array([2**63] * 4, pa.uint64()), "expected 64-bit integers"),
    "user_id": (pa.array([1.5] * 4), "expected strings, got double"),
}


@pytest.mark.parametrize("column", BAD_COLUMNS)
def test_an_arrow_column_of_the_wrong_type_is_named(column):
    values, reason = BAD_COLUMNS[column]
    with pytest.raises(EncodeError, match=f"^column '{column}'.*{reason}"):
        outcomes(**{column: values})


@pytest.mark.parametrize("name", ["advertiser", "price", "clicked", "importance", "scenario", "hour"])
def test_a_missing_column_gets_the_nearest_name(name):
    columns = tiny.columns(np.random.default_rng(0), 3)
    columns[f"{name}_"] = columns.pop(name)
    with pytest.raises(EncodeError, match=f"column '{name}': the column is missing; did you mean '{name}_'"):
        ENCODER.encode(columns)


def test_an_unknown_feature_of_a_request_names_the_request_and_the_nearest():
    with pytest.raises(EncodeError, match="column 'histroy', row 1: unknown query feature; did you mean 'history'"):
        ENCODER.encode_queries([{}, {"age": 3, "histroy": []}])
    with pytest.raises(EncodeError, match="column 'price', row 0: unknown query feature"):
        ENCODER.encode_queries([{"price": 3}])


def test_columns_of_different_lengths_are_refused():
    columns = tiny.columns(np.random.default_rng(0), 3)
    with pytest.raises(EncodeError, match="different lengths"):
        ENCODER.encode({**columns, "age": [1.0, 2.0]})
