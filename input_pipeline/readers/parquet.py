"""Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline.sources.source import Source
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import Errors, Types

CHUNK_ROWS = 65_536


def tables(source: Source, _types: Types, _errors: Errors, _text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows, in chunks that a row group's end may cut short. Types are the file's own."""
    return _tables(source, as_dictionaries=False)


def dictionaries(source: Source, _types: Types, _errors: Errors, _text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The same, columns of strings as dictionaries."""
    return _tables(source, as_dictionaries=True)


def _tables(source: Source, as_dictionaries: bool) -> Iterator[tuple[int, pa.Table]]:
    first_row, kind = 0, "Parquet"
    # pre_buffer would hold a whole row group's bytes, and a row group can be the whole file.
    with source.seekable() as file:
        with source.named_errors(kind, 0):
            parquet = pq.ParquetFile(file, pre_buffer=False)
            if as_dictionaries:
                texts = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
                parquet = pq.ParquetFile(file, metadata=parquet.metadata, pre_buffer=False, read_dictionary=texts)
        with parquet:
            if not parquet.metadata.num_rows:
                yield 0, parquet.schema_arrow.empty_table()  # so that its columns are checked, and its split is known
            for group in range(parquet.num_row_groups):
                with source.named_errors(f"{kind}, row group {group},", first_row):
                    batches = parquet.iter_batches(CHUNK_ROWS, row_groups=[group])
                while True:
                    with source.named_errors(f"{kind}, row group {group},", first_row):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield first_row, pa.Table.from_batches([batch])
                    first_row += batch.num_rows
