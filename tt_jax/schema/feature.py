"""The parts of a schema: one feature, one task. `tt_jax.schema.validation` checks them.

`tt_jax.schema` puts them together and is where everyone imports them from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["categorical", "bag", "sequence", "numeric", "dense"]
Tower = Literal["query", "ad"]
DType = Literal["string", "int"]
Transform = Literal["none", "log1p"]

TOWERS: tuple[Tower, ...] = ("query", "ad")
ID_KINDS = ("categorical", "bag", "sequence")
PAD_ID = -1  # an empty slot of a bag or a sequence: takes no part in pooling
MISSING_ID = 0  # the table row of a missing value: trained, so that it means something
UNKNOWN_ID = 1  # the table row of a value outside the vocabulary, or of an id without a dynamic row; none if hashed
WAYS = 8  # rows that an id of a dynamic table may have: those of its bucket, see `tt_jax.models.dynamic`
# Rows are numbered in int32, and `training.optimizers` numbers the unused entries of a batch from the table's end on:
# this leaves it 2**27 numbers, more than a batch has ids.
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
