"""Raw logs to a prepared set: encoded, partitioned by split and scenario, stored as blocks, counted in a manifest.

It streams: at any time a few chunks of the logs, one unfinished block per split and scenario and two finished ones are
in memory. Two threads encode and one writes, while the calling one reads the next chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from input_pipeline.blocks.manifest import ADS, Manifest
from input_pipeline.blocks.samples import Samples
from input_pipeline.prepare.key_types import KeyTypes
from input_pipeline.prepare.quarantine import Quarantine, encode_good
from input_pipeline.prepare.threads import ordered_map
from input_pipeline.prepare.writer import PreparedWriter
from input_pipeline.readers import Chunk
from tt_jax.features.columns import decoded, one_array
from tt_jax.features.encoder import Encoded, EncodeError, Encoder
from tt_jax.io.progress import Progress
from tt_jax.io.publish import published_directory, write_json
from tt_jax.schema import Schema, SchemaError

BLOCK_ROWS = 16_384
_THREADS = 2  # that encode; each has a chunk in memory
_AD_ROWS = 131_072  # of a row group of the corpus: what one worker of `tt-jax index` embeds at a time


def prepare(
    schema: Schema,
    chunks: Iterable[Chunk],
    out: str | Path,
    block_rows: int = BLOCK_ROWS,
    ads: pa.Table | None = None,
    documents: Mapping[str, Any] | None = None,
    quarantine: Quarantine | None = None,
) -> Manifest:
    """Encodes the chunks and writes a prepared set to `out`, which appears whole or not at all.

    Args:
      schema: of the logs.
      chunks: their rows; the order within a split and scenario is kept.
      out: directory to create.
      block_rows: rows of a block, the unit of reading and of the global shuffle; 8 to 64 thousand.
      ads: the ad corpus, stored beside the blocks as `ads.parquet` for `tt-jax index`.
      documents: by file name what else is stored beside them, as JSON.
      quarantine: what keeps the bad rows; without, the first one ends the run.

    Raises:
      SchemaError: a row does not fit the schema; the message names file, column and row.
      PublishError: `out` exists, or another run is writing it.
    """
    with published_directory(out) as folder:
        if quarantine is not None:
            quarantine.write_to(folder)
        writer = PreparedWriter(folder, schema, block_rows)
        samples = Samples(schema)
        with Progress("prepare", "rows") as progress:
            counted = progress.track(chunks, lambda chunk: chunk.table.num_rows)
            write_chunks(writer, schema, counted, samples, KeyTypes(schema), quarantine, _THREADS)
        write_beside(folder, samples, ads, documents)
        return writer.finish(0 if quarantine is None else quarantine.rejected)


def write_chunks(
    writer: PreparedWriter,
    schema: Schema,
    chunks: Iterable[Chunk],
    samples: Samples,
    keys: KeyTypes,
    quarantine: Quarantine | None,
    threads: int = 1,
) -> None:
    """Encodes chunks into a writer, which it closes. `threads`: that encode, while this one reads and writes; with a
    quarantine one thread does all, so that bad rows are reported in the order of reading."""
    encode = partial(_encode_chunk, Encoder(schema), quarantine)
    try:
        for chunk, parts in ordered_map(encode, _checked(chunks, keys), threads if quarantine is None else 0):
            writer.declare(chunk.split)
            for scenario, table, encoded in parts:
                writer.add(chunk.split, scenario, encoded.arrays, encoded.missing)
                samples.add(scenario, table)
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def write_beside(folder: Path, samples: Samples, ads: pa.Table | None, documents: Mapping[str, Any] | None) -> None:
    """Writes what a set has beside its blocks."""
    samples.write(folder)
    if ads is not None:
        pq.write_table(ads, folder / ADS, compression="lz4", row_group_size=_AD_ROWS)
    for name, content in (documents or {}).items():
        write_json(folder / name, content)


def _checked(chunks: Iterable[Chunk], keys: KeyTypes) -> Iterator[Chunk]:
    for chunk in chunks:
        keys.check(chunk)
        yield chunk


def _encode_chunk(
    encoder: Encoder, quarantine: Quarantine | None, chunk: Chunk
) -> tuple[Chunk, list[tuple[str, pa.Table, Encoded]]]:
    """Scenario by scenario, since what is missing is counted for each."""
    parts = []
    for rows in _rows_by_scenario(chunk.table, encoder.schema.scenario):
        rows = np.arange(chunk.table.num_rows) if rows is None else rows
        table = chunk.table if len(rows) == chunk.table.num_rows else chunk.table.take(pa.array(rows))
        if quarantine is None:
            encoded = _encode(encoder, table, rows, chunk)
        else:
            numbers = np.array([chunk.row_number(int(i)) for i in rows])
            table, encoded = encode_good(encoder, table, numbers, chunk.file, quarantine)
        if table.num_rows:
            scenario = encoder.schema.scenarios[int(encoded.arrays["scenario"][0, 0])]
            parts.append((scenario, table, encoded))
    return chunk, parts


def _encode(encoder: Encoder, table: pa.Table, rows: np.ndarray, chunk: Chunk) -> Encoded:
    try:
        return encoder.encode({name: table.column(name) for name in table.column_names})
    except EncodeError as e:
        row = None if e.row is None else chunk.row_number(int(rows[e.row]))
        raise SchemaError(f"{chunk.file}: {EncodeError(e.column, row, _reason(e, chunk))}") from e


def _reason(e: EncodeError, chunk: Chunk) -> str:
    """Where a whole column is wrong, the first value tells more than its type."""
    if e.row is not None or e.column not in chunk.table.column_names or not chunk.table.num_rows:
        return e.reason
    return f"{e.reason}, as {chunk.table.column(e.column)[0].as_py()!r} in row {chunk.row_number(0)}"


def _rows_by_scenario(table: pa.Table, column: str) -> list[np.ndarray | None]:
    """Row numbers of each scenario, None standing for all rows."""
    if column not in table.column_names:
        return [None]  # the encoder names the missing column
    codes = decoded(one_array(table.column(column))).dictionary_encode(null_encoding="encode").indices.to_numpy()
    scenarios = np.unique(codes)
    return [None] if len(scenarios) < 2 else [np.flatnonzero(codes == code) for code in scenarios]
