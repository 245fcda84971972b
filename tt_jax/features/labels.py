"""Encode what a row was logged with beside its features: labels, weights, scenario, keys. Not for requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_jax.features.columns import EncodeError, is_arrow, looks_int, nulls, read_ids, read_numbers
from tt_jax.features.hashing import hash_string
from tt_jax.io.strict_json import nearest
from tt_jax.schema import Schema, Task


def encode_outcomes(schema: Schema, columns: Mapping[str, Any], n: int) -> dict[str, np.ndarray]:
    """Labels, weights, scenario and keys of n rows. Raises `EncodeError`."""
    tasks = schema.tasks
    labels, weights = np.empty((n, len(tasks)), np.float32), np.ones((n, len(tasks)), np.float32)
    for t, task in enumerate(tasks):
        labels[:, t] = _labels(task, columns)
        if task.weight_column:
            weights[:, t] = _weights(task.weight_column, columns)
    keys = [_keys(name, column_of(columns, name), not schema.empty_is_missing) for name in schema.key_columns]
    return {
        "labels": labels,
        "weights": weights,
        "scenario": _scenarios(schema, column_of(columns, schema.scenario))[:, None],
        "keys": np.stack(keys, 1),
    }


def _scenarios(schema: Schema, column: Any) -> np.ndarray:
    name = schema.scenario
    is_int = looks_int(column)
    scalars = read_ids(name, column, "int" if is_int else "string", not schema.empty_is_missing)
    if not scalars.valid.all():
        raise EncodeError(name, int(np.argmin(scalars.valid)), "the scenario is missing")
    if is_int:
        values, codes = np.unique(scalars.ints, return_inverse=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
        names = [str(v) for v in values]
    else:
        names, codes = scalars.strings or [], scalars.codes
    index_of = {scenario: i for i, scenario in enumerate(schema.scenarios)}
    index = np.array([index_of.get(v, -1) for v in names], np.int32)
    found = index[codes] if len(names) else np.zeros(0, np.int32)
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        expected = ", ".join(schema.scenarios)
        raise EncodeError(name, row, f"unknown scenario {names[codes[row]]!r}, expected one of {expected}")  # pyright: ignore[reportOptionalSubscript]
    return found


def _labels(task: Task, columns: Mapping[str, Any]) -> np.ndarray:
    """float64 [n]; NaN where the row has no label (a null) or its mask is not 1."""
    column = column_of(columns, task.label)
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
    mask = read_numbers(task.mask, column_of(columns, task.mask))
    wrong = ~np.isnan(mask) & (mask != 0) & (mask != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EncodeError(task.mask, row, f"expected a mask of 0 or 1, got {mask[row]}")
    return np.where(mask == 1, values, np.nan)


def _weights(name: str, columns: Mapping[str, Any]) -> np.ndarray:
    values = read_numbers(name, column_of(columns, name))
    bad = ~((values >= 0) & (values <= np.finfo(np.float32).max))  # catches NaN too
    if bad.any():
        row = int(np.argmax(bad))
        raise EncodeError(name, row, f"expected a float32 weight >= 0, got {values[row]}")
    return values


def _keys(name: str, column: Any, empty_is_id: bool) -> np.ndarray:
    """int64 [n]: integers and times as they are, strings as their hash, -1 where missing."""
    if is_arrow(column) and str(column.type).startswith(("timestamp", "date64")):
        column = column.cast("int64")
    scalars = read_ids(name, column, "int" if looks_int(column) else "string", empty_is_id)
    if scalars.ints is not None:
        values = scalars.ints
    else:
        distinct = np.fromiter(map(hash_string, scalars.strings or [""]), np.uint64).view(np.int64)
        values = distinct[scalars.codes]
    return np.where(scalars.valid, values, -1)


def column_of(columns: Mapping[str, Any], name: str) -> Any:
    """The column of that name. Raises `EncodeError` if there is none."""
    if name in columns:
        return columns[name]
    raise EncodeError(name, None, f"the column is missing{nearest(name, map(str, columns))}")
