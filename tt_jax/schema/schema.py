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
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn, get_args

import numpy as np

from tt_jax.io.strict_json import ABSENT, dataclass_from_dict, nearest, parse_json
from tt_jax.schema.attribute import AdAttribute, RequestValue, check_attributes
from tt_jax.schema.feature import TOWERS, DType, Feature, SchemaError, Task, Tower
from tt_jax.schema.validation import check_feature, check_task


@dataclass(frozen=True)
class Schema:
    """What a row of the logs means. Raises `SchemaError` on construction if it contradicts itself.

    Attributes:
      name: of the data set.
      features: in the order of the encoded matrices, within each tower.
      tasks: in the order of the label matrix. Those with a head of their own are, in this order, the model's outputs.
      scenario: column that says which scenario a row belongs to.
      scenarios: its values, in the order of the scenario index.
      ad_id: column of the ad's id.
      request_id, user_id, time: columns, for evaluation; "" = the logs have none.
      ad_id_dtype: type of the ad's id, which the service answers with.
      slices: further columns to evaluate by.
      empty_is_missing: whether an empty text is a missing value, also in a list, unless a vocabulary names it; False of
        what was stored by version 0.1.0, in which it was an id like any other.
      attributes: of the ads, which decide whether an ad may serve, or what it is worth.
      request_values: numbers of a request that the utility may use.
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
    empty_is_missing: bool = field(default=True, metadata={ABSENT: False})
    attributes: tuple[AdAttribute, ...] = field(default=(), metadata={ABSENT: ()})
    request_values: tuple[RequestValue, ...] = field(default=(), metadata={ABSENT: ()})

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

    @cached_property
    def utility_names(self) -> tuple[str, ...]:
        """What the utility may use beside tasks and the bid: numbers of ads, then values of requests."""
        return (*(a.name for a in self.attributes if a.kind == "number"), *(v.name for v in self.request_values))

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Names of the tasks with a head of their own: the outputs H of a model, an index and a service, in order."""
        return tuple(t.name for t in self.tasks if not t.head)

    @cached_property
    def head_of_task(self) -> tuple[int, ...]:
        """For each task the index of its head in `heads`."""
        return tuple(self.heads.index(t.head or t.name) for t in self.tasks)

    def table_owner(self, feature: Feature) -> Feature:
        """The feature whose table this id feature looks up: itself, or the one it shares."""
        return self._by_name[feature.shares] if feature.shares else feature

    def has_empty_id(self, feature: Feature) -> bool:
        """Whether an empty text is an id of this feature, and not a missing value."""
        return not self.empty_is_missing or "" in self.table_owner(feature).vocabulary

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
        data = dataclasses.asdict(self)
        for feature in data["features"]:
            for name, default in _YOUNGER.items():
                if feature[name] == default:
                    del feature[name]
        if not self.empty_is_missing:
            del data["empty_is_missing"]
        for name in ("attributes", "request_values"):
            if not data[name]:
                del data[name]
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

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


RESERVED = ("bid", "eligible", "remove", "now")  # names that mean something in ads, their changes and requests

# Fields that came after schemas were stored: left out where they say nothing, so that those keep their fingerprints.
_YOUNGER = {
    name: getattr(Feature, name)
    for name in ("min_count", "max_vocabulary", "dynamic_rows", "admit_after", "evict_after")
}


def _check_schema(s: Schema) -> None:
    def fail(message: str) -> NoReturn:
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
        check_task(t, s.tasks, names, fail)
    for f in s.features:
        check_feature(f, s.features, fail)
    for tower in TOWERS:
        if not s.tower_features(tower):
            fail(f"the {tower} tower has no feature")
    check_attributes(s.attributes, s.request_values, (*RESERVED, *s.task_names, s.ad_id), fail)


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
