"""ArrayRecord files of tf.train.Example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from input_pipeline.readers.example import decode
from input_pipeline.sources.source import Source
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import Errors, Types
from input_pipeline.values.python_rows import tables_of

_TOGETHER = 1024  # records that are read at once


def tables(source: Source, types: Types, errors: Errors, text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows. A remote file is copied first: the library reads local ones."""
    return tables_of(source.name, _rows(source, types, errors), types, errors, text)


def _rows(source: Source, types: Types, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    kind = "ArrayRecord"
    with source.local() as path:
        with source.named_errors(kind, 0):
            reader: Any = array_record_module.ArrayRecordReader(path)
            rows = reader.num_records()
        for first in range(0, rows, _TOGETHER):
            with source.named_errors(kind, first):
                records = reader.read(first, min(rows, first + _TOGETHER))
            for number, record in enumerate(records, first):
                try:
                    row = decode(record, types)
                except ValueError as e:
                    errors.reject(source.name, number, str(e), record.hex())
                else:
                    yield number, row
        with source.named_errors(kind, rows):  # a file that was cut short has no records, and fails only here
            reader.close()
