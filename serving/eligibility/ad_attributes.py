"""The attributes of ads on the host: read from columns, changed by position, stored, hashed.

Nothing here changes in place: a change gives another object.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tt_jax.features.columns import (
    EncodeError,
    is_arrow,
    nulls,
    read_flags,
    read_ids,
    read_lists,
    read_numbers,
    row_of_element,
)
from tt_jax.io.strict_json import dataclass_from_dict, parse_json
from tt_jax.schema import AdAttribute

FILE, VALUES_FILE = "attributes.npz", "attribute_values.json"
NO_VALUE = -1  # in place of the value of a large set
OPEN_END = 2**32 - 1  # seconds since 1970, in the year 2106
AttributeValue = int | str


class SetValues:
    """The distinct values of a set, in order of their first appearance: `names`, and `place`, value -> its place."""

    def __init__(self, names: Iterable[AttributeValue] = ()) -> None:
        self.names = tuple(names)
        self.place = {value: i for i, value in enumerate(self.names)}


@dataclass(frozen=True, eq=False)
class AdAttributes:
    """The attributes of n ads. None of them where a schema has none.

    Attributes:
      schema: what they are.
      columns: name -> array. Of a set uint32 `[n, ceil(max_values / 32)]`: bit v % 32 of word v // 32 is the value v of
        `values`; of a large set int32 `[n]`, a place in `values` or `NO_VALUE`; of a number float32 `[n]`; of an
        interval uint32 `[n, 2]`, start and end; of a flag bool `[n]`.
      values: name -> those of a set.
    """

    schema: tuple[AdAttribute, ...]
    columns: dict[str, np.ndarray]
    values: dict[str, SetValues]

    @staticmethod
    def empty(schema: tuple[AdAttribute, ...], n: int) -> AdAttributes:
        """Of n places without ads."""
        columns = {a.name: _empty(a, n) for a in schema}
        return AdAttributes(schema, columns, {a.name: SetValues() for a in schema if a.kind == "set"})

    @staticmethod
    def read(schema: tuple[AdAttribute, ...], columns: Mapping[str, Any], n: int) -> AdAttributes:
        """Of n ads; without a column, every ad has none. Raises `EncodeError` naming column, row and value."""
        read = {a.name: _read(a, columns[a.name] if a.name in columns else [None] * n) for a in schema}
        values = {name: values for name, (_, values) in read.items() if values is not None}
        return AdAttributes(schema, {name: column for name, (column, _) in read.items()}, values)

    @staticmethod
    def read_updates(
        schema: tuple[AdAttribute, ...], columns: Mapping[str, Any], n: int
    ) -> tuple[AdAttributes, dict[str, np.ndarray]]:
        """As `read`, and name -> bool `[n]`, whether an ad is given another: a null, or no column, is none.

        Raises `EncodeError`.
        """
        given = {a.name: ~nulls(columns[a.name]) if a.name in columns else np.zeros(n, bool) for a in schema}
        some = [replace(a, default=0.0) if a.kind == "number" else a for a in schema if a.name in columns]
        read = {a.name: _read(a, columns[a.name], absent_flag=0) for a in some}
        rows = AdAttributes.empty(schema, n)
        sets = {name: values for name, (_, values) in read.items() if values is not None}
        read_columns = {name: column for name, (column, _) in read.items()}
        return AdAttributes(schema, rows.columns | read_columns, rows.values | sets), given

    def at(self, places: np.ndarray) -> AdAttributes:
        """Of the ads at these places."""
        return replace(self, columns={name: column[places] for name, column in self.columns.items()})

    def padded(self, n: int) -> AdAttributes:
        """With places without ads up to n."""
        spare = n - next((len(column) for column in self.columns.values()), n)
        if not spare:
            return self
        pad = lambda x: np.pad(x, ((0, spare), *((0, 0),) * (x.ndim - 1)))  # noqa: E731
        return replace(self, columns={name: pad(column) for name, column in self.columns.items()})

    def put(
        self, places: np.ndarray, rows: AdAttributes, given: Mapping[str, np.ndarray] | None = None
    ) -> AdAttributes:
        """With those of `rows` at these places; `given`: name -> bool `[rows]`, all others stay as they were.

        Raises ValueError naming an attribute that has more values then than it may have.
        """
        columns, values = dict(self.columns), dict(self.values)
        for a in self.schema:
            chosen = slice(None) if given is None else np.flatnonzero(given[a.name])
            new = rows.columns[a.name][chosen]
            if not len(new):
                continue
            if a.kind == "set":
                values[a.name], new = _translated(a, values[a.name], rows.values[a.name], new)
            columns[a.name] = columns[a.name].copy()
            columns[a.name][places[chosen]] = new
        return replace(self, columns=columns, values=values)

    def parts(self) -> list[np.ndarray | list[str]]:
        """All that they are, for a hash: equal attributes give equal bytes."""
        return [[json.dumps(self._described())], *self.columns.values()] if self.schema else []

    def _described(self) -> dict[str, Any]:
        values = {name: values.names for name, values in self.values.items()}
        return {"attributes": [asdict(a) for a in self.schema], "values": values}

    def save(self, directory: Path) -> None:
        """Writes two files, or none where there is no attribute."""
        if self.schema:
            np.savez(directory / FILE, allow_pickle=False, **self.columns)
            (directory / VALUES_FILE).write_text(json.dumps(self._described()), encoding="utf-8")

    @staticmethod
    def load(directory: Path) -> AdAttributes:
        """What `save` wrote. Raises ValueError, or whatever NumPy does."""
        if not (directory / FILE).exists():
            return NO_ATTRIBUTES
        with (directory / FILE).open("rb") as f, np.load(f, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        fields = parse_json((directory / VALUES_FILE).read_bytes(), VALUES_FILE, ValueError)
        schema = tuple(dataclass_from_dict(AdAttribute, a, VALUES_FILE, ValueError) for a in fields["attributes"])
        expected = AdAttributes.empty(schema, next((len(x) for x in columns.values()), 0))
        for name, column in expected.columns.items():
            if (column.dtype, column.shape) != (columns[name].dtype, columns[name].shape):
                got = f"{columns[name].dtype} {columns[name].shape}"
                raise ValueError(f"attribute {name!r}: expected {column.dtype} {column.shape}, got {got}")
        return AdAttributes(schema, columns, {name: SetValues(some) for name, some in fields["values"].items()})


NO_ATTRIBUTES = AdAttributes((), {}, {})


def _empty(a: AdAttribute, n: int) -> np.ndarray:
    if a.kind == "set":
        return np.full(n, NO_VALUE, np.int32) if a.is_id else np.zeros((n, -(-a.max_values // 32)), np.uint32)
    if a.kind == "interval":
        return np.zeros((n, 2), np.uint32)
    return np.zeros(n, np.float32 if a.kind == "number" else np.bool_)


def _read(a: AdAttribute, column: Any, absent_flag: int | None = None) -> tuple[np.ndarray, SetValues | None]:
    """The array of an attribute, and of a set its values. A null flag is an error, or this."""
    match a.kind:
        case "set":
            return _read_set(a, column)
        case "number":
            return _read_number(a, column), None
        case "interval":
            return _read_interval(a, column), None
        case "flag":
            return read_flags(a.name, column, absent_flag).astype(np.bool_), None


def _read_set(a: AdAttribute, column: Any) -> tuple[np.ndarray, SetValues]:
    n, rows, places, values = len(column), *read_values(a, column)
    if len(values) > a.max_values:
        raise EncodeError(a.name, None, f"expected at most {a.max_values} different values, got {len(values)}")
    if a.is_id:
        codes = np.full(n, NO_VALUE, np.int32)
        codes[rows] = places
        if len(np.unique(rows)) < len(rows):
            row = int(rows[:-1][rows[1:] == rows[:-1]][0])
            raise EncodeError(a.name, row, "a set of more than 512 values has at most one of each ad, got several")
        return codes, SetValues(values)
    words = np.zeros((n, -(-a.max_values // 32)), np.uint32)
    np.bitwise_or.at(words, (rows, places // 32), np.uint32(1) << (places % 32).astype(np.uint32))
    return words, SetValues(values)


def read_values(a: AdAttribute, column: Any) -> tuple[np.ndarray, np.ndarray, list[AttributeValue]]:
    """Of a set: rows int64 `[m]`, ascending, places `[m]` among its distinct values, and these. A row has a list of
    values, or one; null is none. Raises `EncodeError`."""
    if _has_lists(column):
        lists = read_lists(
            a.name,
            [v if v is None or isinstance(v, list | tuple) else [v] for v in column]
            if not is_arrow(column)
            else column,
        )
        rows = np.repeat(np.arange(len(column)), lists.lengths)
        try:
            ids = read_ids(a.name, lists.values, a.dtype)
        except EncodeError as e:
            raise EncodeError(a.name, row_of_element(lists.lengths, e.row), e.reason) from None
    else:
        ids = read_ids(a.name, column, a.dtype)
        rows = np.arange(len(column))
    found = np.flatnonzero(ids.valid)
    codes = ids.ints if ids.ints is not None else ids.codes
    assert codes is not None
    distinct, first, places = np.unique(codes[found], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    named = distinct[order].tolist() if ids.ints is not None else [(ids.strings or [])[c] for c in distinct[order]]
    return rows[found], rank[places], named


def _has_lists(column: Any) -> bool:
    if is_arrow(column):
        return "list" in str(column.type)
    return any(isinstance(v, list | tuple | np.ndarray) for v in column)


def _read_number(a: AdAttribute, column: Any) -> np.ndarray:
    values, absent = read_numbers(a.name, column), nulls(column)
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    if a.default is not None:
        numbers[absent] = a.default
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        raise EncodeError(
            a.name, row, f"expected a finite float32 number, got {'null' if absent[row] else values[row]}"
        )
    return numbers


def _read_interval(a: AdAttribute, column: Any) -> np.ndarray:
    pairs = column.to_pylist() if is_arrow(column) else column
    out = np.empty((len(pairs), 2), np.uint32)
    out[:] = 0, OPEN_END
    for row, pair in enumerate(pairs):
        if pair is not None:
            out[row] = interval(a.name, row, pair)
    return out


def interval(name: str, row: int | None, pair: Any) -> tuple[int, int]:
    """Start and end of a pair of Unix seconds of which null is open. Raises `EncodeError`."""
    wrong = f"expected [start, end] in whole Unix seconds, null = open, got {pair!r}"
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise EncodeError(name, row, wrong)
    start, end = (default if v is None else v for v, default in zip(pair, (0, OPEN_END), strict=True))
    if type(start) is not int or type(end) is not int or not 0 <= start <= end <= OPEN_END:
        raise EncodeError(name, row, wrong)
    return start, end


def _translated(a: AdAttribute, known: SetValues, own: SetValues, column: np.ndarray) -> tuple[SetValues, np.ndarray]:
    """The values known and own, and a column of the own ones by their places among all. Raises ValueError."""
    names, used = own.names, _used(a, column, len(own.names))
    new = [names[v] for v in used if names[v] not in known.place]
    if len(known.names) + len(new) > a.max_values:
        raise ValueError(f"attribute {a.name!r}: {new[0]!r} is one value more than the {a.max_values} that it may have")
    all_of = SetValues((*known.names, *new)) if new else known
    at = np.zeros(len(names) + 1, np.int64)
    at[used] = [all_of.place[names[v]] for v in used]
    if a.is_id:
        at[NO_VALUE] = NO_VALUE
        return all_of, at[column].astype(np.int32)
    words = np.zeros_like(column)
    for v in used:
        has = (column[:, v // 32] >> np.uint32(v % 32)) & np.uint32(1)
        words[:, at[v] // 32] |= has << np.uint32(at[v] % 32)
    return all_of, words


def _used(a: AdAttribute, column: np.ndarray, values: int) -> list[int]:
    """Which of that many values a column of a set has, ascending."""
    if a.is_id:
        return [int(v) for v in np.unique(column) if v != NO_VALUE]
    words = np.bitwise_or.reduce(column, axis=0, initial=0)
    return [v for v in range(values) if (int(words[v // 32]) >> (v % 32)) & 1]
