"""Raw ids to rows of embedding tables: of one table, and of several tables at a time whose ids are all hashed.

Letters in names: F features, n rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.features.columns import Scalars, read_columns_of_ints, read_ids
from tt_jax.features.hashing import DYNAMIC_KEYS, hash_string, hashed_rows, table_seed
from tt_jax.features.int_lookup import IntLookup
from tt_jax.features.labels import column_of
from tt_jax.schema import UNKNOWN_ID, DType, Feature


class IdTable:
    """Raw ids -> rows of one embedding table, by vocabulary, by hash, or by both; of a dynamic table, to hashes of 31
    bits, which `tt_jax.models.dynamic` finds rows for. Raises `SchemaError` for a vocabulary that is to be learned."""

    def __init__(self, feature: Feature) -> None:
        _ = feature.rows  # raises
        self.known, self.seed = len(feature.vocabulary), table_seed(feature.name)
        self.size = np.uint64(DYNAMIC_KEYS if feature.dynamic_rows else feature.hash_size)  # 0: nothing is hashed
        self.only_hashed = not self.known
        if feature.dtype == "int":
            self.positions = IntLookup(np.array(feature.vocabulary, np.int64))
        else:
            self.index = {v: i + UNKNOWN_ID + 1 for i, v in enumerate(feature.vocabulary)}

    def rows(self, scalars: Scalars) -> np.ndarray:
        """int32 [n]; arbitrary where a value is not valid."""
        if scalars.ints is None and not scalars.strings:
            return np.zeros(len(scalars.valid), np.int32)
        if self.only_hashed:
            return hashed_rows(_hash_keys(scalars), self.seed, self.size)
        found = self._find(scalars)
        if not self.size:
            return found
        # The hashed rows stand behind those of the vocabulary.
        hashed = hashed_rows(_hash_keys(scalars), self.seed, self.size) + np.int32(self.known)
        return np.where(found == UNKNOWN_ID, hashed, found)

    def _find(self, scalars: Scalars) -> np.ndarray:
        """Rows in the vocabulary."""
        if scalars.ints is None:
            return np.array([self.index.get(v, UNKNOWN_ID) for v in scalars.strings or ()], np.int32)[scalars.codes]
        return self.positions.find(scalars.ints) + np.int32(UNKNOWN_ID + 1)  # of -1, UNKNOWN_ID


@dataclass(frozen=True)
class HashedIds:
    """Categorical features whose ids are hashed, and where their rows stand in the id matrix."""

    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    slots_F: np.ndarray
    seeds_F1: np.ndarray
    sizes_F1: np.ndarray
    defaults_F1: np.ndarray
    empty_is_id: bool

    def fill(self, columns: Mapping[str, Any], out: np.ndarray, some: slice) -> np.ndarray:
        """Writes some of the features' slots; returns where each is missing, bool `[F, n]`."""
        names = self.names[some]
        valid_Fn, keys_Fn = self._read([column_of(columns, name) for name in names], some)
        rows_Fn = hashed_rows(keys_Fn, self.seeds_F1[some], self.sizes_F1[some])
        out[:, self.slots_F[some]] = np.where(valid_Fn, rows_Fn, self.defaults_F1[some]).T
        return ~valid_Fn

    def _read(self, columns: list[Any], some: slice) -> tuple[np.ndarray, np.ndarray]:
        """Where there are values, and what is hashed of each, uint64 `[F, n]`."""
        if "string" not in self.dtypes[some]:
            valid_Fn, ints_Fn = read_columns_of_ints(self.names[some], columns)
            return valid_Fn, ints_Fn.view(np.uint64)
        named = zip(self.names[some], columns, self.dtypes[some], strict=True)
        scalars = [read_ids(*column, self.empty_is_id) for column in named]
        return np.stack([s.valid for s in scalars]), np.stack([_hash_keys(s) for s in scalars])


def _hash_keys(scalars: Scalars) -> np.ndarray:
    """uint64 [n]: what is hashed of each id; arbitrary where a value is not valid."""
    if scalars.ints is not None:
        return scalars.ints.view(np.uint64)
    strings = scalars.strings or [""]
    return np.fromiter(map(hash_string, strings), np.uint64, len(strings))[scalars.codes]
