"""Encode: raw columns to the fixed arrays of the schema. The one encoder of training and of serving.

An `Encoder` turns columns (Arrow, NumPy or Python values) into int32 id matrices, float32 matrices, labels, weights,
scenario indices and keys, in the layout of `tt_jax.schema.array_specs`. The same row gives the same bytes whichever way
it came.

Ids are hashed with BLAKE2b (strings) or taken as they are (integers), mixed with a seed per table by the finaliser of
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) and reduced to the table's rows. Nothing of it depends on the platform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.columns import (
    EncodeError,
    Scalars,
    is_arrow,
    looks_int,
    nulls,
    read_ids,
    read_lists,
    read_numbers,
    row_of_element,
)
from tt_jax.schema import MISSING_ID, PAD_ID, TOWERS, UNKNOWN_ID, Feature, Schema, Task, Tower
from tt_jax.strict_json import nearest

_FIRST_HASHED = 2  # rows before it: MISSING_ID and UNKNOWN_ID


def hash_string(value: str) -> int:
    """Unsigned 64-bit BLAKE2b of the UTF-8 bytes, the same on every platform and release."""
    return int.from_bytes(hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of uint64 [n] that spreads every bit."""
    x = x.astype(np.uint64, copy=True)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@dataclass(frozen=True)
class Encoded:
    """Encoded rows.

    Attributes:
      arrays: as in `tt_jax.schema.array_specs`, those that were asked for.
      missing: rows in which each feature was missing.
    """

    arrays: dict[str, np.ndarray]
    missing: dict[str, int]


class Encoder:
    """Encodes rows of one schema. Holds seeds, vocabularies and defaults; stateless otherwise, safe in threads."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._tables = {f.name: _IdTable(f) for f in schema.features if f.is_ids and not f.shares}
        self._defaults = {f.name: self._default(f) for f in schema.features if f.is_ids}
        self._scenario_index = {name: i for i, name in enumerate(schema.scenarios)}
        self._query_names = frozenset(f.name for f in schema.tower_features("query"))

    def encode(self, columns: Mapping[str, Any], towers: Sequence[Tower] = TOWERS, outcomes: bool = True) -> Encoded:
        """Encodes named columns of equal length n.

        Args:
          columns: name -> Arrow array, NumPy array or list; columns that the schema does not name are ignored.
          towers: the towers whose features are encoded.
          outcomes: also encode labels, weights, scenario and keys.

        Raises:
          EncodeError: a column is absent, or holds a value that the schema does not allow.
        """
        n = _rows_of(columns)
        arrays: dict[str, np.ndarray] = {}
        missing: dict[str, int] = {}
        for tower in towers:
            layout = self.schema.layout[tower]
            ids = np.full((n, layout.id_slots), PAD_ID, np.int32)
            floats = np.zeros((n, layout.float_width), np.float32)
            for name, first, last in layout.ids:
                column = _column(columns, name)
                missing[name] = self._fill_ids(self.schema.feature(name), column, ids[:, first:last])
            for name, first, last in layout.floats:
                column = _column(columns, name)
                missing[name] = _fill_floats(self.schema.feature(name), column, floats[:, first:last])
            arrays[f"{tower}_ids"], arrays[f"{tower}_floats"] = ids, floats
        if outcomes:
            arrays.update(self._outcomes(columns, n))
        return Encoded(arrays, missing)

    def encode_queries(self, queries: Sequence[Mapping[str, Any]]) -> Encoded:
        """Encodes requests, each feature name -> Python value. An absent one is missing, an unknown one an error."""
        for i, query in enumerate(queries):
            if not self._query_names.issuperset(query):
                name = next(k for k in query if k not in self._query_names)
                raise EncodeError(name, i, f"unknown query feature{nearest(name, self._query_names)}")
        columns: dict[str, Any] = {name: [q.get(name) for q in queries] for name in self._query_names}
        return self.encode(columns, ("query",), outcomes=False)

    def _default(self, feature: Feature) -> int:
        """The table row of a missing value."""
        if feature.default is None:
            return MISSING_ID
        table = self._tables[self.schema.table_owner(feature).name]
        return int(table.rows(read_ids(feature.name, [feature.default], feature.dtype))[0])

    def _fill_ids(self, feature: Feature, column: Any, out: np.ndarray) -> int:
        """Writes the feature's slots `[n, slots]`; returns the rows in which it is missing."""
        table = self._tables[self.schema.table_owner(feature).name]
        default = self._defaults[feature.name]
        if feature.kind == "categorical":
            scalars = read_ids(feature.name, column, feature.dtype)
            out[:, 0] = np.where(scalars.valid, table.rows(scalars), default)
            return int(len(scalars.valid) - scalars.valid.sum())
        lists = read_lists(feature.name, column)
        try:
            rows = table.rows(read_ids(feature.name, lists.values, feature.dtype))
        except EncodeError as e:  # its row counts elements: name the row of the log instead
            raise EncodeError(e.column, row_of_element(lists.lengths, e.row), f"in a list: {e.reason}") from None
        row = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
        position = np.arange(len(rows)) - np.repeat(np.cumsum(lists.lengths) - lists.lengths, lists.lengths)
        # A sequence is stored newest first, so that a slot always means the same recency.
        slot = position if feature.kind == "bag" else lists.lengths[row] - 1 - position
        kept = slot < feature.slots
        out[row[kept], slot[kept]] = rows[kept]
        out[lists.lengths == 0, 0] = default
        return int((lists.lengths == 0).sum())

    def _outcomes(self, columns: Mapping[str, Any], n: int) -> dict[str, np.ndarray]:
        tasks = self.schema.tasks
        labels, weights = np.empty((n, len(tasks)), np.float32), np.ones((n, len(tasks)), np.float32)
        for t, task in enumerate(tasks):
            labels[:, t] = _labels(task, columns)
            if task.weight_column:
                weights[:, t] = _weights(task.weight_column, columns)
        keys = [_keys(name, _column(columns, name)) for name in self.schema.key_columns]
        return {
            "labels": labels,
            "weights": weights,
            "scenario": self._scenarios(_column(columns, self.schema.scenario))[:, None],
            "keys": np.stack(keys, 1),
        }

    def _scenarios(self, column: Any) -> np.ndarray:
        name = self.schema.scenario
        is_int = looks_int(column)
        scalars = read_ids(name, column, "int" if is_int else "string")
        if not scalars.valid.all():
            raise EncodeError(name, int(np.argmin(scalars.valid)), "the scenario is missing")
        if is_int:
            values, codes = np.unique(scalars.ints, return_inverse=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
            names = [str(v) for v in values]
        else:
            names, codes = scalars.strings or [], scalars.codes
        index = np.array([self._scenario_index.get(v, -1) for v in names], np.int32)
        found = index[codes] if len(names) else np.zeros(0, np.int32)
        if (found < 0).any():
            row = int(np.argmax(found < 0))
            expected = ", ".join(self.schema.scenarios)
            raise EncodeError(name, row, f"unknown scenario {names[codes[row]]!r}, expected one of {expected}")  # pyright: ignore[reportOptionalSubscript]
        return found


class _IdTable:
    """Raw ids -> rows of one embedding table, by hash or by vocabulary."""

    def __init__(self, feature: Feature) -> None:
        self.hash_size = feature.hash_size
        self.seed = mix64(np.array([hash_string(feature.name)], np.uint64))
        if feature.dtype == "int":
            values = np.array(feature.vocabulary, np.int64)
            order = np.argsort(values)
            self.sorted_values, self.sorted_rows = values[order], order.astype(np.int32) + UNKNOWN_ID + 1
        else:
            self.index = {v: i + UNKNOWN_ID + 1 for i, v in enumerate(feature.vocabulary)}

    def rows(self, scalars: Scalars) -> np.ndarray:
        """int32 [n]; arbitrary where a value is not valid."""
        if scalars.ints is not None:
            return self._hash(scalars.ints.view(np.uint64)) if self.hash_size else self._find(scalars.ints)
        strings, codes = scalars.strings or [], scalars.codes
        if not strings:
            return np.zeros(len(scalars.valid), np.int32)
        if self.hash_size:
            distinct = self._hash(np.fromiter(map(hash_string, strings), np.uint64, len(strings)))
        else:
            distinct = np.array([self.index.get(v, UNKNOWN_ID) for v in strings], np.int32)
        return distinct[codes]

    def _hash(self, values: np.ndarray) -> np.ndarray:
        mixed = mix64(mix64(values) ^ self.seed)
        return (mixed % np.uint64(self.hash_size - _FIRST_HASHED)).astype(np.int32) + np.int32(_FIRST_HASHED)

    def _find(self, values: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self.sorted_values, values), len(self.sorted_values) - 1)
        return np.where(self.sorted_values[at] == values, self.sorted_rows[at], np.int32(UNKNOWN_ID))


def _fill_floats(feature: Feature, column: Any, out: np.ndarray) -> int:
    """Writes the feature's float columns `[n, width]`; returns the rows in which it is missing."""
    if feature.kind == "numeric":
        values = read_numbers(feature.name, column)
        missing = np.isnan(values)
        default = np.nan if feature.default is None else float(feature.default)
        out[:, 0] = _normalise(feature, np.where(missing, default, values))
        if feature.indicator:
            out[:, 1] = ~missing
        return int(missing.sum())
    lists = read_lists(feature.name, column)
    wrong = lists.valid & (lists.lengths != feature.dim)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EncodeError(feature.name, row, f"expected {feature.dim} numbers, got {lists.lengths[row]}")
    try:
        values = read_numbers(feature.name, lists.values)
    except EncodeError as e:
        raise EncodeError(e.column, row_of_element(lists.lengths, e.row), f"in a list: {e.reason}") from None
    out[lists.valid] = _normalise(feature, values).reshape(-1, feature.dim)
    return int(len(lists.valid) - lists.valid.sum())


def _normalise(feature: Feature, values: np.ndarray) -> np.ndarray:
    """float64 -> float32, `(transform(x) - mean) / std` clipped; NaN becomes 0, infinities the clip."""
    if feature.transform == "log1p":
        values = np.sign(values) * np.log1p(np.abs(values))  # odd, so that negative numbers keep their order
    with np.errstate(over="ignore"):  # to infinity, and so to the clip
        scaled = np.clip((values - feature.mean) / feature.std, -feature.clip, feature.clip)
    return np.where(np.isnan(scaled), 0.0, scaled).astype(np.float32)


def _labels(task: Task, columns: Mapping[str, Any]) -> np.ndarray:
    """float64 [n]; NaN where the row has no label (a null) or its mask is not 1."""
    column = _column(columns, task.label)
    null = nulls(column)
    values = read_numbers(task.label, column)
    bad = ~null & ~((values >= 0) & (values <= 1))  # catches NaN too
    expected = "a label within 0..1"
    if task.kind == "hard":
        bad |= ~null & (values != 0) & (values != 1)
        expected = "a label of 0 or 1"
    if bad.any():
        row = int(np.argmax(bad))
        raise EncodeError(task.label, row, f"expected {expected}, got {values[row]}")
    if not task.mask:
        return values
    mask = read_numbers(task.mask, _column(columns, task.mask))
    wrong = ~np.isnan(mask) & (mask != 0) & (mask != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EncodeError(task.mask, row, f"expected a mask of 0 or 1, got {mask[row]}")
    return np.where(mask == 1, values, np.nan)


def _weights(name: str, columns: Mapping[str, Any]) -> np.ndarray:
    values = read_numbers(name, _column(columns, name))
    bad = ~((values >= 0) & (values <= np.finfo(np.float32).max))  # catches NaN too
    if bad.any():
        row = int(np.argmax(bad))
        raise EncodeError(name, row, f"expected a float32 weight >= 0, got {values[row]}")
    return values


def _keys(name: str, column: Any) -> np.ndarray:
    """int64 [n]: integers and times as they are, strings as their hash, -1 where missing."""
    if is_arrow(column) and str(column.type).startswith(("timestamp", "date64")):
        column = column.cast("int64")
    scalars = read_ids(name, column, "int" if looks_int(column) else "string")
    if scalars.ints is not None:
        values = scalars.ints
    else:
        distinct = np.fromiter(map(hash_string, scalars.strings or [""]), np.uint64).view(np.int64)
        values = distinct[scalars.codes]
    return np.where(scalars.valid, values, -1)


def _column(columns: Mapping[str, Any], name: str) -> Any:
    if name in columns:
        return columns[name]
    raise EncodeError(name, None, f"the column is missing{nearest(name, map(str, columns))}")


def _rows_of(columns: Mapping[str, Any]) -> int:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise EncodeError(next(iter(sizes)), None, f"columns of different lengths: {sizes}")
    return next(iter(sizes.values()), 0)
