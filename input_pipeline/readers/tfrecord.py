"""TFRecord files of tf.train.Example, without TensorFlow: plain, gzip or zstd.

A record is its length (uint64), the masked CRC-32C of that, the bytes, the masked CRC-32C of those; little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from input_pipeline.readers.example import decode
from input_pipeline.readers.files import ReadError, Source
from input_pipeline.readers.rows import Errors, Types, tables_of
from input_pipeline.readers.text_format import TextFormat

_HEADER = struct.Struct("<QI")
_TOGETHER_BYTES, _TOGETHER_ROWS = 8 << 20, 4096  # whose checksums are computed at once
_MAX_RECORD = 1 << 30


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


_CRC_TABLE = _table()
_CRC_LIST = _CRC_TABLE.tolist()


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """CRC-32C (Castagnoli) of each record, uint32: all of them a byte at a time, the longest first."""
    lengths = np.array([len(r) for r in records], np.int64)
    order = np.argsort(-lengths, kind="stable")
    content = np.frombuffer(b"".join(records[i] for i in order), np.uint8)
    ordered = lengths[order]
    starts = np.cumsum(ordered) - ordered
    # How many records have a byte at each position.
    active = np.searchsorted(-ordered, -np.arange(int(lengths.max(initial=0))), side="left")
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for position, n in enumerate(active):
        some = crc[:n]
        crc[:n] = _CRC_TABLE[(some ^ content[starts[:n] + position]) & np.uint32(255)] ^ some >> np.uint32(8)
    out = np.empty_like(crc)
    out[order] = ~crc
    return out


def masked(crc: np.ndarray) -> np.ndarray:
    """As TFRecord stores it."""
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


def tables(source: Source, types: Types, errors: Errors, _text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows. A record whose checksum is wrong is a bad row; a wrong length ends the reading."""
    return tables_of(source.name, _rows(source, types, errors), types, errors)


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
        header = stream.read(_HEADER.size)
        if not header:
            return b""
        if len(header) == _HEADER.size:
            length, expected = _HEADER.unpack(header)
            if _masked_of(header[:8]) != expected or length > _MAX_RECORD:
                raise ReadError(f"{source.name}: row {number}: the checksum of the record's length is wrong")
            record = stream.read(length + 4)
            if len(record) == length + 4:
                return record
    raise ReadError(f"{source.name}: row {number}: the file ends within the record; it was cut short")


def _masked_of(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_LIST[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
