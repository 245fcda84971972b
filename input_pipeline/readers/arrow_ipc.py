"""Arrow IPC: the file format, which is Feather version 2, and the stream format; the content tells which."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from input_pipeline.sources.source import Source
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import Errors, Types

_MAGIC = b"ARROW1"


def tables(source: Source, _types: Types, _errors: Errors, _text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """A table a record batch. Types are the file's own."""
    with source.open() as stream:
        is_file = stream.read(len(_MAGIC)) == _MAGIC
    kind, first_row = f"an Arrow {'file' if is_file else 'stream'}", 0
    opened = source.seekable() if is_file else source.open()
    with opened as file:
        with source.named_errors(kind, 0):
            reader: Any = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else iter(reader)
        while True:
            with source.named_errors(kind, first_row):
                batch = next(batches, None)
            if batch is None:
                break
            yield first_row, pa.Table.from_batches([batch])
            first_row += batch.num_rows
        if not first_row:
            yield 0, reader.schema.empty_table()
