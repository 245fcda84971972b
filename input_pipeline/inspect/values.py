"""One column of Arrow as 64-bit keys, by which values are counted, and back to numbers and text.

The key of an integer, a boolean or a time is the number itself (a time in microseconds), that of a float its bits, that
of a text or of bytes a hash, that of a list a hash of its elements' keys in their order. Equal bytes have equal hashes
in every process; they are not the ids of a model, which `tt_jax.features.hashing` makes.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tt_jax.features.columns import one_array
from tt_jax.features.hashing import hash_string, mix64

_WORD = 8  # bytes hashed at a time
_WORDS = 32  # of a text; what follows is hashed at once, for few texts have it
_SEED = np.uint64(0x5851F42D4C957F2D)


def text_keys(array: Any) -> np.ndarray:
    """uint64 `[n]` of an array of strings or bytes, of any type of them; anything where it is null."""
    array = array.cast(pa.large_binary())
    n = len(array)
    if n == 0:
        return np.empty(0, np.uint64)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64, n + 1, array.offset * _WORD)
    text = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    starts, lengths = ends[:-1] - ends[0], np.diff(ends)
    spare = np.concatenate([text, np.zeros(_WORD, np.uint8)])  # so that a word may begin at the last byte
    words = np.ndarray((text.size + 1,), "<u8", spare, strides=(1,))  # one begins at each byte
    keys = mix64(lengths.astype(np.uint64) ^ _SEED)
    rows = np.flatnonzero(lengths)
    for i in range(_WORDS):
        left = lengths[rows] - i * _WORD
        word = words[starts[rows] + i * _WORD]
        spare_bits = (8 * np.maximum(_WORD - left, 0)).astype(np.uint64)
        keys[rows] = mix64(keys[rows] ^ (word << spare_bits))
        rows = rows[left > _WORD]
        if not rows.size:
            break
    for row in rows.tolist():
        rest = text[starts[row] + _WORDS * _WORD : starts[row] + lengths[row]]
        digest = hashlib.blake2b(rest.tobytes(), digest_size=_WORD).digest()
        keys[row] ^= np.uint64(int.from_bytes(digest, "little"))
    return keys


class Texts:
    """The text of a key: that of the first value that has it; of bytes their hexadecimal digits."""

    def __init__(self, keys: np.ndarray, array: Any) -> None:
        self._keys, self._array = keys, array

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._keys, kind="stable")

    def __getitem__(self, key: int) -> str:
        place = np.searchsorted(self._keys, np.uint64(key), sorter=self._order)
        value = self._array[int(self._order[place])].as_py()
        return value if isinstance(value, str) else value.hex()


Kind = Literal["none", "int", "bool", "float", "time", "text", "other"]
NUMBERS: tuple[Kind, ...] = ("int", "bool", "float", "time")
_TEXT_LENGTH = 80  # characters of a value that are kept to be shown
_EMPTY_LIST = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Values:
    """A column of n rows.

    Attributes:
      kind: of its values, or of the elements of its lists; `none` where there is no value, `other` where it is of a
        type that is not looked into.
      valid: bool `[n]`: there is a value. NaN and the empty text are none.
      keys: uint64 `[n]`, anything where not valid.
      lengths: of the lists, int64 `[n]`; None where the column has none.
      elements: uint64, the keys of all values: those of valid rows, or of all lists' elements.
      texts: of the keys, for `text` only.
    """

    kind: Kind
    valid: np.ndarray
    keys: np.ndarray
    elements: np.ndarray
    lengths: np.ndarray | None = None
    texts: Texts | None = None


def values_of(column: pa.ChunkedArray) -> Values:
    """Keys of a column of any type."""
    array = one_array(column)
    t = array.type
    if pa.types.is_dictionary(t) and (not _is_text(t.value_type) or len(array.dictionary) > len(array)):
        array, t = array.dictionary_decode(), t.value_type
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        return _lists(array)
    kind, valid, keys, texts = _scalars(array)
    return Values(kind, valid, keys, keys[valid], texts=texts)


def _lists(array: Any) -> Values:
    valid = np.asarray(array.is_valid())
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
    kind, present, keys, texts = _scalars(array.flatten())
    row = np.repeat(np.arange(len(array)), lengths)[present]
    lengths, keys = np.bincount(row, minlength=len(array)).astype(np.int64), keys[present]
    place = np.arange(row.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    row_keys = np.full(len(array), _EMPTY_LIST)
    np.add.at(row_keys, row, mix64(keys ^ mix64(place.astype(np.uint64) + _EMPTY_LIST)))
    return Values(kind, valid, row_keys, keys, lengths, texts)


def _scalars(array: Any) -> tuple[Kind, np.ndarray, np.ndarray, Texts | None]:
    """Kind, valid, keys and texts of an array without lists."""
    t = array.type
    if pa.types.is_dictionary(t) and not _is_text(t.value_type):  # of the elements of lists
        array, t = array.dictionary_decode(), t.value_type
    if pa.types.is_uint64(t):  # an id that int64 may not hold
        array, t = array.cast(pa.string()), pa.string()
    if _is_text(t.value_type if pa.types.is_dictionary(t) else t):
        return _text(array)
    valid = np.asarray(array.is_valid())
    if pa.types.is_floating(t) or pa.types.is_decimal(t):
        numbers = pc.fill_null(array.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False) + 0.0
        return "float", ~np.isnan(numbers), numbers.view(np.uint64), None
    if pa.types.is_null(t):
        return "none", valid, np.zeros(len(array), np.uint64), None
    kind: Kind = "int"
    if pa.types.is_boolean(t):
        kind, array = "bool", array.cast(pa.int8())
    elif pa.types.is_timestamp(t) or pa.types.is_date(t):
        kind, array = "time", array.cast(pa.timestamp("us"), safe=False)
    elif not pa.types.is_integer(t):
        return "other", valid, np.zeros(len(array), np.uint64), None
    return kind, valid, pc.fill_null(array.cast(pa.int64()), 0).to_numpy().view(np.uint64), None


def _is_text(t: pa.DataType) -> bool:
    return any(
        is_type(t)
        for is_type in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
            pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view,
        )
    )  # fmt: skip


def _text(array: Any) -> tuple[Kind, np.ndarray, np.ndarray, Texts | None]:
    if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
        array = array.dictionary_decode()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    keys = text_keys(array.dictionary)
    codes = pc.fill_null(array.indices.cast(pa.int64()), 0).to_numpy()
    if not keys.size:
        return "text", np.zeros(len(array), bool), np.zeros(len(array), np.uint64), Texts(keys, array.dictionary)
    is_empty = np.asarray(pc.equal(pc.binary_length(array.dictionary.cast(pa.large_binary())), 0))
    return "text", np.asarray(array.is_valid()) & ~is_empty[codes], keys[codes], Texts(keys, array.dictionary)


def numbers_of(kind: Kind, keys: np.ndarray) -> np.ndarray:
    """The numbers of keys, float64; of a time, microseconds since 1970."""
    return keys.view(np.float64) if kind == "float" else keys.view(np.int64).astype(np.float64)


def shown(kind: Kind, key: int, texts: Mapping[int, str] | Texts | None) -> str:
    """A value as text."""
    if texts is not None and kind == "text":
        return texts[key]
    if kind == "bool":
        return "true" if key else "false"
    bits = np.array([key], np.uint64)
    if kind == "float":
        return f"{bits.view(np.float64)[0]:.10g}"
    return str(bits.view("M8[us]")[0] if kind == "time" else bits.view(np.int64)[0])


def kept_texts(keys: Iterable[int], known: Mapping[int, str], texts: Texts) -> dict[int, str]:
    """The texts of some keys, those that are new cut to what is shown."""
    return {key: known[key] if key in known else texts[key][:_TEXT_LENGTH] for key in keys}


def row_keys(columns: Iterable[tuple[str, Values]], rows: int) -> np.ndarray:
    """Hashes of whole rows, uint64 `[rows]`: equal where each column's values are, in any order of columns."""
    total = np.zeros(rows, np.uint64)
    for name, values in columns:
        seed = np.uint64(hash_string(name))
        total += np.where(values.valid, mix64(mix64(values.keys ^ seed) + seed), np.uint64(0))
    return total
