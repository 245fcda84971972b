"""Vocabularies learned from a log: which ids get a row of their own, by how often they occur in the training splits.

This is a reading of the log of its own, before the one that encodes it. It streams; what it holds are the distinct ids
of each feature that learns, at most `MAX_DISTINCT`, and their exact counts. Counts do not depend on how the log is cut
into chunks, nor on the order of its rows, and ids of equal counts stand in their own order.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from input_pipeline.readers import Chunk
from tt_jax.features.columns import EncodeError, read_ids, read_lists
from tt_jax.schema import Feature, Schema, SchemaError

MAX_DISTINCT = 10_000_000  # about 1 GB of Python integers and counts; more of strings
TRAIN = "train"  # the split, or `train_...`
IdCounts = dict[str, Counter[str | int]]


def learns(schema: Schema) -> bool:
    """Whether a vocabulary of the schema is still to be learned."""
    return any(f.learns for f in schema.features)


def learn_vocabularies(schema: Schema, chunks: Iterable[Chunk], strict: bool = True) -> Schema:
    """The schema with the vocabularies that it says are to be learned: frequent ids first.

    Args:
      schema: `min_count` and `max_vocabulary` of its features say what a vocabulary is of.
      chunks: the log; only those of the splits `train` and `train_...` count.
      strict: raise where a column is not of ids; else its ids in that chunk do not count. Reading again tells why.

    Raises `SchemaError` for such a column, for more distinct ids than are held, and where no id is frequent enough.
    """
    return with_vocabularies(schema, [count_ids(schema, chunks, strict)])


def count_ids(schema: Schema, chunks: Iterable[Chunk], strict: bool = True) -> IdCounts:
    """Occurrences of ids in the training splits of a part of the log, by the feature that learns them."""
    owners = {f.name: Counter[str | int]() for f in schema.features if f.learns}
    counted = [(f, owners[schema.table_owner(f).name]) for f in schema.features
               if f.is_ids and schema.table_owner(f).name in owners]  # fmt: skip
    for chunk in chunks:
        if chunk.split != TRAIN and not chunk.split.startswith(f"{TRAIN}_"):
            continue
        for feature, counts in counted:
            try:
                _count(feature, chunk, counts, not schema.empty_is_missing)
            except EncodeError as e:
                if strict:
                    raise SchemaError(f"{chunk.file}: {e}") from e
            _require_bound(feature.name, counts)
    return owners


def with_vocabularies(schema: Schema, parts: Iterable[IdCounts]) -> Schema:
    """The schema with vocabularies of the counts of all parts. Raises `SchemaError` as `learn_vocabularies` does."""
    owners = {f.name: Counter[str | int]() for f in schema.features if f.learns}
    for part in parts:
        for name, counts in part.items():
            owners[name].update(counts)
            _require_bound(name, owners[name])
    return dataclasses.replace(
        schema, features=tuple(_learned(f, owners[f.name]) if f.learns else f for f in schema.features)
    )


def _require_bound(name: str, counts: Counter[str | int]) -> None:
    if len(counts) > MAX_DISTINCT:
        raise SchemaError(
            f"feature {name!r}: more than {MAX_DISTINCT:,} distinct ids to learn a vocabulary from; "
            "give it a hash_size or dynamic_rows instead"
        )


def take_vocabularies(schema: Schema, known: Schema) -> Schema:
    """The schema with the vocabularies that another one has learned: of tomorrow's log, for a run that goes on with it.

    Raises `SchemaError` naming the feature that learns here and has no vocabulary there.
    """
    of_name = {f.name: f.vocabulary for f in known.features}
    for feature in schema.features:
        if feature.learns and not of_name.get(feature.name):
            raise SchemaError(f"feature {feature.name!r}: is to learn a vocabulary, and has none in {known.name!r}")
    return dataclasses.replace(
        schema,
        empty_is_missing=known.empty_is_missing,
        features=tuple(
            dataclasses.replace(f, vocabulary=of_name[f.name], min_count=0, max_vocabulary=0) if f.learns else f
            for f in schema.features
        ),
    )


def _count(feature: Feature, chunk: Chunk, counts: Counter[str | int], empty_is_id: bool) -> None:
    if feature.name not in chunk.table.column_names:
        raise EncodeError(feature.name, None, "the column is missing")
    column: Any = chunk.table.column(feature.name)
    if feature.kind != "categorical":
        column = read_lists(feature.name, column).values
    ids = read_ids(feature.name, column, feature.dtype, empty_is_id)
    raw = ids.ints if ids.ints is not None else ids.codes
    assert raw is not None
    values, occurrences = np.unique(raw[ids.valid], return_counts=True)
    keys = values.tolist() if ids.strings is None else [ids.strings[code] for code in values]
    for value, n in zip(keys, occurrences.tolist(), strict=True):
        counts[value] += n


def _learned(feature: Feature, counts: Counter[str | int]) -> Feature:
    kept = [value for value, n in counts.items() if n >= feature.min_count]
    kept.sort(key=lambda value: (-counts[value], value))
    kept = kept[: feature.max_vocabulary or None]
    if not kept and not feature.hash_size:
        raise SchemaError(
            f"feature {feature.name!r}: no id to learn a vocabulary of; of {len(counts):,} in the training splits none "
            f"occurs {feature.min_count} times"
        )
    return dataclasses.replace(feature, vocabulary=tuple(kept), min_count=0, max_vocabulary=0)
