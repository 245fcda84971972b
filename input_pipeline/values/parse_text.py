"""Values written as text: numbers, whole numbers, lists."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NO_NUMBER = ("", "NULL", "null", "NaN", "nan")  # of a number, whatever `TextFormat.missing` says
_WHOLE = re.compile(r"-?[0-9]+")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")  # which may be whole
_TRUTH = {"true": 1.0, "false": 0.0}


def utf8(array: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Bytes as text."""
    try:
        return array.cast(pa.string()), {}
    except pa.ArrowInvalid:
        pass
    texts, wrong = [], {}
    for i, value in enumerate(array.to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError as e:
            texts.append(None)
            wrong[i] = f"expected UTF-8 text, got {value!r}: {e.reason} at byte {e.start}"
    return pa.array(texts, pa.string()), wrong


def numbers_of_text(texts: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """float64; `true` and `false` are 1 and 0."""
    texts = _of_numbers(texts)
    try:
        return texts.cast(pa.float64()), {}
    except pa.ArrowInvalid:
        return _by_distinct(texts, pa.float64(), _number)


def whole_numbers_of_text(texts: pa.Array, to: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """int64 or uint64; below 2^53 also as a float that is whole, `7.0` or `1e+05`; `true` and `false` are 1 and 0."""
    texts = _of_numbers(texts)
    if not (pc.any(pc.match_substring(texts, "x")).as_py() or pc.any(pc.match_substring(texts, "X")).as_py()):
        try:
            return texts.cast(to), {}
        except pa.ArrowInvalid:
            pass
    lowest, highest = (0, 2**64) if to == pa.uint64() else (-(2**63), 2**63)

    def whole(text: str) -> int:
        if (truth := _TRUTH.get(text.lower())) is not None:
            return int(truth)
        is_float = _WHOLE.fullmatch(text) is None
        value = _whole(text) if is_float else int(text)
        if not lowest <= value < highest or (is_float and abs(value) >= 2**53):
            raise ValueError
        return value

    return _by_distinct(texts, to, whole)


def _whole(text: str) -> int:
    """The whole number that a float is as it is written. Raises ValueError."""
    if _FLOAT.fullmatch(text) is None or (number := Decimal(text)) != number.to_integral_value():
        raise ValueError
    return int(number)


def _of_numbers(texts: pa.Array) -> pa.Array:
    """Without spaces around them, null where there is no number."""
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.is_in(texts, pa.array(NO_NUMBER)), None, texts)


def _number(text: str) -> float:
    truth = _TRUTH.get(text.lower())
    return pa.scalar(text).cast(pa.float64()).as_py() if truth is None else truth


def _by_distinct(texts: pa.Array, to: pa.DataType, value_of: Callable[[str], Any]) -> tuple[pa.Array, dict[int, str]]:
    """By a function of each text, which raises ValueError where it does not fit; called once for equal texts."""
    codes = texts.dictionary_encode()
    values, bad = [], set()
    for code, text in enumerate(codes.dictionary.to_pylist()):
        try:
            values.append(value_of(text))
        except ValueError:
            values.append(None)
            bad.add(code)
    rows = np.flatnonzero(np.isin(pc.fill_null(codes.indices, -1).to_numpy(), list(bad)))
    wrong = {int(i): f"expected {to}, got {texts[int(i)].as_py()!r}" for i in rows}
    return pa.array(values, to).take(codes.indices), wrong


def truth_of_text(texts: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """bool."""
    texts = _of_numbers(texts)
    try:
        return texts.cast(pa.bool_()), {}
    except pa.ArrowInvalid:
        return _by_distinct(texts, pa.bool_(), lambda text: pa.scalar(text).cast(pa.bool_()).as_py())


def split_texts(texts: pa.Array, separator: str, numbers: bool) -> pa.Array:
    """Lists of what is between the separators, byte for byte; an empty text is null.

    Of numbers, brackets and spaces around them do not count, nor what is empty between two spaces.
    """
    if numbers:
        texts = pc.utf8_trim(texts, "[](){} \t\r\n")
        if separator.isspace():
            texts = pc.replace_substring_regex(texts, r"\s+", separator)
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    return pc.split_pattern(texts, separator)


def read_json_lists(texts: list[str | None], column: str) -> tuple[list[list[Any] | None], dict[int, str]]:
    """JSON arrays, or lists as Python prints them; an empty text is None."""
    decode, lists, wrong = msgspec.json.Decoder(list).decode, [], {}
    for i, text in enumerate(texts):
        try:
            lists.append(decode(text) if text else None)
        except (msgspec.DecodeError, RecursionError):
            lists.append(_other_list(text or ""))
            if lists[-1] is None:
                declare = f'TextFormat(separators={{"{column}": "|"}})'
                wrong[i] = f"expected a JSON array, got {text!r}; if {declare} or the like fits, declare it"
    return lists, wrong


def _other_list(text: str) -> list[Any] | None:
    """A list as Python prints it, `['a', "it's"]`, or writes it as JSON, `[NaN, 0.5]`."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return parsed if isinstance(parsed, list) else None
    return None
