"""The encoder: one row gives the same bytes whichever way it comes, and the bytes that the schema says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import reference_encoder, tiny
from tt_jax.features.encoder import Encoded, Encoder
from tt_jax.schema import Schema, array_specs

ENCODER = Encoder(tiny.SCHEMA)
OTHER_WAYS = Encoder(tiny.DYNAMIC)
FEATURES = [f.name for f in tiny.SCHEMA.features]
Columns = dict[str, Any]


def types(schema: Schema) -> dict[str, pa.DataType]:
    """Arrow type of every feature, so that a column without a value has one too."""
    found = {}
    for f in schema.features:
        element = pa.string() if f.is_ids and f.dtype == "string" else pa.int64() if f.is_ids else pa.float64()
        found[f.name] = element if f.kind in ("categorical", "numeric") else pa.list_(element)
    return found


def arrow(columns: Columns) -> Columns:
    """The columns as Arrow arrays."""
    known = types(tiny.SCHEMA)
    return {name: pa.array(values, known.get(name)) for name, values in columns.items()}


def numpy(columns: Columns) -> Columns:
    """The columns as NumPy arrays: of objects where values are missing or lists."""
    out = {}
    for name, values in columns.items():
        if any(v is None or isinstance(v, list) for v in values):
            out[name] = np.empty(len(values), object)
            out[name][:] = [np.array(v) if isinstance(v, list) and v else v for v in values]
        else:
            out[name] = np.array(values)
    return out


def cast(kinds: dict[str, pa.DataType]) -> Callable[[Columns], Columns]:
    """Arrow columns, some of other types."""
    return lambda columns: {n: a.cast(kinds[n]) if n in kinds else a for n, a in arrow(columns).items()}


def dictionaries(columns: Columns) -> Columns:
    return {
        n: a.dictionary_encode() if pa.types.is_string(a.type) or n in ("ad_id", "time") else a
        for n, a in arrow(columns).items()
    }


def dictionaries_with_a_null(columns: Columns) -> Columns:
    out = arrow(columns)
    for name in ("user", "country", "advertiser"):
        values = [*dict.fromkeys(v for v in columns[name] if v is not None), None]
        codes = pa.array([values.index(v) for v in columns[name]], pa.int32())
        out[name] = pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))
    return out


def joined(columns: Columns) -> Columns:
    """Features as rows of a longer table, null where there is none."""
    other, out = arrow(tiny.columns(np.random.default_rng(98), 300)), arrow(columns)
    for name in FEATURES:
        rows = pa.array([None if v is None else 300 + i for i, v in enumerate(columns[name])], pa.int32())
        table = pa.concat_arrays([other[name], out[name]])
        out[name] = pa.DictionaryArray.from_arrays(rows, table)
    return out


def chunks(columns: Columns) -> Columns:
    """Chunks of uneven lengths, an empty one among them; strings with a dictionary per chunk."""
    out = {}
    for name, array in arrow(columns).items():
        parts = [array[:7], array[7:7], array[7:20], array[20:]]
        if pa.types.is_string(array.type):
            parts = [p.dictionary_encode() for p in parts]
        out[name] = pa.chunked_array(parts)
    return out


def slices(columns: Columns) -> Columns:
    """Arrays that start in the middle of a longer one."""
    other = arrow(tiny.columns(np.random.default_rng(99), 11))
    return {n: pa.concat_arrays([other[n], a, other[n]])[11 : 11 + len(a)] for n, a in arrow(columns).items()}


def fixed_size_lists(columns: Columns) -> Columns:
    kinds = {name: pa.list_(pa.float64(), 3) for name in ("query_embedding", "ad_embedding")}
    longer = {n: pa.concat_arrays([a[:5], a]) for n, a in cast(kinds)(columns).items()}
    return {n: a[5:] for n, a in longer.items()}


ARROW_FORMS = {
    "arrow": arrow,
    "chunks": chunks,
    "slices": slices,
    "dictionaries": dictionaries,
    "dictionaries_with_a_null": dictionaries_with_a_null,
    "joined": joined,
    "fixed_size_lists": fixed_size_lists,
    "large": cast({
        **dict.fromkeys(("user", "country", "advertiser", "scenario", "user_id"), pa.large_string()),
        **dict.fromkeys(("interests", "topics"), pa.large_list(pa.large_string())),
        "history": pa.large_list(pa.int64()),
    }),
    "narrow": cast({
        "ad_id": pa.int32(), "history": pa.list_(pa.uint16()), "age": pa.int8(), "clicked": pa.bool_(),
        "converted": pa.int8(), "hour": pa.uint8(), "time": pa.uint64(), "request_id": pa.int16(),
    }),
}  # fmt: skip


def assert_same(a: Encoded, b: Encoded) -> None:
    """Byte for byte."""
    assert list(a.arrays) == list(b.arrays)
    for name, array in a.arrays.items():
        assert (array.dtype, array.shape) == (b.arrays[name].dtype, b.arrays[name].shape), name
        assert array.tobytes() == b.arrays[name].tobytes(), name
    assert a.missing == b.missing


def concatenate(parts: list[Encoded]) -> Encoded:
    return Encoded(
        {name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays},
        {name: sum(p.missing[name] for p in parts) for name in parts[0].missing},
    )


@pytest.mark.parametrize("form", ARROW_FORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_arrow_gives_the_bytes_of_python(form, seed):
    columns = tiny.columns(np.random.default_rng(seed), 200)
    assert_same(ENCODER.encode(columns), ENCODER.encode(ARROW_FORMS[form](columns)))


@pytest.mark.parametrize("seed", [0, 1])
def test_numpy_gives_the_bytes_of_python(seed):
    rng = np.random.default_rng(seed)
    columns = tiny.columns(rng, 200)
    assert_same(ENCODER.encode(columns), ENCODER.encode(numpy(columns)))
    complete = {"query_embedding": rng.normal(size=(200, 3)), "history": rng.integers(0, 9, (200, 6))}
    lists = {name: matrix.tolist() for name, matrix in complete.items()}
    assert_same(ENCODER.encode({**columns, **lists}), ENCODER.encode({**columns, **complete}))


def test_a_batch_gives_the_bytes_of_its_rows():
    columns = tiny.columns(np.random.default_rng(2), 150)
    singles = [ENCODER.encode({name: [v] for name, v in row.items()}) for row in tiny.rows(columns)]
    assert_same(ENCODER.encode(columns), concatenate(singles))
    table = arrow(columns)
    parts = [ENCODER.encode({name: array[i : i + 1] for name, array in table.items()}) for i in range(150)]
    assert_same(ENCODER.encode(table), concatenate(parts))


def test_requests_give_the_bytes_of_the_logs():
    columns = tiny.columns(np.random.default_rng(3), 100)
    queries = [
        {n: v for n, v in row.items() if n in tiny.query_columns(np.random.default_rng(0), 0)}
        for row in tiny.rows(columns)
    ]
    assert_same(ENCODER.encode_queries(queries), ENCODER.encode(arrow(columns), ("query",), outcomes=False))
    sparse = [{name: v for name, v in query.items() if v is not None} for query in queries]
    assert_same(ENCODER.encode_queries(queries), ENCODER.encode_queries(sparse))
    assert ENCODER.encode_queries([]).arrays["query_ids"].shape == (0, 9)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
int64 = st.integers(-(2**63), 2**63 - 1)
number = st.floats(allow_nan=True, allow_infinity=True)


def rows_of(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Rows whose feature values are these strategies', or missing."""
    return st.fixed_dictionaries({name: st.none() | v for name, v in zip(FEATURES, values, strict=True)})


any_row = rows_of(
    text,
    text | st.sampled_from(tiny.COUNTRIES),
    st.lists(st.none() | text | st.sampled_from(tiny.TOPICS), max_size=6),
    st.lists(st.none() | int64, max_size=8),
    number,
    st.lists(number, min_size=3, max_size=3),
    int64,
    text | st.sampled_from(("a1", "a7", "a20")),
    st.lists(st.none() | st.sampled_from(tiny.TOPICS), max_size=4),
    number,
    st.lists(number, min_size=3, max_size=3),
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(any_row, min_size=1, max_size=6))
def test_any_row_is_encoded_as_the_reference_says_in_every_form(rows):
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    found = ENCODER.encode(columns, outcomes=False)
    other = OTHER_WAYS.encode(columns, outcomes=False)
    assert_same(other, OTHER_WAYS.encode(arrow(columns), outcomes=False))
    of_other = reference_encoder.encode(tiny.DYNAMIC, rows)
    for name, expected in reference_encoder.encode(tiny.SCHEMA, rows).items():
        if name.endswith("ids"):
            np.testing.assert_array_equal(found.arrays[name], expected)
            np.testing.assert_array_equal(other.arrays[name], of_other[name])
        else:
            np.testing.assert_allclose(found.arrays[name], expected, rtol=3e-7, atol=1e-7)
    assert_same(found, ENCODER.encode(arrow(columns), outcomes=False))
    singles = [ENCODER.encode({n: [v] for n, v in row.items()}, outcomes=False) for row in rows]
    assert_same(found, concatenate(singles))


def test_the_shape_and_type_of_every_array():
    encoded = ENCODER.encode(tiny.columns(np.random.default_rng(4), 10))
    assert {name: (a.dtype, a.shape[1]) for name, a in encoded.arrays.items()} == array_specs(tiny.SCHEMA)
    assert all(len(a) == 10 for a in encoded.arrays.values())
    empty = {name: [] for name in tiny.columns(np.random.default_rng(0), 0)}
    for form in (
        empty,
        {name: pa.nulls(0) for name in empty},
        {name: pa.chunked_array([pa.nulls(0)]) for name in empty},
    ):
        shapes = {name: a.shape for name, a in ENCODER.encode(form).arrays.items()}
        assert shapes == {name: (0, columns) for name, (_, columns) in array_specs(tiny.SCHEMA).items()}


def test_a_column_of_nulls_without_a_type_is_missing_everywhere():
    columns = {name: [None] * 3 for name in FEATURES}
    typeless = {name: pa.nulls(3) for name in FEATURES}
    found = ENCODER.encode(typeless, outcomes=False)
    assert_same(ENCODER.encode(columns, outcomes=False), found)
    assert found.missing == dict.fromkeys(FEATURES, 3)


def test_columns_that_the_schema_does_not_name_are_ignored():
    columns = tiny.columns(np.random.default_rng(0), 5)
    more = {**columns, "extra": [object()] * 5}
    assert_same(ENCODER.encode(columns), ENCODER.encode(more))
