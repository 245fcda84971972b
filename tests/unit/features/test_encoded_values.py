"""What the schema says of single values: missing, unknown, overlong, extreme."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.support import reference_encoder, tiny
from tt_jax.features.encoder import Encoder
from tt_jax.schema import Feature

ENCODER = Encoder(tiny.SCHEMA)


def query(**values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids and floats of one request."""
    arrays = ENCODER.encode_queries([values]).arrays
    return arrays["query_ids"][0], arrays["query_floats"][0]


def test_missing_unknown_and_default_have_their_rows():
    ids, floats = query()
    assert ids.tolist() == [0, 5, 0, -1, -1, 0, -1, -1, -1]  # country: its default "us"
    assert floats.tolist() == [0, 0, 0, 0, 0]
    assert query(country="zz")[0][1] == 1
    assert [query(country=c)[0][1] for c in tiny.COUNTRIES] == [2, 3, 4, 5]
    ad = ENCODER.encode(
        {"ad_id": [1], "advertiser": [None], "topics": [None], "price": [None], "ad_embedding": [None]},
        ("ad",),
        outcomes=False,
    )
    assert ad.arrays["ad_floats"][0, 0] == np.float32(np.log1p(5.0) - 2.0)  # price: its default 5
    assert ad.missing == {"ad_id": 0, "advertiser": 1, "topics": 1, "price": 1, "ad_embedding": 1}


def test_a_default_of_a_list_takes_one_slot():
    bag = Feature("b", "bag", "query", dim=4, vocabulary=("x", "y"), max_length=3, default="y")
    seq = Feature("s", "sequence", "query", dim=4, shares="b", max_length=2, default="x")
    encoder = Encoder(
        dataclasses.replace(
            tiny.SCHEMA, features=(bag, seq, *tiny.SCHEMA.tower_features("ad"), tiny.SCHEMA.feature("interests"))
        )
    )
    rows = encoder.encode_queries([{}, {"b": [], "s": None}, {"b": ["x", "zz"], "s": ["y"]}]).arrays["query_ids"]
    assert rows[:, :5].tolist() == [[3, -1, -1, 2, -1], [3, -1, -1, 2, -1], [2, 1, -1, 3, -1]]


def test_a_bag_keeps_its_first_ids_and_a_sequence_its_newest_newest_first():
    topics = list(tiny.TOPICS)
    assert query(interests=topics)[0][2:5].tolist() == [2, 3, 4]
    assert query(interests=["pets", None, "zz"])[0][2:5].tolist() == [5, 1, -1]
    history = [query(history=[i])[0][5] for i in range(6)]
    assert query(history=[0, 1, 2, 3, 4, 5])[0][5:9].tolist() == [history[i] for i in (5, 4, 3, 2)]
    assert query(history=[0, None, 1])[0][5:9].tolist() == [history[1], history[0], -1, -1]
    for empty in ([], None, [None]):
        found = ENCODER.encode_queries([{"history": empty, "interests": empty}])
        assert found.arrays["query_ids"][0, 2:].tolist() == [0, -1, -1, 0, -1, -1, -1]
        assert (found.missing["history"], found.missing["interests"]) == (1, 1)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (40.0, [0, 1]),
        (55, [1, 1]),
        (True, [(1 - 40) / 15, 1]),
        (float("inf"), [10, 1]),
        (-float("inf"), [-10, 1]),
        (1e308, [10, 1]),
        (10**300, [10, 1]),
        (float("nan"), [0, 0]),
        (None, [0, 0]),
    ],
)
def test_a_number_is_normalised_clipped_and_flagged(age, expected):
    np.testing.assert_array_equal(query(age=age)[1][:2], np.array(expected, np.float32))


def test_a_huge_number_over_a_small_deviation_is_clipped_without_a_warning():
    f = Feature("n", "numeric", "query", mean=-1e308, std=1e-3, clip=4.0)
    encoder = Encoder(dataclasses.replace(tiny.SCHEMA, features=(f, *tiny.SCHEMA.features)))
    assert encoder.encode_queries([{"n": 1.5e308}, {"n": -1.5e308}]).arrays["query_floats"][:, 0].tolist() == [4, -4]


def test_log1p_is_odd():
    price = [0.0, 3.0, -3.0, 1e300, float("-inf")]
    columns = {**tiny.ad_columns(np.random.default_rng(0), 5), "price": price}
    found = ENCODER.encode(columns, ("ad",), outcomes=False).arrays["ad_floats"][:, 0]
    np.testing.assert_array_equal(found, np.array([-2, np.log(4) - 2, -np.log(4) - 2, 10, -10], np.float32))


def test_a_vector_keeps_its_numbers_and_zeroes_its_nans():
    assert query(query_embedding=[1.5, float("nan"), -1e300])[1][2:].tolist() == [1.5, 0.0, -10.0]
    assert query(query_embedding=(1, 2, 3))[1][2:].tolist() == [1.0, 2.0, 3.0]


def test_requests_of_several_integer_ids_and_numbers_are_what_the_reference_says():
    """Which are read together."""
    sizes = {"i": 50, "j": 7, "k": 1000}
    ids = [Feature(n, "categorical", "query", dtype="int", dim=4, hash_size=size) for n, size in sizes.items()]
    defaults = {"a": None, "b": 2.5}
    numbers = [Feature(n, "numeric", "query", default=d, indicator=n == "b") for n, d in defaults.items()]
    schema = dataclasses.replace(tiny.SCHEMA, features=(*ids, *numbers, *tiny.SCHEMA.features))
    encoder, rng = Encoder(schema), np.random.default_rng(0)
    rows = tiny.queries(rng, 40)
    for row in rows:
        row |= {n: int(v) for n, v in zip(sizes, rng.integers(-(2**63), 2**63 - 1, 3), strict=True) if v % 3}
        row |= {n: float(v) for n, v in zip(defaults, rng.normal(size=2), strict=True) if v > -0.5}
    ads = tiny.ad_columns(rng, 40)
    whole = [
        {f.name: row.get(f.name) for f in schema.features} | {name: column[i] for name, column in ads.items()}
        for i, row in enumerate(rows)
    ]
    expected = reference_encoder.encode(schema, whole)
    for some in (slice(0, 1), slice(1, 9), slice(9, 40)):
        found = encoder.encode_queries(rows[some]).arrays
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name][some])


def test_a_lone_surrogate_in_a_request_is_a_value_like_any_other():
    assert query(user="\ud800")[0][0] >= 2
    assert query(country="\ud800")[0][1] == 1
