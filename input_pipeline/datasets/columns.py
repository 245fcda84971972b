"""Arrow columns as TFDS features, and rows as its examples.

TFDS has no null: NaN, empty text and an empty sequence stand for it. An Example has no float64: all are float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from input_pipeline.readers import Chunk
from tt_jax.schema import Schema


def features(schema: pa.Schema, optional: Collection[str], docs: Schema) -> tfds.features.FeaturesDict:
    """A documented feature a column. `optional` names whole numbers that may be null: sequences of none or one."""
    described = {f.name: f"{f.tower} feature, {f.kind}" for f in docs.features}
    described |= {t.label: f"label of the task {t.name}" for t in docs.tasks}
    features = {}
    for field in schema:
        type_ = pa.list_(field.type) if field.name in optional else field.type
        features[field.name] = _documented(type_, described.get(field.name, "for evaluation, no feature"))
    return tfds.features.FeaturesDict(features)


def _documented(type_: Any, text: str) -> Any:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_string(type_):
        return tfds.features.Text(doc=text)
    if pa.types.is_fixed_size_list(type_):
        return tfds.features.Tensor(shape=(type_.list_size,), dtype=_dtype(type_.value_type), doc=text)
    if pa.types.is_list(type_):
        element = type_.value_type
        one = tfds.features.Text() if pa.types.is_string(element) else _dtype(element)
        return tfds.features.Sequence(one, doc=text)
    return tfds.features.Scalar(_dtype(type_), doc=text)


def _dtype(type_: pa.DataType) -> Any:
    return np.float32 if pa.types.is_floating(type_) else np.int64


def examples(chunks: Iterable[Chunk], split: str, optional: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered examples of the chunks of one split."""
    number = 0
    for chunk in chunks:
        if chunk.split != split:
            continue
        empty = {field.name: _empty(field.type) for field in chunk.table.schema}
        for row in chunk.table.to_pylist():
            for name in optional:
                row[name] = [] if row[name] is None else [row[name]]
            yield number, {name: empty[name] if value is None else value for name, value in row.items()}
            number += 1


def _empty(type_: pa.DataType) -> Any:
    if pa.types.is_list(type_):
        return []
    if pa.types.is_string(type_) or (pa.types.is_dictionary(type_) and pa.types.is_string(type_.value_type)):
        return ""
    return float("nan")
