"""Raw columns as NumPy: one column of Arrow or Python values in, checked arrays out.

The encoder (`tt_jax.features.encoder`) reads the logs as Arrow and requests as Python values. This is the only place
that knows the difference. pyarrow is imported only where an Arrow column is met, so that a service does not need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np

from tt_jax.features.arrow import list_parts, plain
from tt_jax.schema import DType, SchemaError


class EncodeError(SchemaError):
    """A value that does not fit the schema.

    Attributes:
      column: name of the column.
      row: row of the first bad value, None where the whole column is wrong.
      reason: the value and what was expected.
    """

    def __init__(self, column: str, row: int | None, reason: str) -> None:
        self.column, self.row, self.reason = column, row, reason
        super().__init__(f"column {column!r}{'' if row is None else f', row {row}'}: {reason}")


@dataclass(frozen=True)
class Scalars:
    """A column of ids: value i is `ints[i]`, or `strings[codes[i]]`, where `valid[i]`; anything where it is not."""

    valid: np.ndarray  # bool [n]
    ints: np.ndarray | None = None  # int64 [n]
    codes: np.ndarray | None = None  # int64 [n]
    strings: list[str] | None = None  # distinct values


@dataclass(frozen=True)
class Lists:
    """A column of lists: row i has `lengths[i]` of the `values`, in order; a missing row has length 0."""

    lengths: np.ndarray  # int64 [n]
    valid: np.ndarray  # bool [n]
    values: Any  # the elements of all rows, Arrow or Python


def is_arrow(column: Any) -> bool:
    """Whether the column is a pyarrow array."""
    return type(column).__module__.startswith("pyarrow")


def one_array(column: Any) -> Any:
    """An Arrow column, of whatever number of chunks, as one array."""
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one chunk


def decoded(array: Any) -> Any:
    """A dictionary as its values; another array as it is."""
    import pyarrow as pa

    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def read_dictionary(column: Any) -> tuple[Any, np.ndarray] | None:
    """The m values of an Arrow dictionary, and the codes int64 `[n]` of its rows, m for a null; else None."""
    if type(column) is list or not is_arrow(column):
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return None
    array = one_array(column)
    return array.dictionary, pc.fill_null(array.indices.cast(pa.int64()), len(array.dictionary)).to_numpy()


def pieces(values: Any, size: int) -> Iterator[tuple[int, Any]]:
    """An Arrow array in pieces of that size, each with its first position; at the end a null."""
    import pyarrow as pa

    yield from ((first, values.slice(first, size)) for first in range(0, len(values), size))
    yield len(values), pa.nulls(1, values.type)


def _is_of_distinct(array: Any) -> bool:
    """Whether it is a dictionary of few values, none of them null, which its codes would not count as missing."""
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        return False
    return len(array.dictionary) <= len(array) and not array.dictionary.null_count


def _valid_of(array: Any) -> np.ndarray:
    if array.null_count == 0:
        return np.ones(len(array), bool)
    return array.is_valid().to_numpy(zero_copy_only=False)


def read_ids(name: str, column: Any, dtype: DType, empty_is_id: bool = True) -> Scalars:
    """A column of ids of that dtype; `empty_is_id`: an empty text is one, else it is a missing value.

    Raises `EncodeError` naming the column, the row and the value.
    """
    found = _read_ids(name, column, dtype)
    if empty_is_id or not found.strings or "" not in found.strings:
        return found
    return Scalars(found.valid & (found.codes != found.strings.index("")), codes=found.codes, strings=found.strings)


def _read_ids(name: str, column: Any, dtype: DType) -> Scalars:
    if is_arrow(column):
        return _arrow_ids(name, plain(one_array(column)), dtype)
    if isinstance(column, np.ndarray):
        column = column.tolist()
    valid = np.fromiter((v is not None for v in column), bool, len(column))
    if dtype == "int":
        return Scalars(valid, ints=_python_ints(name, column))
    table: dict[str, int] = {}
    codes = np.zeros(len(column), np.int64)
    for i, v in enumerate(column):
        if v is None:
            continue
        if type(v) is not str:
            raise EncodeError(name, i, f"expected a string, got {v!r}")
        codes[i] = table.setdefault(v, len(table))
    return Scalars(valid, codes=codes, strings=list(table))


def _python_ints(name: str, column: list[Any]) -> np.ndarray:
    for i, v in enumerate(column):
        if v is not None and type(v) is not int:
            raise EncodeError(name, i, f"expected an integer, got {v!r}")
        if v is not None and not -(2**63) <= v < 2**63:
            raise EncodeError(name, i, f"expected a 64-bit integer, got {v!r}")
    return np.array([0 if v is None else v for v in column], np.int64)


def _arrow_ids(name: str, array: Any, dtype: DType) -> Scalars:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(array.type):
        array = array.cast(pa.string() if dtype == "string" else pa.int64())
    value_type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if dtype == "int":
        if not pa.types.is_integer(value_type):
            raise EncodeError(name, None, f"expected integers, got {array.type}")
        array = decoded(array)
        try:
            ints = pc.fill_null(array.cast(pa.int64()), 0).to_numpy()
        except pa.ArrowInvalid as e:
            raise EncodeError(name, None, f"expected 64-bit integers: {e}") from None
        return Scalars(_valid_of(array), ints=ints)
    if not pa.types.is_string(value_type):
        raise EncodeError(name, None, f"expected strings, got {array.type}")
    if not _is_of_distinct(array):
        array = decoded(array).dictionary_encode()
    codes = pc.fill_null(array.indices.cast(pa.int64()), 0).to_numpy()
    return Scalars(_valid_of(array), codes=codes, strings=array.dictionary.to_pylist())


def read_numbers(name: str, column: Any) -> np.ndarray:
    """A column of numbers or booleans as float64 [n], NaN where missing. Raises `EncodeError`."""
    if is_arrow(column):
        return _arrow_numbers(name, plain(one_array(column)))
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        return column.astype(np.float64)
    out = np.full(len(column), np.nan)
    for i, v in enumerate(column):
        if v is None:
            continue
        if type(v) not in (int, float, bool):
            raise EncodeError(name, i, f"expected a number, got {v!r}")
        try:
            out[i] = v
        except OverflowError:
            raise EncodeError(name, i, "expected a number that fits a float64") from None
    return out


def _arrow_numbers(name: str, array: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = decoded(array)
    t = array.type
    if pa.types.is_null(t):
        return np.full(len(array), np.nan)
    if not (pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_boolean(t) or pa.types.is_decimal(t)):
        raise EncodeError(name, None, f"expected numbers, got {t}")
    if pa.types.is_boolean(t):
        array = array.cast(pa.int8())
    numbers = pc.fill_null(array.cast(pa.float64(), safe=False), float("nan"))
    return numbers.to_numpy(zero_copy_only=False)


def read_columns_of_ints(names: Sequence[str], columns: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """`valid` bool and `ints` int64 `[F, n]` of F columns of integer ids, as `read_ids` reads each; of Python values
    together, since for the one row of a request the calls cost most. Raises `EncodeError`."""
    values = _python_values(columns, {int, NoneType})
    if values is not None:
        valid_Fn = np.array([v is not None for v in values], bool).reshape(len(columns), -1)
        try:
            ints = np.array([0 if v is None else v for v in values], np.int64)
            return valid_Fn, ints.reshape(valid_Fn.shape)
        except OverflowError:
            pass  # read one by one, it is named
    scalars = [read_ids(name, column, "int") for name, column in zip(names, columns, strict=True)]
    return np.stack([s.valid for s in scalars]), np.stack([s.ints for s in scalars if s.ints is not None])


def read_columns_of_numbers(names: Sequence[str], columns: Sequence[Any]) -> np.ndarray:
    """float64 `[F, n]` of F columns, as `read_numbers` reads each; see `read_columns_of_ints`."""
    values = _python_values(columns, {int, float, bool, NoneType})
    if values is not None:
        try:
            return np.array(values, np.float64).reshape(len(columns), -1)  # None becomes NaN
        except OverflowError:
            pass  # read one by one, it is named
    return np.stack([read_numbers(name, column) for name, column in zip(names, columns, strict=True)])


def _python_values(columns: Sequence[Any], types: set[type]) -> list[Any] | None:
    """All values of columns that are lists, if each is of one of these types."""
    if not all(type(column) is list for column in columns):
        return None
    values = list(chain.from_iterable(columns))
    return values if types.issuperset(map(type, values)) else None


def read_lists(name: str, column: Any) -> Lists:
    """A column of lists. Null elements are dropped. Raises `EncodeError`."""
    if is_arrow(column):
        return _arrow_lists(name, decoded(plain(one_array(column))))
    lengths, valid, values = np.zeros(len(column), np.int64), np.zeros(len(column), bool), []
    for i, row in enumerate(column):
        if row is None:
            continue
        if not isinstance(row, list | tuple | np.ndarray):
            raise EncodeError(name, i, f"expected a list, got {row!r}")
        kept = [v for v in (row.tolist() if isinstance(row, np.ndarray) else row) if v is not None]
        lengths[i], valid[i] = len(kept), True
        values.extend(kept)
    return Lists(lengths, valid, values)


def _arrow_lists(name: str, array: Any) -> Lists:
    import pyarrow as pa

    if pa.types.is_null(array.type):
        return Lists(np.zeros(len(array), np.int64), np.zeros(len(array), bool), pa.nulls(0))
    if not pa.types.is_list(array.type):
        raise EncodeError(name, None, f"expected lists, got {array.type}")
    lengths, valid, values = list_parts(array)
    if values.null_count:
        row_of = np.repeat(np.arange(len(array)), lengths)
        lengths = np.bincount(row_of[_valid_of(values)], minlength=len(array)).astype(np.int64)
        values = values.drop_null()
    return Lists(lengths, valid, values)


def read_flags(name: str, column: Any, null: int | None = None) -> np.ndarray:
    """Booleans `[n]`; with `null`, int8 `[n]` that is `null` where there is none. Raises `EncodeError` for all else."""
    if is_arrow(column):
        if str(column.type) != "bool":
            raise EncodeError(name, None, f"expected booleans, got {column.type}")
    elif wrong := [i for i, v in enumerate(column) if v is not None and type(v) is not bool]:
        raise EncodeError(name, wrong[0], f"expected true or false, got {column[wrong[0]]!r}")
    absent = nulls(column)
    if null is None and absent.any():
        raise EncodeError(name, int(np.argmax(absent)), "expected true or false, got null")
    flags = np.asarray(column.fill_null(False)) if is_arrow(column) else np.array([v is True for v in column], bool)
    return flags if null is None else np.where(absent, null, flags).astype(np.int8)


def looks_int(column: Any) -> bool:
    """Whether a key or scenario column, whose type the schema leaves open, holds integers rather than strings."""
    if is_arrow(column):
        t = str(getattr(column.type, "value_type", column.type))  # of a dictionary, that of its values
        return "int" in t and "string" not in t
    if isinstance(column, np.ndarray) and column.dtype.kind != "O":
        return column.dtype.kind in "iu"
    return next((type(v) is int for v in column if v is not None), False)


def nulls(column: Any) -> np.ndarray:
    """bool [n]: no value at all, which a NaN is not."""
    if is_arrow(column):
        return np.asarray(column.is_null())
    if isinstance(column, np.ndarray) and column.dtype.kind != "O":
        return np.zeros(len(column), bool)
    return np.fromiter((v is None for v in column), bool, len(column))


def row_of_element(lengths: np.ndarray, element: int | None) -> int | None:
    """The row whose list holds an element of `Lists.values`."""
    return None if element is None else int(np.searchsorted(np.cumsum(lengths), element, side="right"))
