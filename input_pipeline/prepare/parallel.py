"""A prepared set made part by part, by the workers of a runner: the same bytes that `prepare` writes of the whole log.

Groups of consecutive files become small sets in a scratch folder inside the unpublished directory; then each split and
scenario is written anew from their blocks, cut where one reading would have cut them. What is counted is merged in the
order of the log. Blocks are on disk twice until the end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from input_pipeline.blocks.block import Blocks
from input_pipeline.blocks.manifest import DataFile, Manifest
from input_pipeline.blocks.samples import Samples
from input_pipeline.prepare.key_types import KeyTypes
from input_pipeline.prepare.quarantine import QUARANTINE, Quarantine
from input_pipeline.prepare.sequential import BLOCK_ROWS, write_beside, write_chunks
from input_pipeline.prepare.vocabulary import IdCounts, count_ids, with_vocabularies
from input_pipeline.prepare.writer import Key, PreparedWriter, Written, folder_of, write_set_manifest
from input_pipeline.readers import STRICT, Chunk
from input_pipeline.runner import Runner, groups_of, portable
from input_pipeline.values.chunks import IGNORED
from tt_jax.io.progress import Progress
from tt_jax.io.publish import published_directory
from tt_jax.schema import Schema

Reading = Callable[..., Iterable[Chunk]]  # of (errors=..., parts=...), to be pickled: a recipe's `read` of its source
Parts = Sequence[str] | None  # files of the log in its order; None where it can only be read as a whole
_GROUPS = 4  # for each worker, so that they end at about the same time
_SCRATCH = ".scratch"


@dataclass(frozen=True)
class _Group:
    """What a worker encodes."""

    schema: Schema
    reading: Reading
    parts: Parts
    block_rows: int
    max_errors: int | None
    scratch: str


@dataclass(frozen=True)
class _Encoded:
    """What it made of it: a set without a manifest, or how far it came until the error."""

    folder: str
    splits: list[str]
    written: dict[Key, Written]
    samples: Samples
    keys: KeyTypes
    error: Exception | None


@dataclass(frozen=True)
class _Partition:
    """A split and scenario to be written of the files `(folder, file)` of all groups."""

    schema: Schema
    key: Key
    block_rows: int
    files: tuple[tuple[str, DataFile], ...]
    missing: Mapping[str, int]
    scratch: str


def prepare_parts(
    schema: Schema,
    reading: Reading,
    parts: Parts,
    out: str | Path,
    runner: Runner,
    block_rows: int = BLOCK_ROWS,
    ads: pa.Table | None = None,
    documents: Mapping[str, Any] | None = None,
    max_errors: int | None = None,
) -> Manifest:
    """Does what `prepare` does, with the chunks of `reading`. `max_errors`: of a quarantine; None = there is none.

    Raises what `prepare` raises, for the same row, or `RunnerError`.
    """
    with published_directory(out) as folder:
        scratch = folder / _SCRATCH
        scratch.mkdir()
        quarantine = None if max_errors is None else Quarantine(max_errors)
        if quarantine is not None:
            quarantine.write_to(folder)
        samples, keys = Samples(schema), KeyTypes(schema)
        groups = (
            _Group(schema, reading, some, block_rows, max_errors, str(scratch))
            for some in groups_of(parts, _GROUPS * runner.workers)
        )
        done: list[_Encoded] = []
        with Progress("prepare", "rows") as progress:
            for one in runner.map(_encode, groups):
                _replay(quarantine, Path(one.folder))
                keys.merge(one.keys)
                if one.error is not None:
                    raise one.error
                samples.merge(one.samples)
                progress.advance(sum(w.rows for w in one.written.values()))
                done.append(one)
        written = _join(runner, _partitions(schema, done, block_rows, str(scratch)), folder)
        shutil.rmtree(scratch)
        write_beside(folder, samples, ads, documents)
        splits = dict.fromkeys(split for one in done for split in one.splits)
        rejected = 0 if quarantine is None else quarantine.rejected
        return write_set_manifest(folder, schema, block_rows, splits, written, rejected)


def learn_of_parts(schema: Schema, reading: Reading, parts: Parts, runner: Runner, strict: bool = True) -> Schema:
    """Does what `learn_vocabularies` does; each worker counts the ids of some files."""
    items = [(schema, reading, some, strict) for some in groups_of(parts, _GROUPS * runner.workers)]
    return with_vocabularies(schema, runner.map(_count, items))


def _count(item: tuple[Schema, Reading, Parts, bool]) -> IdCounts:
    schema, reading, parts, strict = item
    return count_ids(schema, reading(errors=STRICT if strict else IGNORED, parts=parts), strict)


def _encode(group: _Group) -> _Encoded:
    """Runs in a worker. Its folder is its own: what a worker left that died is thrown away with the scratch folder."""
    folder = Path(tempfile.mkdtemp(dir=group.scratch))
    quarantine = None if group.max_errors is None else Quarantine(group.max_errors)
    if quarantine is not None:
        quarantine.write_to(folder)
    writer = PreparedWriter(folder, group.schema, group.block_rows)
    samples, keys, error = Samples(group.schema), KeyTypes(group.schema), None
    try:
        chunks = group.reading(errors=quarantine or STRICT, parts=group.parts)
        write_chunks(writer, group.schema, chunks, samples, keys, quarantine)
    except (ValueError, OSError) as e:
        error = portable(e)
    return _Encoded(str(folder), writer.splits, {} if error else writer.written(), samples, keys, error)


def _replay(quarantine: Quarantine | None, folder: Path) -> None:
    """Rejects the bad rows of a group, as if they had been read here: the one that is too many raises."""
    if quarantine is not None and (folder / QUARANTINE).exists():
        for line in (folder / QUARANTINE).read_text().splitlines():
            quarantine.reject(**json.loads(line))


def _partitions(schema: Schema, done: Sequence[_Encoded], block_rows: int, scratch: str) -> list[_Partition]:
    files: dict[Key, list[tuple[str, DataFile]]] = {}
    missing: dict[Key, Counter[str]] = {}
    for one in done:
        for key, written in one.written.items():
            files.setdefault(key, []).extend((one.folder, file) for file in written.files)
            missing.setdefault(key, Counter()).update(written.missing)
    return [_Partition(schema, k, block_rows, tuple(files[k]), dict(missing[k]), scratch) for k in files]


def _join(runner: Runner, partitions: Sequence[_Partition], folder: Path) -> dict[Key, Written]:
    """Has the partitions written, and moves each to its place once it is whole."""
    written = {}
    for partition, (made, result) in zip(partitions, runner.map(_write, partitions), strict=True):
        place = folder_of(*partition.key)
        (folder / place).parent.mkdir(exist_ok=True)
        os.rename(Path(made) / place, folder / place)
        written[partition.key] = result
    return written


def _write(partition: _Partition) -> tuple[str, Written]:
    """Runs in a worker."""
    folder = Path(tempfile.mkdtemp(dir=partition.scratch))
    writer = PreparedWriter(folder, partition.schema, partition.block_rows)
    for root, file in partition.files:
        blocks = Blocks(Path(root), partition.schema, [file])
        for i in range(len(blocks)):
            writer.add(*partition.key, blocks[i], {})
    writer.close()
    return str(folder), dataclasses.replace(writer.written()[partition.key], missing=partition.missing)
