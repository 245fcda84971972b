"""Columns as the types that are asked for: every value exactly, or refused by row, column and value.

A cast is `(array, wrong)`: the values as the type, null where one does not fit, and the reasons by position.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.sources.text_format import JSON, PLAIN, TextFormat
from input_pipeline.values.chunks import Errors, Types, without
from input_pipeline.values.parse_text import (
    numbers_of_text,
    read_json_lists,
    split_texts,
    truth_of_text,
    utf8,
    whole_numbers_of_text,
)
from tt_jax.features.arrow import list_of, list_parts, plain
from tt_jax.features.columns import one_array, row_of_element

EXACT = 2**53  # whole numbers below it are exact in a float64; one above it may have been another
Cast = tuple[pa.Array, dict[int, str]]


def cast_table(
    file: str, first_row: int, table: pa.Table, types: Types, errors: Errors, text: TextFormat = PLAIN
) -> Iterator[tuple[int, pa.Table]]:
    """The rows with their columns as `types` has them, in pieces between those that do not fit: see `cast`.

    Columns without a type are made plain (`tt_jax.features.arrow.plain`), and texts that stand for a missing value
    null.
    """
    columns, bad = [], {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        result, wrong = cast(plain(one_array(column)), types.get(name), text, name)
        columns.append(result)
        bad |= {i: f"column {name!r}: {reason}" for i, reason in wrong.items() if i not in bad}
    for i in sorted(bad):
        errors.reject(file, first_row + i, bad[i], table.slice(i, 1).to_pylist()[0])
    yield from without(first_row, pa.Table.from_arrays(columns, table.column_names), sorted(bad))


def cast(array: pa.Array, to: pa.DataType | None, text: TextFormat = PLAIN, name: str = "") -> Cast:
    """A plain array as a type: string, int64, uint64, float64, bool, or a list of one of them; None = what it is.

    Whole numbers become their digits, and numbers of a float column whole numbers where they are, below 2^53. Text
    becomes numbers, and lists as `text` says of the column `name`. A list of numbers stays of its own type of numbers.
    """
    if pa.types.is_dictionary(array.type):
        return _cast_dictionary(array, to, text, name)
    if pa.types.is_string(array.type) and text.missing:
        array = pc.if_else(pc.is_in(array, pa.array(text.missing)), None, array)
    if to is None:
        return _cast_untyped(array)
    if array.type == to:
        return (array, {}) if not pa.types.is_list(to) else _cast_lists(array, to, text)
    if pa.types.is_null(array.type) or pa.types.is_null(to):
        return pa.nulls(len(array), to), {}
    if pa.types.is_binary(array.type) or pa.types.is_fixed_size_binary(array.type):
        array, wrong = utf8(array)
        result, more = cast(array, to, text, name)
        return result, more | wrong
    if pa.types.is_list(to):
        if pa.types.is_string(array.type):
            return _lists_of_text(array, to, text, name)
        if pa.types.is_list(array.type):
            return _cast_lists(array, to, text)
        return pa.nulls(len(array), to), _reasons(array, to, np.asarray(array.is_valid()))
    if pa.types.is_string(to):
        return _to_string(array, to)
    if pa.types.is_integer(to):
        return _to_int(array, to)
    return _to_float(array, to) if pa.types.is_floating(to) else _to_other(array, to)


def _cast_dictionary(array: pa.Array, to: pa.DataType | None, text: TextFormat, name: str) -> Cast:
    """Of strings, whose distinct values are cast; lists stay a dictionary, which the encoder reads once a value."""
    values, wrong = cast(array.dictionary, to, text, name)
    if values is array.dictionary:
        return array, {}
    result, reasons = _of_dictionary(array, values, wrong)
    return (pa.DictionaryArray.from_arrays(array.indices, values) if pa.types.is_list(values.type) else result), reasons


def _cast_untyped(array: pa.Array) -> Cast:
    """Decimals as whole numbers if they have no fraction and these hold them, else as floats or, of whole ones, as
    digits; bytes as text if they are."""
    if pa.types.is_decimal(array.type):
        if array.type.scale > 0:
            return array.cast(pa.float64()), {}
        for to in (pa.int64(), pa.string()):
            result, wrong = cast(array, to)
            if not wrong:
                return result, {}
    if pa.types.is_binary(array.type):
        texts, wrong = utf8(array)
        return (array if wrong else texts), {}
    return array, {}


def _lists_of_text(texts: pa.Array, to: pa.DataType, text: TextFormat, name: str) -> Cast:
    separator = text.separators.get(name, JSON)
    if separator != JSON:
        return _cast_lists(split_texts(texts, separator, not pa.types.is_string(to.value_type)), to, text)
    codes = texts.dictionary_encode()
    lists, bad = read_json_lists(codes.dictionary.to_pylist(), name)
    result, unfit = column_of_values(lists, to, text)
    return _of_dictionary(codes, result, unfit | bad)


def _of_dictionary(codes: pa.DictionaryArray, values: pa.Array, wrong: dict[int, str]) -> Cast:
    """The rows of a dictionary of which the values have been cast."""
    at = pc.fill_null(codes.indices.cast(pa.int64()), -1).to_numpy()
    rows = np.flatnonzero(np.isin(at, list(wrong))) if wrong else ()
    return values.take(codes.indices), {int(i): wrong[int(at[i])] for i in rows}


def _cast_lists(array: pa.Array, to: pa.DataType, text: TextFormat) -> Cast:
    """Lists with their elements cast; a row of which one does not fit is null."""
    t = array.type.value_type
    as_it_is = pa.types.is_floating(to.value_type) and (pa.types.is_floating(t) or pa.types.is_integer(t))
    if (t == to.value_type and not (pa.types.is_string(t) and text.missing)) or as_it_is:
        return array, {}
    lengths, valid, elements = list_parts(array)
    result, wrong = cast(elements, to.value_type, text)
    if not wrong:
        return list_of(lengths, valid, result), {}
    reasons = _by_row(wrong, lengths, array, to)
    return list_of(lengths, valid & ~np.isin(np.arange(len(array)), list(reasons)), result), reasons


def _by_row(wrong: dict[int, str], lengths: np.ndarray, rows: Any, to: pa.DataType) -> dict[int, str]:
    """Reasons by element as reasons by the row whose list has it."""
    reasons: dict[int, str] = {}
    for element, reason in wrong.items():
        row = int(row_of_element(lengths, element) or 0)
        value = rows[row] if isinstance(rows, list) else rows[row].as_py()
        reasons.setdefault(row, f"expected {to}, got {value!r}: {reason}")
    return reasons


def _to_string(array: pa.Array, to: pa.DataType) -> Cast:
    if pa.types.is_floating(array.type):
        whole, wrong = _to_int(array, pa.int64())
        return whole.cast(to), {i: reason.replace("int64", "string", 1) for i, reason in wrong.items()}
    return _try(array, to)


def _to_int(array: pa.Array, to: pa.DataType) -> Cast:
    if pa.types.is_string(array.type):
        return whole_numbers_of_text(array, to)
    if not pa.types.is_floating(array.type):
        return _try(array, to)
    array = pc.if_else(pc.is_nan(array), None, array)
    numbers = pc.fill_null(array, 0).to_numpy()
    with np.errstate(invalid="ignore"):
        bad = ~((np.abs(numbers) < EXACT) & (numbers == np.floor(numbers)))
    result = pc.if_else(pa.array(bad), None, array).cast(to)
    large = {int(i) for i in np.flatnonzero(np.isfinite(numbers) & (np.abs(numbers) >= EXACT))}
    why = ", a float, which may have been rounded: those of 2^53 and more are not exact"
    return result, {i: r + (why if i in large else "") for i, r in _reasons(array, to, bad).items()}


def _to_float(array: pa.Array, to: pa.DataType) -> Cast:
    if pa.types.is_string(array.type):
        return numbers_of_text(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    try:
        return array.cast(to, safe=False), {}
    except pa.ArrowException:
        return pa.nulls(len(array), to), _reasons(array, to, np.asarray(array.is_valid()))


def _try(array: pa.Array, to: pa.DataType) -> Cast:
    """By Arrow's own cast, value by value where it fails."""
    try:
        return array.cast(to), {}
    except pa.ArrowException:
        bad = np.array([not _casts(value, to) for value in array])
    kept = array.filter(pa.array(~bad))
    at = np.where(bad, 0, np.cumsum(~bad) - 1)
    result = kept.cast(to) if len(kept) else pa.nulls(0, to)
    return result.take(pa.array(at, mask=bad)), _reasons(array, to, bad)


def _casts(value: pa.Scalar, to: pa.DataType) -> bool:
    try:
        value.cast(to)
    except pa.ArrowException:
        return False
    return True


def _to_other(array: pa.Array, to: pa.DataType) -> Cast:
    return truth_of_text(array) if pa.types.is_string(array.type) and pa.types.is_boolean(to) else _try(array, to)


def _reasons(array: pa.Array, to: pa.DataType, bad: np.ndarray) -> dict[int, str]:
    return {int(i): f"expected {to}, got {array[int(i)].as_py()!r}" for i in np.flatnonzero(bad)}


def column_of_values(values: list[Any], to: pa.DataType | None, text: TextFormat = PLAIN, name: str = "") -> Cast:
    """Python values as an array of a type; without one, of the type of the first value that is not None."""
    kinds = set(map(type, values))
    try:
        if to is None or not pa.types.is_list(to) or kinds <= {list, type(None)}:  # of a text Arrow would make letters
            result = pa.array(values, to)
            if to is None or not _may_be_rounded(result):
                return cast(result, to, text, name)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    to = to or _type_of_first(values)
    of_kind: dict[type, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            of_kind.setdefault(type(value), []).append(i)
    arrays, wrong, place = [], {}, np.full(len(values), -1)
    start = 0
    for kind, at in of_kind.items():
        result, bad = _of_one_kind(kind, [values[i] for i in at], to, text, name)
        place[at] = np.arange(start, start + len(at))
        start += len(at)
        arrays.append(result)
        wrong |= {at[i]: reason for i, reason in bad.items()}
    result = pa.concat_arrays(arrays) if arrays else pa.nulls(0, to)
    return result.take(pa.array(place, mask=place < 0)), wrong


def _may_be_rounded(array: pa.Array) -> bool:
    """Whether it holds whole numbers that could have been floats that are not exact."""
    elements = array.values if pa.types.is_list(array.type) else array
    if not pa.types.is_integer(elements.type):
        return False
    ends = pc.min_max(elements).as_py()
    return ends["max"] is not None and (ends["max"] >= EXACT or ends["min"] <= -EXACT)


def _of_one_kind(kind: type, values: list[Any], to: pa.DataType, text: TextFormat, name: str) -> Cast:
    """Of values of one Python type."""
    if kind is int:
        try:
            return cast(pa.array(values, pa.int64()), to, text, name)
        except OverflowError:  # as their digits
            return cast(pa.array([str(v) for v in values], pa.string()), to, text, name)
    if kind is list and pa.types.is_list(to):
        elements, wrong = column_of_values([v for row in values for v in row], to.value_type, text)
        lengths = np.array([len(row) for row in values], np.int64)
        reasons = _by_row(wrong, lengths, values, to)
        return list_of(lengths, ~np.isin(np.arange(len(values)), list(reasons)), elements), reasons
    if kind in _ARROW_TYPES:
        try:
            return cast(pa.array(values, _ARROW_TYPES[kind]), to, text, name)
        except UnicodeEncodeError:  # of a lone surrogate, which is no text
            wrong = {i: f"expected {to}, got {v!r}" for i, v in enumerate(values) if _LONE.search(v)}
            result, more = cast(pa.array([None if i in wrong else v for i, v in enumerate(values)]), to, text, name)
            return result, more | wrong
    return pa.nulls(len(values), to), {i: f"expected {to}, got {v!r}" for i, v in enumerate(values)}


_LONE = re.compile("[\ud800-\udfff]")
_ARROW_TYPES = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def _type_of_first(values: list[Any]) -> pa.DataType:
    """Of whole numbers the type that holds all of them, of numbers that are not all whole float64, of text beside
    whole numbers text."""
    known = [v for v in values if v is not None]
    kinds = {type(v) for v in known}
    whole = [v for v in known if type(v) is int]
    if kinds == {int, float}:
        return pa.float64()
    if str in kinds and kinds <= {str, int, bool}:
        return pa.string()
    if known and type(known[0]) is int:
        if max(whole) < 2**63 and min(whole) >= -(2**63):
            return pa.int64()
        return pa.uint64() if max(whole) < 2**64 and min(whole) >= 0 else pa.string()
    return next((t for t in map(_type_of, known) if t is not None), pa.null())


def _type_of(value: Any) -> pa.DataType | None:
    try:
        return pa.array([value]).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None
