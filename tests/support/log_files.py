"""The rows of a table written in every format that we read; TFRecord and Example by the letter of their definition."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.parquet as pq


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=100)


def write_delimited(table: pa.Table, path: Path) -> None:
    """CSV or TSV, compressed as the name says; a list is a JSON array."""
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            texts = [None if v is None else json.dumps(v) for v in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(texts, pa.string()))
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(delimiter="\t" if ".tsv" in path.name else ","))
    write_bytes(path, sink.getvalue().to_pybytes())


def write_jsonl(table: pa.Table, path: Path) -> None:
    """Half of the nulls as null, half as no key."""
    lines = []
    for i, row in enumerate(table.to_pylist()):
        kept = {k: v for k, v in row.items() if v is not None or i % 2}
        lines.append(json.dumps(kept))
    write_bytes(path, "\n".join(lines).encode() + b"\n")


def write_arrow(table: pa.Table, path: Path) -> None:
    if path.suffix == ".feather":
        feather.write_feather(table, str(path), chunksize=100)
        return
    new = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


def write_tfrecord(table: pa.Table, path: Path) -> None:
    write_bytes(path, b"".join(framed(record) for record in examples(table)))


def write_array_record(table: pa.Table, path: Path) -> None:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    writer: Any = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in examples(table):
        writer.write(record)
    writer.close()


WRITERS = {
    "log.parquet": write_parquet, "log.csv": write_delimited, "log.csv.gz": write_delimited,
    "log.tsv.zst": write_delimited, "log.jsonl": write_jsonl, "log.jsonl.gz": write_jsonl,
    "log.ndjson.zst": write_jsonl, "file.arrow": write_arrow, "stream.arrow": write_arrow, "file.ipc": write_arrow,
    "stream.arrows": write_arrow, "log.feather": write_arrow, "log.tfrecord": write_tfrecord,
    "log.tfrecord-00000-of-00001.gz": write_tfrecord, "log.array_record": write_array_record,
}  # fmt: skip


def write_bytes(path: Path, content: bytes) -> None:
    """Compressed as the name says."""
    if path.suffix == ".zst":
        content = pa.Codec("zstd").compress(content, asbytes=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def examples(table: pa.Table) -> Iterator[bytes]:
    """Serialised tf.train.Examples; a null is no feature, or one of no kind."""
    for i, row in enumerate(table.to_pylist()):
        entries = b""
        for name, value in row.items():
            if value is None and i % 2:
                continue
            values = value if isinstance(value, list) else [value]
            type_ = table.schema.field(name).type
            kind = type_.value_type if pa.types.is_list(type_) else type_
            feature = b"" if value is None else _feature(values, kind)
            entries += _field(1, _field(1, name.encode()) + _field(2, feature))
        yield _field(1, entries)


def _feature(values: list[Any], kind: pa.DataType) -> bytes:
    if pa.types.is_string(kind):
        return _field(1, b"".join(_field(1, v.encode()) for v in values))
    if pa.types.is_floating(kind):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(3, b"".join(b"\x08" + _varint(v) for v in values))  # not packed, which is as valid


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def framed(record: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return length + _masked(length) + record + _masked(record)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """Bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
