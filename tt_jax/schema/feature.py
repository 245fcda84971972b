"""The parts of a schema: one feature, one task, and what each may say.

`tt_jax.schema` puts them together and is where everyone imports them from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

Kind = Literal["categorical", "bag", "sequence", "numeric", "dense"]
Tower = Literal["query", "ad"]
DType = Literal["string", "int"]
Transform = Literal["none", "log1p"]

TOWERS: tuple[Tower, ...] = ("query", "ad")
ID_KINDS = ("categorical", "bag", "sequence")
PAD_ID = -1  # an empty slot of a bag or a sequence: takes no part in pooling
MISSING_ID = 0  # the table row of a missing value: trained, so that it means something
UNKNOWN_ID = (
    1  # the table row of a value outside the vocabulary, or without a dynamic row (hashing knows no such value)
)
WAYS = 8  # rows that an id of a dynamic table may have: those of its bucket, see `tt_jax.models.dynamic`
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
      hash_size: rows of a hashed id table (rows 0 and 1 included, see `MISSING_ID`). Beside a vocabulary, those that
        the ids outside of it share by hash; 0 = all of these have the row of unknown values.
      vocabulary: ids with a row of their own, in the order of their rows.
      max_length: slots of a bag (its first ids are kept) or of a sequence (its last ids are kept).
      shares: name of a feature whose table, vocabulary and hash this one uses, e.g. a history of ad ids the ad id.
      transform: applied to a number before normalisation, `(transform(x) - mean) / std`, then clipped to +-`clip`.
      mean, std, clip: see `transform`.
      default: raw value taken for a missing one; None means the missing row (ids) or 0 after normalisation (numbers).
      indicator: append 1.0 where a `numeric` value is present and 0.0 where it is missing.
      min_count: has `tt-jax prepare` learn the vocabulary: the ids that occur at least so often in the training splits,
        those of the features that share the table counted too; 0 = it is not learned, or not cut by count.
      max_vocabulary: has it learned too, and is its largest size: the most frequent ids; 0 = not cut by size.
      dynamic_rows: rows for ids that are admitted while training, instead of hashing, a multiple of 8; an id without
        one has the row of unknown values.
      admit_after: occurrences after which an id is admitted to a dynamic table.
      evict_after: steps that a dynamic row must not have occurred for another id to take it; 0 = none is ever taken.
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
    min_count: int = 0
    max_vocabulary: int = 0
    dynamic_rows: int = 0
    admit_after: int = 2
    evict_after: int = 0

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
        """Rows of the feature's embedding table. Raises `SchemaError` while its vocabulary is to be learned."""
        if self.learns:
            raise SchemaError(f"feature {self.name!r}: its vocabulary is not learned yet; `tt-jax prepare` does that")
        return self.dynamic_rows + 2 if self.dynamic_rows else len(self.vocabulary) + (self.hash_size or 2)

    @property
    def learns(self) -> bool:
        """Whether its vocabulary is still to be learned from a log."""
        return bool(self.min_count or self.max_vocabulary)


@dataclass(frozen=True)
class Task:
    """One label to learn and to evaluate by.

    Attributes:
      name: of the task in metrics, and of its head in answers.
      label: label column, in [0, 1]; a null means that the row has no label for this task. In one's own logs also a
        comparison of a column with a value: `rating>=4` (`>=`, `<=`, `>`, `<`: a number), `event=buy` (`=`, `!=`: a
        number or text). It is 1 where it holds, 0 where it does not, null where the column is.
      head: name of the task whose probability learns this label too and is evaluated by it, as the click probability by
        a teacher's score; "" = a head of its own.
      kind: `hard` 0 or 1, an observed outcome; `soft` a probability, a teacher's score.
      mask: column, or comparison, that is 1 where the label counts (a conversion counts only where there was a click);
        "" = everywhere.
      weight: weight of the task in the loss.
      weight_column: column of per-row weights >= 0; "" = 1.
    """

    name: str
    label: str
    kind: Literal["hard", "soft"] = "hard"
    head: str = ""
    mask: str = ""
    weight: float = 1.0
    weight_column: str = ""


Fail = Callable[[str], NoReturn]


def check_task(t: Task, tasks: Iterable[Task], features: Iterable[str], fail: Fail) -> None:
    """Calls `fail` with what contradicts itself in a task, among the tasks and features (their names) of its schema."""
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
    """Calls `fail` with what contradicts itself in a feature, among those of its schema."""
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
