"""The checks of a schema's parts: what a feature or a task must not say. A schema makes them on construction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, get_args

from tt_jax.schema.feature import MAX_TABLE_ROWS, TOWERS, WAYS, DType, Feature, Kind, Task, Transform

Fail = Callable[[str], NoReturn]


def check_task(t: Task, tasks: Iterable[Task], features: Iterable[str], fail: Fail) -> None:
    """Calls `fail` with the first contradiction in a task. `tasks`, `features`: of its schema, features by name."""
    if not t.label:
        fail(f"task {t.name!r} has no label column")
    if t.kind not in ("hard", "soft"):
        fail(f"task {t.name!r}: kind {t.kind!r} is neither 'hard' nor 'soft'")
    if t.head and t.head not in (o.name for o in tasks if not o.head):
        heads = ", ".join(o.name for o in tasks if not o.head)
        fail(f"task {t.name!r}: head {t.head!r} is no task with a head of its own, which are: {heads or 'none'}")
    if not (math.isfinite(t.weight) and t.weight >= 0):
        fail(f"task {t.name!r}: weight {t.weight} is not a number >= 0")
    for column, role in ((t.label, "label"), (t.mask, "mask"), (t.weight_column, "weight_column")):
        if column and column in features:
            fail(f"the {role} {column!r} of task {t.name!r} is also a feature: the model would see the answer")


def check_feature(f: Feature, features: Iterable[Feature], fail: Fail) -> None:
    """Calls `fail` with the first contradiction in a feature. `features`: all of its schema."""
    for value, valid, what in (
        (f.kind, get_args(Kind), "kind"),
        (f.tower, TOWERS, "tower"),
        (f.dtype, get_args(DType), "dtype"),
        (f.transform, get_args(Transform), "transform"),
    ):
        if value not in valid:
            fail(f"feature {f.name!r}: {what} {value!r} is none of {', '.join(valid)}")
    if f.is_ids:
        _check_id_feature(f, features, fail)
    elif f.hash_size or f.vocabulary or f.shares or f.learns or f.dynamic_rows:
        fail(f"feature {f.name!r}: hash_size, vocabulary, dynamic_rows and shares are for id features, not {f.kind!r}")
    if f.kind != "numeric" and f.indicator:
        fail(f"feature {f.name!r}: indicator is for numeric features, not {f.kind!r}")
    if f.kind != "numeric" and f.dim < 1:
        fail(f"feature {f.name!r}: dim {f.dim} is not >= 1")
    if not f.is_ids:
        if not (all(map(math.isfinite, (f.mean, f.std, f.clip))) and f.std > 0 and f.clip > 0):
            fail(f"feature {f.name!r}: needs a finite mean, std > 0 and clip > 0, got {f.mean}, {f.std}, {f.clip}")
        is_number = type(f.default) in (int, float) and math.isfinite(f.default)  # pyright: ignore[reportArgumentType]
        if f.default is not None and (f.kind == "dense" or not is_number):
            fail(f"feature {f.name!r}: a {f.kind} feature cannot have the default {f.default!r}")


def _check_id_feature(f: Feature, features: Iterable[Feature], fail: Fail) -> None:
    if f.slots < 1:
        fail(f"feature {f.name!r}: max_length {f.max_length} is not >= 1")
    if f.default is not None and not _is_id(f.default, f.dtype):
        fail(f"feature {f.name!r}: default {f.default!r} is not of dtype {f.dtype!r}")
    if f.shares:
        owner = next((o for o in features if o.name == f.shares), None)
        if owner is None or not owner.is_ids or owner.shares:
            fail(f"feature {f.name!r} shares {f.shares!r}, which is not an id feature with a table of its own")
        elif (owner.dim, owner.dtype) != (f.dim, f.dtype):
            fail(f"feature {f.name!r} shares the table of {f.shares!r}, so dim and dtype must be equal")
        if f.hash_size or f.vocabulary or f.learns or f.dynamic_rows:
            fail(f"feature {f.name!r} shares a table, so it has no hash_size, vocabulary or dynamic_rows of its own")
        return
    if bool(f.dynamic_rows) == bool(f.hash_size or f.vocabulary or f.learns):
        fail(f"feature {f.name!r}: give a hash_size, a vocabulary or both, or else dynamic_rows")
    if f.vocabulary and f.learns:
        fail(f"feature {f.name!r}: give a vocabulary, or min_count or max_vocabulary to have it learned")
    for name, value in (
        ("min_count", f.min_count),
        ("max_vocabulary", f.max_vocabulary),
        ("evict_after", f.evict_after),
    ):
        if value < 0:
            fail(f"feature {f.name!r}: {name} {value} is not >= 0")
    _check_dynamic(f, fail)
    if f.hash_size and not 3 <= f.hash_size <= MAX_TABLE_ROWS:
        fail(f"feature {f.name!r}: hash_size {f.hash_size} is not within 3..{MAX_TABLE_ROWS}")
    for v in f.vocabulary:
        if not _is_id(v, f.dtype):
            fail(f"feature {f.name!r}: vocabulary value {v!r} is not of dtype {f.dtype!r}")
    if len(set(f.vocabulary)) != len(f.vocabulary):
        fail(f"feature {f.name!r}: the vocabulary has duplicates")


def _check_dynamic(f: Feature, fail: Fail) -> None:
    if f.dynamic_rows % WAYS or not 0 <= f.dynamic_rows <= MAX_TABLE_ROWS:
        fail(f"feature {f.name!r}: dynamic_rows {f.dynamic_rows} is no multiple of {WAYS} within 0..{MAX_TABLE_ROWS}")
    if f.admit_after < 1:
        fail(f"feature {f.name!r}: admit_after {f.admit_after} is not >= 1")
    if not f.dynamic_rows and (f.admit_after, f.evict_after) != (Feature.admit_after, Feature.evict_after):
        fail(f"feature {f.name!r}: admit_after and evict_after are of dynamic_rows, which it does not have")


def _is_id(value: Any, dtype: DType) -> bool:
    return type(value) is str if dtype == "string" else type(value) is int and -(2**63) <= value < 2**63
