"""TFRecord files of tf.train.Example, without TensorFlow: plain, gzip or zstd.

A record is its length (uint64), the masked CRC-32C of that, the bytes, the masked CRC-32C of those; little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from input_pipeline.readers.example import decode
from input_pipeline.sources.crc32c import HEADER, crc32c, masked, masked_of
from input_pipeline.sources.source import ReadError, Source
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import Errors, Types
from input_pipeline.values.python_rows import tables_of

_TOGETHER_BYTES, _TOGETHER_ROWS = 8 << 20, 4096  # whose checksums are computed at once
_MAX_RECORD = 1 << 30


def tables(source: Source, types: Types, errors: Errors, text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows. A record whose checksum is wrong is a bad row; a wrong length ends the reading."""
    return tables_of(source.name, _rows(source, types, errors), types, errors, text)


def _rows(source: Source, types: Types, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for records, expected in _groups(source):
        for record, good in zip(records, masked(crc32c(records)) == expected, strict=True):
            try:
                if not good:
                    raise ValueError("the record's checksum is wrong")
                row = decode(record, types)
            except ValueError as e:
                errors.reject(source.name, number, str(e), record.hex())
            else:
                yield number, row
            number += 1


def _groups(source: Source) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Records in groups, and their checksums."""
    number = 0
    with source.open() as stream:
        records: list[bytes] = []
        sums: list[int] = []
        size = 0
        while record := _record(source, stream, number):
            records.append(record[:-4])
            sums.append(int.from_bytes(record[-4:], "little"))
            number, size = number + 1, size + len(record)
            if size >= _TOGETHER_BYTES or len(records) == _TOGETHER_ROWS:
                yield records, np.array(sums, np.uint32)
                records, sums, size = [], [], 0
        if records:
            yield records, np.array(sums, np.uint32)


def _record(source: Source, stream: pa.NativeFile, number: int) -> bytes:
    """The next record with its checksum; empty at the end."""
    with source.named_errors("TFRecord", number):
        header = stream.read(HEADER.size)
        if not header:
            return b""
        if len(header) == HEADER.size:
            length, expected = HEADER.unpack(header)
            if masked_of(header[:8]) != expected or length > _MAX_RECORD:
                raise ReadError(f"{source.name}: row {number}: the checksum of the record's length is wrong")
            record = stream.read(length + 4)
            if len(record) == length + 4:
                return record
    raise ReadError(f"{source.name}: row {number}: the file ends within the record; it was cut short")
