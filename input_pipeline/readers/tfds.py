"""TensorFlow Datasets by name, `tfds:name/config:split`, read without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from input_pipeline.readers.example import shaped
from input_pipeline.sources.source import ReadError
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import Errors, Types
from input_pipeline.values.python_rows import tables_of


def tables(source: str, types: Types, errors: Errors, text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a split. The data set must have been built, with `file_format="array_record"`."""
    return tables_of(source, _rows(source, types, errors), types, errors, text)


def _rows(source: str, types: Types, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix("tfds:").rpartition(":")
    if not name:
        raise ReadError(f"{source}: expected tfds:name/config:split")
    try:
        examples: Any = tfds.data_source(name, split=split)
    except Exception as e:  # each builder raises its own kinds
        raise ReadError(f"{source}: not readable as a TensorFlow data set: {str(e).splitlines()[0]}") from e
    for number in range(len(examples)):
        row = {key: _plain(value) for key, value in examples[number].items()}
        try:
            row = {k: shaped(k, v, types.get(k)) if isinstance(v, list) and k in types else v for k, v in row.items()}
        except ValueError as e:
            errors.reject(source, number, str(e), row)
        else:
            yield number, row


def _plain(value: Any) -> Any:
    """A TFDS value as Arrow takes it: bytes are text, arrays are lists. TFDS has no null: "" and NaN stand for it."""
    if isinstance(value, list):
        return [v.decode("utf-8") if isinstance(v, bytes) else v for v in value]
    if isinstance(value, bytes):
        return value.decode("utf-8") or None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value
