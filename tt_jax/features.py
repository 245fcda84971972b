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
from functools import partial
from typing import Any

import numpy as np

from tt_jax.columns import EncodeError, as_dictionary, codes_of, read_ids, read_lists, row_of_element
from tt_jax.dictionaries import Dictionaries
from tt_jax.id_values import HashedIds, IdTable, Some
from tt_jax.number_values import Numbers, fill_dense
from tt_jax.outcomes import column_of, encode_outcomes
from tt_jax.schema import MISSING_ID, PAD_ID, TOWERS, Feature, Schema, Tower
from tt_jax.strict_json import nearest

_TOGETHER = 16_384  # values, of one feature or of several, that are encoded at a time: what a cache holds
_MANY = 1024  # rows from which on a column that is a dictionary is looked at as one


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
    """Encodes rows of one schema. Holds seeds, vocabularies, defaults and the last dictionaries. Safe in threads."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._tables = {f.name: IdTable(f) for f in schema.features if f.is_ids and not f.shares}
        self._defaults = {f.name: self._default(f) for f in schema.features if f.is_ids}
        self._hashed = {tower: self._hashed_ids(tower) for tower in TOWERS}
        self._numbers = {tower: tuple(Numbers.of(schema, tower)) for tower in TOWERS}
        self._names = {tower: frozenset(f.name for f in schema.tower_features(tower)) for tower in TOWERS}
        self._dictionaries = Dictionaries()

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
            ids, floats = arrays[f"{tower}_ids"], arrays[f"{tower}_floats"] = self._empty(tower, n)
            taken = self._take(tower, columns, ids, floats) if n >= _MANY else {}
            missing |= taken
            for names, absent_Fn in self._fill(tower, columns, ids, floats, taken):
                missing.update(zip(names, absent_Fn.sum(1).tolist(), strict=True))
        if outcomes:
            arrays.update(encode_outcomes(self.schema, columns, n))
        return Encoded(arrays, missing)

    def encode_queries(self, queries: Sequence[Mapping[str, Any]]) -> Encoded:
        """Encodes requests, each feature name -> Python value. An absent one is missing, an unknown one an error."""
        known = self._names["query"]
        for i, query in enumerate(queries):
            if not known.issuperset(query):
                name = next(k for k in query if k not in known)
                raise EncodeError(name, i, f"unknown query feature{nearest(name, known)}")
        columns: dict[str, Any] = {name: [q.get(name) for q in queries] for name in known}
        return self.encode(columns, ("query",), outcomes=False)

    def _empty(self, tower: Tower, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The id and the float matrix of n rows."""
        layout = self.schema.layout[tower]
        return np.full((n, layout.id_slots), PAD_ID, np.int32), np.zeros((n, layout.float_width), np.float32)

    def _fill(
        self, tower: Tower, columns: Mapping[str, Any], ids: np.ndarray, floats: np.ndarray, done: Collection[str]
    ) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Writes the features that are not done; of some after the other, names and bool `[F, n]`: where missing."""
        layout, hashed = self.schema.layout[tower], self._hashed[tower]
        together = max(1, _TOGETHER // max(1, len(ids)))
        for some in _groups(hashed.names, done, together):
            yield hashed.fill(columns, ids, some)
        for numbers in self._numbers[tower]:
            for some in _groups(numbers.names, done, together):
                yield numbers.fill(columns, floats, some)
        for name, first, last in layout.ids:
            if name not in hashed.names and name not in done:
                absent_n = self._fill_ids(self.schema.feature(name), column_of(columns, name), ids[:, first:last])
                yield (name,), absent_n[None]
        for name, first, last in layout.floats:
            feature = self.schema.feature(name)
            if feature.kind == "dense" and name not in done:
                yield (name,), fill_dense(feature, column_of(columns, name), floats[:, first:last])[None]

    def _take(self, tower: Tower, columns: Mapping[str, Any], ids: np.ndarray, floats: np.ndarray) -> dict[str, int]:
        """Writes the features whose columns are dictionaries; returns the rows in which each is missing."""
        missing: dict[str, int] = {}
        layout = self.schema.layout[tower]
        for out, places in ((ids, layout.ids), (floats, layout.floats)):
            for name, first, last in places:
                if (found := as_dictionary(columns.get(name))) is None:
                    continue
                dictionary, indices = found
                encode = partial(self._encode_alone, self.schema.feature(name), first, last)
                if values := self._dictionaries.values(name, dictionary, len(out), encode):
                    codes_n = codes_of(indices, len(dictionary))
                    out[:, first:last] = values.matrix.take(codes_n, axis=0)
                    missing[name] = int(values.absent.take(codes_n).sum()) if values.absent.any() else 0
        return missing

    def _encode_alone(self, feature: Feature, first: int, last: int, column: Any) -> tuple[np.ndarray, np.ndarray]:
        """What one feature of a tower is encoded to, `[n, last - first]`, and bool `[n]`, where it is missing."""
        ids, floats = self._empty(feature.tower, len(column))
        others = self._names[feature.tower] - {feature.name}
        ((_, absent_1n),) = self._fill(feature.tower, {feature.name: column}, ids, floats, others)
        return (ids if feature.is_ids else floats)[:, first:last].copy(), absent_1n[0]

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
        )

    def _default(self, feature: Feature) -> int:
        """The table row of a missing value."""
        if feature.default is None:
            return MISSING_ID
        table = self._tables[self.schema.table_owner(feature).name]
        return int(table.rows(read_ids(feature.name, [feature.default], feature.dtype))[0])

    def _fill_ids(self, feature: Feature, column: Any, out: np.ndarray) -> np.ndarray:
        """Writes the feature's slots `[n, slots]`; returns bool `[n]`, where it is missing."""
        table = self._tables[self.schema.table_owner(feature).name]
        default = self._defaults[feature.name]
        if feature.kind == "categorical":
            scalars = read_ids(feature.name, column, feature.dtype)
            out[:, 0] = np.where(scalars.valid, table.rows(scalars), default)
            return ~scalars.valid
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
        return lists.lengths == 0


def _groups(names: tuple[str, ...], done: Collection[str], size: int) -> Iterator[Some]:
    """Which of the names are left to do, so many at a time."""
    if not done:
        yield from (slice(first, first + size) for first in range(0, len(names), size))
        return
    left = np.array([i for i, name in enumerate(names) if name not in done], np.int64)
    yield from (left[first : first + size] for first in range(0, len(left), size))


def _rows_of(columns: Mapping[str, Any]) -> int:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise EncodeError(next(iter(sizes)), None, f"columns of different lengths: {sizes}")
    return next(iter(sizes.values()), 0)
