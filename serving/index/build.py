"""An index of a corpus in a file, range by range, here or by workers: the bytes of `index_table` of its table.

Each range of ads becomes a file of vectors in a scratch folder inside the unpublished directory. They are joined in
their order while more are made, and hashed on the way.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from serving.index.ad_arrays import VectorDType, add_content, bits_dtype
from serving.index.ad_columns import Embed, embed_batch
from serving.index.ad_index import BATCH, Stamp, ad_tower, index_head, now, save_rest, vector_shape
from serving.index.parquet_corpus import ParquetCorpus, batches
from tt_jax.bundle.reader import Bundle, BundleError
from tt_jax.features.encoder import Encoder
from tt_jax.io.publish import MANIFEST, published_directory, require_absent
from tt_jax.schema import SchemaError

# Does work on items, here or elsewhere, and gives the results in the order of the items: `map`, or a runner's.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
_SCRATCH = ".scratch"
_COPIED_BYTES = 2**22  # at a time


@dataclass(frozen=True)
class _Range:
    """What a worker embeds: the ads from `start` on to before `stop`, by the bundle of this fingerprint."""

    bundle: Path
    fingerprint: str
    ads: Path
    start: int
    stop: int
    batch: int
    dtype: VectorDType
    scratch: str


def build_index(
    bundle: str | Path,
    ads: str | Path,
    out: str | Path,
    dtype: VectorDType = "f32",
    batch: int = BATCH,
    map_work: Map = map,
) -> int:
    """Embeds the ads of a Parquet file, with the columns that `index_table` wants; returns their number.

    In memory are ids, bids and eligibility of all ads; of features and vectors, some batches.

    Args:
      bundle: directory that `export` wrote; its ad tower makes the vectors.
      ads: the file.
      out: directory, which appears whole or not at all.
      dtype: of the vectors.
      batch: ads embedded at a time.
      map_work: has the work done, here or where the same files are at the same paths. Processors of one kind make the
        same bits.

    Raises `SchemaError` naming file, column, row and value of what does not fit, `PublishError` if `out` exists,
    `BundleError`, or ValueError for what is no Parquet file.
    """
    bundle, ads, out = Path(bundle), Path(ads), Path(out)
    require_absent(out)  # before the work, not after it
    try:
        tower = _tower(bundle, dtype)
        with _named(ads):
            corpus = ParquetCorpus.read(ads, tower.bundle.schema)
        with published_directory(out) as directory:
            _write(directory, tower, corpus, min(batch, len(corpus.bids)), map_work)
    finally:
        _load.cache_clear()
    return len(corpus.bids)


def _write(directory: Path, tower: _Tower, corpus: ParquetCorpus, batch: int, map_work: Map) -> None:
    bundle, dtype = tower.bundle, tower.dtype
    shape = (len(corpus.bids), *vector_shape(bundle, dtype))
    scratch = directory / _SCRATCH
    scratch.mkdir()
    items = (
        _Range(bundle.path, bundle.fingerprint, corpus.path, start, stop, batch, dtype, str(scratch))
        for start, stop in corpus.ranges(batch)
    )
    digest = hashlib.sha256(f"{index_head(bundle.fingerprint, dtype, shape)}\n".encode())
    with (directory / "vectors.npy").open("wb") as whole:
        header = {"descr": np.lib.format.dtype_to_descr(bits_dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(whole, header)
        for part in map_work(_embed_range, items):
            _append(part, whole, digest)
    shutil.rmtree(scratch)
    add_content(digest, corpus.ids, corpus.bids, corpus.valid, *corpus.attributes.parts())
    stamp = Stamp(bundle.fingerprint, digest.hexdigest(), now())
    save_rest(directory, corpus.ids, corpus.bids, corpus.valid, corpus.attributes, stamp, shape, dtype)


def _append(part: str, whole: BinaryIO, digest: Any) -> None:
    """Moves the bytes of a file of vectors behind those that are there, and hashes them."""
    with open(part, "rb") as vectors:
        while some := vectors.read(_COPIED_BYTES):
            whole.write(some)
            digest.update(some)
    os.unlink(part)


def _embed_range(item: _Range) -> str:
    """Runs in a worker: the name of a file of the vectors. It is its own: what a worker left that died is thrown away
    with the scratch folder."""
    tower = _tower(item.bundle, item.dtype)
    if tower.bundle.fingerprint != item.fingerprint:
        raise BundleError(f"{item.bundle}: another bundle since the index was begun")
    features = [f.name for f in tower.bundle.schema.tower_features("ad")]
    handle, part = tempfile.mkstemp(dir=item.scratch)
    with os.fdopen(handle, "wb") as file, _named(item.ads):
        for start, table in batches(item.ads, features, item.start, item.stop, item.batch):
            columns = {name: table.column(name) for name in features}
            file.write(embed_batch(tower.encoder, columns, start, item.batch, tower.embed).tobytes())
    return part


@dataclass(frozen=True, eq=False)
class _Tower:
    """The ad tower of a bundle, with vectors of this dtype."""

    bundle: Bundle
    dtype: VectorDType
    encoder: Encoder
    embed: Embed


def _tower(bundle: Path, dtype: VectorDType) -> _Tower:
    """Loaded once in a process, as long as the manifest stays the same. Raises `BundleError`."""
    manifest = bundle / MANIFEST
    return _load(bundle, manifest.read_bytes() if manifest.is_file() else b"", dtype)


@lru_cache(maxsize=1)
def _load(path: Path, _manifest: bytes, dtype: VectorDType) -> _Tower:
    bundle = Bundle.load(path)
    return _Tower(bundle, dtype, Encoder(bundle.schema), ad_tower(bundle, dtype))


@contextmanager
def _named(ads: Path) -> Iterator[None]:
    """Has an `EncodeError` name the file, as an error that can be sent from a worker."""
    try:
        yield
    except SchemaError as e:
        raise SchemaError(f"{ads}: {e}") from None
