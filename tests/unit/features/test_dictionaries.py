"""Arrow dictionaries encoded once, against the encoding of the values that the rows have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.prepare.quarantine import Quarantine
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from tests.support import tiny
from tt_jax.features import dictionaries
from tt_jax.features.columns import EncodeError
from tt_jax.features.dictionaries import Dictionaries
from tt_jax.features.encoder import Encoded, Encoder
from tt_jax.schema import SchemaError

N = 40
SIDES = {"longer": 300, "shorter": 25, "empty": 0}  # rows of the table that is joined
Columns = dict[str, Any]


def joined(rng: np.random.Generator, side: Columns, indices: str = "int32") -> tuple[Columns, Columns]:
    """A chunk of a log with the table's features as dictionaries, and with their values."""
    columns, m = tiny.columns(rng, N), len(side["user"])
    plain: Columns = {name: pa.array(column) for name, column in columns.items()}
    at = rng.integers(0, m + 10, N)
    rows = pa.array(np.minimum(at, max(0, m - 1)), mask=at >= m).cast(pa.type_for_alias(indices))
    of = {name: pa.DictionaryArray.from_arrays(rows, column) for name, column in side.items()}
    return plain | of, plain | {name: column.dictionary_decode() for name, column in of.items()}


def side_of(rng: np.random.Generator, m: int) -> Columns:
    columns = tiny.columns(rng, max(m, 1))
    return {f.name: pa.array(columns[f.name]).slice(0, m) for f in tiny.SCHEMA.features}


def same(found: Encoded, expected: Encoded) -> None:
    assert found.missing == expected.missing
    for name, matrix in expected.arrays.items():
        assert found.arrays[name].dtype == matrix.dtype
        assert found.arrays[name].tobytes() == matrix.tobytes()


@pytest.fixture(params=["whole", "in pieces"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in pieces":
        monkeypatch.setattr(dictionaries, "_PIECE", 7)


@pytest.mark.parametrize("indices", ["int32", "uint64"])
@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("schema", [tiny.SCHEMA, tiny.DYNAMIC], ids=lambda s: s.name)
@pytest.mark.usefixtures("_pieces")
def test_chunks_of_a_joined_log_are_encoded_as_their_values(schema: Any, size: str, indices: str) -> None:
    """Five chunks with one table, then as many with another."""
    rng, encoder = np.random.default_rng(1), Encoder(schema)
    for _ in range(2):
        side = side_of(rng, SIDES[size])
        for _ in range(5):
            found, plain = joined(rng, side, indices)
            same(encoder.encode(found), Encoder(schema).encode(plain))


def test_a_new_dictionary_at_the_address_of_one_that_is_gone_is_encoded_anew() -> None:
    rng, encoder = np.random.default_rng(2), Encoder(tiny.SCHEMA)
    for _ in range(50):
        found, plain = joined(rng, side_of(rng, N // 2))
        same(encoder.encode(found), Encoder(tiny.SCHEMA).encode(plain))


def _with(side: Columns, name: str, value: Any) -> Columns:
    """The value in the last row of the table."""
    return side | {name: pa.array([*side[name].to_pylist()[:-1], value], side[name].type)}


def test_a_bad_value_is_an_error_only_of_a_row_that_has_it() -> None:
    """The value: a vector of two numbers where three are expected. Good chunks before and after it stay good."""
    rng, encoder = np.random.default_rng(3), Encoder(tiny.SCHEMA)
    side = _with(side_of(rng, 30), "ad_embedding", [1.0, 2.0])
    for i in range(3):
        found, plain = joined(rng, side)
        rows = pa.array([min(j, 28) for j in range(N)], pa.int32())
        good = pa.DictionaryArray.from_arrays(rows, side["ad_embedding"])
        values = plain | {"ad_embedding": good.dictionary_decode()}
        same(encoder.encode(found | {"ad_embedding": good}), Encoder(tiny.SCHEMA).encode(values))
        bad = pa.DictionaryArray.from_arrays(pa.array([29 if j == i + 4 else None for j in range(N)]), good.dictionary)
        with pytest.raises(EncodeError, match="expected 3 numbers, got 2") as error:
            encoder.encode(found | {"ad_embedding": bad})
        assert (error.value.column, error.value.row) == ("ad_embedding", i + 4)


def test_a_dictionary_of_the_wrong_type_is_named_as_one() -> None:
    found, _ = joined(np.random.default_rng(4), side_of(np.random.default_rng(4), 20))
    wrong = found | {"ad_id": pa.array(["x"] * N).dictionary_encode()}
    with pytest.raises(EncodeError, match="expected integers, got dictionary"):
        Encoder(tiny.SCHEMA).encode(wrong)


def _numbers(values: int) -> Iterator[pa.Array]:
    dictionary = pa.array(np.arange(values, dtype=np.float64))
    while True:
        yield pa.DictionaryArray.from_arrays(pa.array([0, None, 2], pa.int32()), dictionary)


def test_what_is_encoded_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where the rows are as many; the second time where they are fewer; never where it is too large."""
    asked: list[int] = []

    def encode(_name: str, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(values))
        found = values.to_numpy(zero_copy_only=False)
        return np.nan_to_num(found, nan=-1.0)[:, None], np.isnan(found)

    out, kept = np.zeros((3, 1)), Dictionaries(encode)
    short, long = _numbers(3), _numbers(9)
    assert [kept.gather("x", next(short), out), kept.gather("x", next(short), out)] == [1, 1]
    assert asked == [3, 1]
    assert out[:, 0].tolist() == [0.0, -1.0, 2.0]
    assert [kept.gather("x", next(long), out) for _ in range(3)] == [None, 1, 1]
    assert asked == [3, 1, 9, 1]
    monkeypatch.setattr(dictionaries, "_MAX_BYTES", 8)
    assert [kept.gather("y", next(short), out) for _ in range(3)] == [None] * 3
    assert [kept.gather("y", column, out) for column in ([1.0], np.ones(3), pa.array([1.0]))] == [None] * 3
    assert asked == [3, 1, 9, 1]


@pytest.mark.parametrize("m", [30, 90])
def test_a_set_of_dictionaries_is_that_of_their_values_with_its_bad_rows(m: int, tmp_path: Path) -> None:
    """All bytes of the set; and without a quarantine the same error."""
    rng = np.random.default_rng(5)
    side = _with(side_of(rng, m), "ad_embedding", [1.0, 2.0])  # of the rows whose key is the last one
    pairs = [joined(rng, side) for _ in range(12)]
    found, errors = [], []
    for form in (0, 1):
        chunks = [Chunk(("train", "eval")[i > 8], "log", i * N, pa.table(pair[form])) for i, pair in enumerate(pairs)]
        quarantine, out = Quarantine(12 * N), tmp_path / f"set-{form}"
        prepare(tiny.SCHEMA, chunks, out, 16, quarantine=quarantine)
        assert 0 < quarantine.rejected < 11 * N
        found.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
        with pytest.raises(SchemaError, match=r"column 'ad_embedding', row .*: expected 3 numbers, got 2") as error:
            prepare(tiny.SCHEMA, chunks, tmp_path / "none", 16)
        errors.append(str(error.value))
    assert found[0] == found[1]
    assert errors[0] == errors[1]
