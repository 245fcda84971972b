"""Logs whose vocabularies are learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from input_pipeline.readers import Chunk
from tests.support import tiny
from tt_jax.schema import Schema

LEARNED = {"user": {"max_vocabulary": 7}, "ad_id": {"min_count": 4, "hash_size": 0}, "interests": {"min_count": 1}}


def learning(changes: dict[str, dict[str, Any]] = LEARNED) -> Schema:
    """The tiny schema with features that learn."""
    features = (
        dataclasses.replace(f, **({"vocabulary": (), **changes[f.name]} if f.name in changes else {}))
        for f in tiny.SCHEMA.features
    )
    return dataclasses.replace(tiny.SCHEMA, features=tuple(features))


def chunks(rows: int = 600, pieces: int = 1, reverse: bool = False) -> Iterator[Chunk]:
    """Three splits of different ids, in as many pieces each."""
    for seed, split in enumerate(("train", "eval", "train_candidates")):
        columns = tiny.columns(np.random.default_rng(seed), rows)
        columns["ad_id"] = (np.asarray(columns["ad_id"]) + 10_000 * seed).tolist()
        table = pa.table(columns).take(pa.array(np.arange(rows)[:: -1 if reverse else 1]))
        size = rows // pieces
        yield from (Chunk(split, "log", i * size, table.slice(i * size, size)) for i in range(pieces))
