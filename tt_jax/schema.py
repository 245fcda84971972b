"""The schema: names, kinds, towers, sizes, tasks and scenarios. The only home of these facts.

A `Schema` says what a row of an ad log means. Everything else (encoder, model, index, service) is derived from it, so a
column is described once. It is a tree of frozen dataclasses that validates itself on construction and round-trips
through JSON.

The encoded layout of a row is fixed here too (see `Layout`): one int32 id matrix and one float32 matrix per tower, the
same in a prepared block, a training batch, an encoded request and the ad corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from tt_jax.strict_json import dataclass_from_dict, nearest, parse_json

Kind = Literal["categorical", "bag", "sequence", "numeric", "dense"]
Tower = Literal["query", "ad"]
DType = Literal["string", "int"]
Transform = Literal["none", "log1p"]

TOWERS: tuple[Tower, ...] = ("query", "ad")
ID_KINDS = ("categorical", "bag", "sequence")
PAD_ID = -1  # an empty slot of a bag or a sequence: takes no part in pooling
MISSING_ID = 0  # the table row of a missing value: trained, so that it means something
UNKNOWN_ID = 1  # the table row of a value outside the vocabulary (hashed features have no such value)
# Rows are numbered in int32, and `training.sparse` numbers the unused entries of a batch from the table's end on: this
# leaves it 2**27 numbers, more than a batch has ids.
MAX_TABLE_ROWS = 2**31 - 2**27


class SchemaError(ValueError):
    """A schema, or data that does not fit its schema. The message names the culprit and what was expected."""


@dataclass(frozen=True)
class Feature:
    """One input column of one tower.

    Attributes:
      name: column name in the logs and key in a request.
      kind: `categorical` one id; `bag` an unordered list of ids; `sequence` a list of ids, oldest first; `numeric` one
        number; `dense` a vector of `dim` numbers, an embedding made elsewhere.
      tower: `query` (user and request context) or `ad`.
      dtype: type of the raw ids, `string` or `int`; unused for `numeric` and `dense`.
      dim: embedding width of an id feature, length of a `dense` vector; unused for `numeric`.
      hash_size: rows of a hashed id table (rows 0 and 1 included, see `MISSING_ID`); 0 with a vocabulary.
      vocabulary: the exact ids, instead of hashing.
      max_length: slots of a bag (its first ids are kept) or of a sequence (its last ids are kept).
      shares: name of a feature whose table, vocabulary and hash this one uses, e.g. a history of ad ids the ad id.
      transform: applied to a number before normalisation, `(transform(x) - mean) / std`, then clipped to +-`clip`.
      mean, std, clip: see `transform`.
      default: raw value taken for a missing one; None means the missing row (ids) or 0 after normalisation (numbers).
      indicator: append 1.0 where a `numeric` value is present and 0.0 where it is missing.
    """

    name: str
    kind: Kind
    tower: Tower
    dtype: DType = "string"
    dim: int = 16
    hash_size: int = 0
    vocabulary: tuple[str | int, ...] = ()
    max_length: int = 1
    shares: str = ""
    transform: Transform = "none"
    mean: float = 0.0
    std: float = 1.0
    clip: float = 10.0
    default: str | int | float | None = None
    indicator: bool = False

    @property
    def is_ids(self) -> bool:
        """Whether the feature is looked up in an embedding table."""
        return self.kind in ID_KINDS

    @property
    def slots(self) -> int:
        """Columns in the id matrix: 1, or `max_length` for bags and sequences, 0 for numbers."""
        return 0 if not self.is_ids else 1 if self.kind == "categorical" else self.max_length

    @property
    def width(self) -> int:
        """Columns in the float matrix."""
        return 0 if self.is_ids else self.dim if self.kind == "dense" else 1 + self.indicator

    @property
    def rows(self) -> int:
        """Rows of the feature's embedding table."""
        return len(self.vocabulary) + 2 if self.vocabulary else self.hash_size


@dataclass(frozen=True)
class Task:
    """One thing to predict.

    Attributes:
      name: name of the probability in metrics and answers.
      label: label column, in [0, 1]; a null means that the row has no label for this task.
      kind: `hard` 0 or 1, an observed outcome; `soft` a probability, a teacher's score.
      mask: column that is 1 where the label counts (a conversion counts only where there was a click); "" = everywhere.
      weight: weight of the task in the loss.
      weight_column: column of per-row weights >= 0; "" = 1.
    """

    name: str
    label: str
    kind: Literal["hard", "soft"] = "hard"
    mask: str = ""
    weight: float = 1.0
    weight_column: str = ""


@dataclass(frozen=True)
class Schema:
    """What a row of the logs means. Raises `SchemaError` on construction if it contradicts itself.

    Attributes:
      name: of the data set.
      features: in the order of the encoded matrices, within each tower.
      tasks: in the order of the label matrix and of the model's outputs.
      scenario: column that says which scenario a row belongs to.
      scenarios: its values, in the order of the scenario index.
      request_id, user_id, ad_id, time: columns; "" = the logs have none. `ad_id` is required.
      ad_id_dtype: type of the ad's id, which the service answers with.
      slices: further columns to evaluate by.
    """

    name: str
    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    scenario: str
    scenarios: tuple[str, ...]
    ad_id: str
    ad_id_dtype: DType = "int"
    request_id: str = ""
    user_id: str = ""
    time: str = ""
    slices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_schema(self)

    def feature(self, name: str) -> Feature:
        """The feature of that name."""
        found = self._by_name.get(name)
        if found is None:
            raise SchemaError(f"unknown feature {name!r}{nearest(name, self._by_name)}")
        return found

    @cached_property
    def _by_name(self) -> dict[str, Feature]:
        return {f.name: f for f in self.features}

    def tower_features(self, tower: Tower) -> tuple[Feature, ...]:
        """The features of one tower, in schema order."""
        return tuple(f for f in self.features if f.tower == tower)

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(t.name for t in self.tasks)

    def table_owner(self, feature: Feature) -> Feature:
        """The feature whose table this id feature looks up: itself, or the one it shares."""
        return self._by_name[feature.shares] if feature.shares else feature

    @cached_property
    def key_columns(self) -> tuple[str, ...]:
        """Columns of the int64 `keys` matrix: identities and slices, kept beside the features for evaluation."""
        named = (self.request_id, self.user_id, self.ad_id, self.time, *self.slices)
        return tuple(dict.fromkeys(c for c in named if c))

    @cached_property
    def layout(self) -> dict[Tower, Layout]:
        """The encoded layout of each tower."""
        return {tower: Layout.of(self, tower) for tower in TOWERS}

    def to_json(self) -> str:
        """Canonical JSON text: the same schema gives the same bytes."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> Schema:
        """The schema of `to_json`. Raises `SchemaError` naming any unknown, missing or mistyped key."""
        return dataclass_from_dict(Schema, parse_json(text, "schema", SchemaError), "schema", SchemaError)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """Where each feature of one tower stands in the encoded matrices.

    Attributes:
      id_slots: columns of the int32 id matrix `[rows, id_slots]`.
      float_width: columns of the float32 matrix `[rows, float_width]`.
      ids: `(feature name, first column, one past the last)` of the id features, in schema order.
      floats: the same for the float matrix.
    """

    id_slots: int
    float_width: int
    ids: tuple[tuple[str, int, int], ...]
    floats: tuple[tuple[str, int, int], ...]

    @staticmethod
    def of(schema: Schema, tower: Tower) -> Layout:
        """The layout of one tower of a schema."""
        ids, floats, slot, column = [], [], 0, 0
        for f in schema.tower_features(tower):
            if f.is_ids:
                ids.append((f.name, slot, slot + f.slots))
                slot += f.slots
            else:
                floats.append((f.name, column, column + f.width))
                column += f.width
        return Layout(slot, column, tuple(ids), tuple(floats))


def _check_schema(s: Schema) -> None:
    def fail(message: str) -> None:
        raise SchemaError(f"schema {s.name!r}: {message}")

    names = [f.name for f in s.features]
    for kind, found in (("feature", names), ("task", s.task_names), ("scenario", s.scenarios)):
        for n in found:
            if not n:
                fail(f"a {kind} has an empty name")
            if list(found).count(n) > 1:
                fail(f"duplicate {kind} {n!r}")
    if not s.tasks:
        fail("no task")
    if not s.scenario or not s.scenarios:
        fail("a scenario column and at least one scenario value are required (one constant value will do)")
    if not s.ad_id:
        fail("ad_id, the column of the ad's id, is required")
    if s.ad_id_dtype not in get_args(DType):
        fail(f"ad_id_dtype {s.ad_id_dtype!r} is none of {', '.join(get_args(DType))}")
    for t in s.tasks:
        _check_task(s, t, fail)
    for f in s.features:
        _check_feature(s, f, fail)
    for tower in TOWERS:
        if not s.tower_features(tower):
            fail(f"the {tower} tower has no feature")


def _check_task(s: Schema, t: Task, fail: Any) -> None:
    if not t.label:
        fail(f"task {t.name!r} has no label column")
    if t.kind not in ("hard", "soft"):
        fail(f"task {t.name!r}: kind {t.kind!r} is neither 'hard' nor 'soft'")
    if not (math.isfinite(t.weight) and t.weight >= 0):
        fail(f"task {t.name!r}: weight {t.weight} is not a number >= 0")
    for column, role in ((t.label, "label"), (t.mask, "mask"), (t.weight_column, "weight_column")):
        if column and column in {f.name for f in s.features}:
            fail(f"the {role} {column!r} of task {t.name!r} is also a feature: the model would see the answer")


def _check_feature(s: Schema, f: Feature, fail: Any) -> None:
    for value, valid, what in (
        (f.kind, get_args(Kind), "kind"),
        (f.tower, TOWERS, "tower"),
        (f.dtype, get_args(DType), "dtype"),
        (f.transform, get_args(Transform), "transform"),
    ):
        if value not in valid:
            fail(f"feature {f.name!r}: {what} {value!r} is none of {', '.join(valid)}")
    if f.is_ids:
        _check_id_feature(s, f, fail)
    elif f.hash_size or f.vocabulary or f.shares:
        fail(f"feature {f.name!r}: hash_size, vocabulary and shares are for id features, not {f.kind!r}")
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


def _check_id_feature(s: Schema, f: Feature, fail: Any) -> None:
    if f.slots < 1:
        fail(f"feature {f.name!r}: max_length {f.max_length} is not >= 1")
    if f.default is not None and not _is_id(f.default, f.dtype):
        fail(f"feature {f.name!r}: default {f.default!r} is not of dtype {f.dtype!r}")
    if f.shares:
        owner = next((o for o in s.features if o.name == f.shares), None)
        if owner is None or not owner.is_ids or owner.shares:
            fail(f"feature {f.name!r} shares {f.shares!r}, which is not an id feature with a table of its own")
        elif (owner.dim, owner.dtype) != (f.dim, f.dtype):
            fail(f"feature {f.name!r} shares the table of {f.shares!r}, so dim and dtype must be equal")
        if f.hash_size or f.vocabulary:
            fail(f"feature {f.name!r} shares a table, so it has no hash_size and no vocabulary of its own")
        return
    if bool(f.hash_size) == bool(f.vocabulary):
        fail(f"feature {f.name!r}: give either a hash_size or a vocabulary")
    if f.hash_size and not 3 <= f.hash_size <= MAX_TABLE_ROWS:
        fail(f"feature {f.name!r}: hash_size {f.hash_size} is not within 3..{MAX_TABLE_ROWS}")
    for v in f.vocabulary:
        if not _is_id(v, f.dtype):
            fail(f"feature {f.name!r}: vocabulary value {v!r} is not of dtype {f.dtype!r}")
    if len(set(f.vocabulary)) != len(f.vocabulary):
        fail(f"feature {f.name!r}: the vocabulary has duplicates")


def _is_id(value: Any, dtype: DType) -> bool:
    return type(value) is str if dtype == "string" else type(value) is int and -(2**63) <= value < 2**63


# The arrays of one encoded row set, in the order they are stored. `[n, ...]` with n rows.
#   query_ids int32 [n, Sq]   ad_ids int32 [n, Sa]    local table rows, PAD_ID where a slot is empty
#   query_floats f32 [n, Fq]  ad_floats f32 [n, Fa]
#   labels f32 [n, T] (NaN = no label)                weights f32 [n, T]
#   scenario int32 [n, 1], index into Schema.scenarios  keys int64 [n, len(key_columns)], see Schema.key_columns
def array_specs(schema: Schema) -> dict[str, tuple[np.dtype, int]]:
    """Name -> (dtype, columns) of every array of an encoded block, all of them matrices."""
    query, ad, tasks = schema.layout["query"], schema.layout["ad"], len(schema.tasks)
    return {
        "query_ids": (np.dtype(np.int32), query.id_slots),
        "ad_ids": (np.dtype(np.int32), ad.id_slots),
        "query_floats": (np.dtype(np.float32), query.float_width),
        "ad_floats": (np.dtype(np.float32), ad.float_width),
        "labels": (np.dtype(np.float32), tasks),
        "weights": (np.dtype(np.float32), tasks),
        "scenario": (np.dtype(np.int32), 1),
        "keys": (np.dtype(np.int64), len(schema.key_columns)),
    }
