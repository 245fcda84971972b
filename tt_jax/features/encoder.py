"""Encode: raw columns to the fixed arrays of the schema. The one encoder of training and of serving.

An `Encoder` turns columns (Arrow, NumPy or Python values) into int32 id matrices, float32 matrices, labels, weights,
scenario indices and keys, in the layout of `tt_jax.schema.array_specs`. The same row gives the same bytes whichever way
it came.

Hashed ids and numbers are encoded several features at a time where rows are few: for the one row of a request, an
operation of NumPy costs what its call costs. Letters in names: F features, n rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.features.columns import (
    EncodeError,
    read_columns_of_numbers,
    read_ids,
    read_lists,
    read_numbers,
    row_of_element,
)
from tt_jax.features.dictionaries import Dictionaries
from tt_jax.features.ids import HashedIds, IdTable
from tt_jax.features.labels import column_of, encode_outcomes
from tt_jax.io.strict_json import nearest
from tt_jax.schema import MISSING_ID, PAD_ID, TOWERS, Feature, Schema, Tower

_TOGETHER = 16_384  # values, of one feature or of several, that are encoded at a time: what a cache holds


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
    """Encodes rows of one schema. Holds seeds, vocabularies, defaults, and the last Arrow dictionary of each feature as
    it was encoded; safe in threads."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._tables = {f.name: IdTable(f) for f in schema.features if f.is_ids and not f.shares}
        self._empty_is_id = {f.name: schema.has_empty_id(f) for f in schema.features if f.is_ids}
        self._defaults = {f.name: self._default(f) for f in schema.features if f.is_ids}
        self._hashed = {tower: self._hashed_ids(tower) for tower in TOWERS}
        self._numbers = {tower: tuple(_Numbers.of(schema, tower)) for tower in TOWERS}
        self._query_names = frozenset(f.name for f in schema.tower_features("query"))
        self._dictionaries = Dictionaries(self._encode_values)

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
            missing |= dict.fromkeys((name for name, *_ in (*layout.ids, *layout.floats)), 0)
            gathered = self._gather(tower, columns, ids, floats)
            wanted = [name for name in missing if name not in gathered] if gathered else None
            for names, missing_Fn in self._fill(tower, columns, ids, floats, wanted):
                missing |= zip(names, missing_Fn.sum(1).tolist(), strict=True)
            missing |= gathered
            arrays[f"{tower}_ids"], arrays[f"{tower}_floats"] = ids, floats
        if outcomes:
            arrays.update(encode_outcomes(self.schema, columns, n))
        return Encoded(arrays, missing)

    def _fill(
        self,
        tower: Tower,
        columns: Mapping[str, Any],
        ids: np.ndarray,
        floats: np.ndarray,
        wanted: Collection[str] | None,
    ) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        """Encodes the features of a tower, or those that are wanted, into its matrices `[n, width]`.

        Yields names and where each is missing, bool `[F, n]`.
        """
        layout, hashed = self.schema.layout[tower], self._hashed[tower]
        together = max(1, _TOGETHER // max(1, len(ids)))
        for some in _slices(hashed.names, together, wanted):
            yield hashed.names[some], hashed.fill(columns, ids, some)
        for numbers in self._numbers[tower]:
            for some in _slices(numbers.names, together, wanted):
                yield numbers.names[some], numbers.fill(columns, floats, some)
        for name, first, last in layout.ids:
            if name not in hashed.names and (wanted is None or name in wanted):
                column = column_of(columns, name)
                yield (name,), self._fill_ids(self.schema.feature(name), column, ids[:, first:last])[None]
        for name, first, last in layout.floats:
            feature = self.schema.feature(name)
            if feature.kind == "dense" and (wanted is None or name in wanted):
                yield (name,), _fill_dense(feature, column_of(columns, name), floats[:, first:last])[None]

    def _gather(self, tower: Tower, columns: Mapping[str, Any], ids: np.ndarray, floats: np.ndarray) -> dict[str, int]:
        """Writes the features that are Arrow dictionaries which are worth it; returns the rows without each."""
        found = {}
        for matrix, places in ((ids, self.schema.layout[tower].ids), (floats, self.schema.layout[tower].floats)):
            for name, first, last in places:
                count = self._dictionaries.gather(name, columns.get(name), matrix[:, first:last])
                if count is not None:
                    found[name] = count
        return found

    def _encode_values(self, name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """One feature alone: its slots or floats `[n, width]`, and where it is missing, bool `[n]`."""
        tower = self.schema.feature(name).tower
        layout = self.schema.layout[tower]
        ids = np.full((len(values), layout.id_slots), PAD_ID, np.int32)
        floats = np.zeros((len(values), layout.float_width), np.float32)
        ((_, missing_1n),) = self._fill(tower, {name: values}, ids, floats, (name,))
        for matrix, places in ((ids, layout.ids), (floats, layout.floats)):
            for place, first, last in places:
                if place == name:
                    return matrix[:, first:last], missing_1n[0]
        raise KeyError(name)

    def encode_queries(self, queries: Sequence[Mapping[str, Any]]) -> Encoded:
        """Encodes requests, each feature name -> Python value. An absent one is missing, an unknown one an error."""
        for i, query in enumerate(queries):
            if not self._query_names.issuperset(query):
                name = next(k for k in query if k not in self._query_names)
                raise EncodeError(name, i, f"unknown query feature{nearest(name, self._query_names)}")
        columns: dict[str, Any] = {name: [q.get(name) for q in queries] for name in self._query_names}
        return self.encode(columns, ("query",), outcomes=False)

    def _hashed_ids(self, tower: Tower) -> HashedIds:
        """The categorical features of a tower whose ids are all hashed."""
        found = []
        for name, slot, _ in self.schema.layout[tower].ids:
            feature = self.schema.feature(name)
            table = self._tables[self.schema.table_owner(feature).name]
            if feature.kind == "categorical" and table.only_hashed:
                found.append((name, feature.dtype, slot, table.seed, table.size, self._defaults[name]))
        names, dtypes, slots, seeds, sizes, defaults = zip(*found, strict=True) if found else ((),) * 6
        return HashedIds(
            names=names,
            dtypes=dtypes,
            slots_F=np.array(slots, np.int64),
            seeds_F1=np.array(seeds, np.uint64)[:, None],
            sizes_F1=np.array(sizes, np.uint64)[:, None],
            defaults_F1=np.array(defaults, np.int32)[:, None],
            empty_is_id=not self.schema.empty_is_missing,
        )

    def _default(self, feature: Feature) -> int:
        """The table row of a missing value."""
        if feature.default is None:
            return MISSING_ID
        table = self._tables[self.schema.table_owner(feature).name]
        return int(table.rows(read_ids(feature.name, [feature.default], feature.dtype))[0])

    def _fill_ids(self, feature: Feature, column: Any, out: np.ndarray) -> np.ndarray:
        """Writes the feature's slots `[n, slots]`; returns where it is missing, bool `[n]`."""
        table = self._tables[self.schema.table_owner(feature).name]
        default, empty_is_id = self._defaults[feature.name], self._empty_is_id[feature.name]
        if feature.kind == "categorical":
            scalars = read_ids(feature.name, column, feature.dtype, empty_is_id)
            out[:, 0] = np.where(scalars.valid, table.rows(scalars), default)
            return ~scalars.valid
        lists = read_lists(feature.name, column)
        try:
            scalars = read_ids(feature.name, lists.values, feature.dtype, empty_is_id)
        except EncodeError as e:  # its row counts elements: name the row of the log instead
            raise EncodeError(e.column, row_of_element(lists.lengths, e.row), f"in a list: {e.reason}") from None
        row, rows, lengths = np.repeat(np.arange(len(lists.lengths)), lists.lengths), table.rows(scalars), lists.lengths
        if not empty_is_id and feature.dtype == "string" and not scalars.valid.all():
            row, rows = row[scalars.valid], rows[scalars.valid]
            lengths = np.bincount(row, minlength=len(lengths))
        position = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # A sequence is stored newest first, so that a slot always means the same recency.
        slot = position if feature.kind == "bag" else lengths[row] - 1 - position
        kept = slot < feature.slots
        out[row[kept], slot[kept]] = rows[kept]
        out[lengths == 0, 0] = default
        return lengths == 0


@dataclass(frozen=True)
class _Numbers:
    """Numeric features of the same transform, and where they stand in the float matrix."""

    features: tuple[Feature, ...]
    names: tuple[str, ...]
    columns_F: np.ndarray
    means_F1: np.ndarray
    stds_F1: np.ndarray
    clips_F1: np.ndarray
    defaults_F1: np.ndarray

    @staticmethod
    def of(schema: Schema, tower: Tower) -> Iterator[_Numbers]:
        """Those of a tower."""
        by_transform: dict[Any, list[tuple[Feature, int]]] = {}
        for name, column, _ in schema.layout[tower].floats:
            if (feature := schema.feature(name)).kind == "numeric":
                by_transform.setdefault(feature.transform, []).append((feature, column))
        for found in by_transform.values():
            features, columns = zip(*found, strict=True)
            parameters = [(f.mean, f.std, f.clip, np.nan if f.default is None else float(f.default)) for f in features]
            names = tuple(f.name for f in features)
            yield _Numbers(features, names, np.array(columns), *np.array(parameters, np.float64).T[:, :, None])

    def fill(self, columns: Mapping[str, Any], out: np.ndarray, some: slice) -> np.ndarray:
        """Writes some of the features' columns; returns where each is missing, bool `[F, n]`."""
        features, names, at = self.features[some], self.names[some], self.columns_F[some]
        values_Fn = read_columns_of_numbers(names, [column_of(columns, name) for name in names])
        missing_Fn = np.isnan(values_Fn)
        values_Fn = np.where(missing_Fn, self.defaults_F1[some], values_Fn)
        scale = self.means_F1[some], self.stds_F1[some], self.clips_F1[some]
        out[:, at] = _normalise(values_Fn, features[0].transform, *scale).T
        for f, column, missing in zip(features, at, missing_Fn, strict=True):
            if f.indicator:
                out[:, column + 1] = ~missing
        return missing_Fn


def _slices(names: Sequence[str], together: int, wanted: Collection[str] | None) -> Iterator[slice]:
    """Of all names, or one by one of those that are wanted."""
    if wanted is None:
        return (slice(first, first + together) for first in range(0, len(names), together))
    return (slice(i, i + 1) for i, name in enumerate(names) if name in wanted)


def _fill_dense(feature: Feature, column: Any, out: np.ndarray) -> np.ndarray:
    """Writes the feature's float columns `[n, width]`; returns where it is missing, bool `[n]`."""
    lists = read_lists(feature.name, column)
    wrong = lists.valid & (lists.lengths != feature.dim)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EncodeError(feature.name, row, f"expected {feature.dim} numbers, got {lists.lengths[row]}")
    try:
        values = read_numbers(feature.name, lists.values)
    except EncodeError as e:
        raise EncodeError(e.column, row_of_element(lists.lengths, e.row), f"in a list: {e.reason}") from None
    scaled = _normalise(values, feature.transform, feature.mean, feature.std, feature.clip)
    out[lists.valid] = scaled.reshape(-1, feature.dim)
    return ~lists.valid


def _normalise(values: np.ndarray, transform: str | None, mean: Any, std: Any, clip: Any) -> np.ndarray:
    """float64 -> float32, `(transform(x) - mean) / std` clipped; NaN becomes 0, infinities the clip."""
    if transform == "log1p":
        values = np.sign(values) * np.log1p(np.abs(values))  # odd, so that negative numbers keep their order
    with np.errstate(over="ignore"):  # to infinity, and so to the clip
        scaled = np.clip((values - mean) / std, -clip, clip)
    return np.where(np.isnan(scaled), 0.0, scaled).astype(np.float32)


def _rows_of(columns: Mapping[str, Any]) -> int:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise EncodeError(next(iter(sizes)), None, f"columns of different lengths: {sizes}")
    return next(iter(sizes.values()), 0)
