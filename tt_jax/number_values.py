"""Encode numbers: raw values to float32 columns. Letters in names: F features, n rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.columns import EncodeError, read_columns_of_numbers, read_lists, read_numbers, row_of_element
from tt_jax.id_values import Some, picked
from tt_jax.outcomes import column_of
from tt_jax.schema import Feature, Schema, Tower


@dataclass(frozen=True)
class Numbers:
    """Numeric features of the same transform, and where they stand in the float matrix."""

    features: tuple[Feature, ...]
    names: tuple[str, ...]
    columns_F: np.ndarray
    means_F1: np.ndarray
    stds_F1: np.ndarray
    clips_F1: np.ndarray
    defaults_F1: np.ndarray

    @staticmethod
    def of(schema: Schema, tower: Tower) -> Iterator[Numbers]:
        """Those of a tower."""
        by_transform: dict[Any, list[tuple[Feature, int]]] = {}
        for name, column, _ in schema.layout[tower].floats:
            if (feature := schema.feature(name)).kind == "numeric":
                by_transform.setdefault(feature.transform, []).append((feature, column))
        for found in by_transform.values():
            features, columns = zip(*found, strict=True)
            parameters = [(f.mean, f.std, f.clip, np.nan if f.default is None else float(f.default)) for f in features]
            names, of_each = tuple(f.name for f in features), np.array(parameters, np.float64)
            yield Numbers(features, names, np.array(columns), *of_each.T[:, :, None])

    def fill(self, columns: Mapping[str, Any], out: np.ndarray, some: Some) -> tuple[tuple[str, ...], np.ndarray]:
        """Writes some of the features' columns; returns their names and bool `[F, n]`, where each is missing."""
        features, names, at = picked(self.features, some), picked(self.names, some), self.columns_F[some]
        values_Fn = read_columns_of_numbers(names, [column_of(columns, name) for name in names])
        missing_Fn = np.isnan(values_Fn)
        values_Fn = np.where(missing_Fn, self.defaults_F1[some], values_Fn)
        scale = self.means_F1[some], self.stds_F1[some], self.clips_F1[some]
        out[:, at] = _normalise(values_Fn, features[0].transform, *scale).T
        for f, column, missing in zip(features, at, missing_Fn, strict=True):
            if f.indicator:
                out[:, column + 1] = ~missing
        return names, missing_Fn


def fill_dense(feature: Feature, column: Any, out: np.ndarray) -> np.ndarray:
    """Writes the feature's float columns `[n, width]`; returns bool `[n]`, where it is missing."""
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
