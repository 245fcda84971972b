"""The ad index: the ad tower's output for a corpus of ads, with ids, bids and eligibility, stamped with its bundle.

    manifest.json               `IndexManifest`
    vectors.npy                 [N, T, D] float32, or bfloat16 as its uint16 bits, which NumPy can store, or
                                [N, T, D + 4] int8, see `serving.index.quantized`
    ids.npy | ids.json          int64 [N] | a list of strings
    bids.npy valid.npy          float32 [N], bool [N]
    attributes.npz attribute_values.json      of `AdAttributes`, where the schema has some

`index_table` makes it of a table, `AdIndex.save` publishes it, `AdIndex.load` checks every byte.
`serving.index.build` does the first two of a file that need not fit into memory.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from serving.eligibility.ad_attributes import NO_ATTRIBUTES, AdAttributes
from serving.index.ad_arrays import (
    DTYPES,
    VectorDType,
    content_id,
    load_ids,
    load_vectors,
    save_ids,
    save_vectors,
    vector_dtype,
)
from serving.index.ad_columns import columns_of, embed_ads, read_ad_rows
from serving.index.quantized import stored, width
from tt_jax.bundle.reader import Bundle
from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoder
from tt_jax.io.publish import Format, describe_files, published_directory, read_published, write_manifest
from tt_jax.io.verify import FileEntry
from tt_jax.schema import DType

FORMAT = Format("tt-jax ad index", (1, 2, 3))  # 2: also int8; 3: attributes
BATCH = 8192  # ads embedded at a time


class AdIndexError(ValueError):
    """An index that must not be used. The message names the file and what is wrong with it."""


class IndexMismatchError(ValueError):
    """An index that another bundle made. The message names both fingerprints."""


@dataclass(frozen=True)
class IndexManifest:
    """`manifest.json` of an index.

    Attributes:
      format, format_version: see `FORMAT`.
      fingerprint: of the bundle whose ad tower made the vectors.
      index_id: see `AdIndex`.
      created: UTC, ISO 8601.
      jax, tt_jax: versions that wrote it.
      shape: of the vectors, N, T, D.
      eligible: number of ads that may be returned.
      dtype: of the vectors: `f32`, `bf16` or `int8`.
      id_dtype: `int` or `string`.
      files: every other file.
    """

    FORMAT: ClassVar[Format] = FORMAT
    format: str
    format_version: int
    fingerprint: str
    index_id: str
    created: str
    jax: str
    tt_jax: str
    shape: tuple[int, ...]
    eligible: int
    dtype: VectorDType
    id_dtype: DType
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Stamp:
    """`fingerprint`, `index_id` and `created` of an index, see `AdIndex`."""

    fingerprint: str
    index_id: str
    created: str


@dataclass(frozen=True, eq=False)
class AdIndex:
    """N embedded ads. Raises `AdIndexError` if its parts do not fit together.

    Attributes:
      vectors: float32 or bfloat16 `[N, T, D]`, or int8 `[N, T, D + 4]`.
      ids: int64 `[N]`, or N strings; distinct.
      bids: float32 `[N]`, in the currency of the auction.
      valid: bool `[N]`, whether the ad may be returned.
      attributes: of the N ads; none where the schema has none.
      fingerprint: of the bundle whose ad tower made the vectors.
      index_id: SHA-256 of all of the above, hexadecimal.
      created: UTC, ISO 8601.
    """

    vectors: np.ndarray
    ids: np.ndarray | list[str]
    bids: np.ndarray
    valid: np.ndarray
    fingerprint: str
    index_id: str
    created: str
    attributes: AdAttributes = NO_ATTRIBUTES

    def __post_init__(self) -> None:
        n = len(self.vectors)
        if self.vectors.ndim != 3 or n == 0:
            raise AdIndexError(f"vectors: expected [N, T, D] of at least one ad, got {self.vectors.shape}")
        for name, array, dtypes, shape in (
            ("vectors", self.vectors, tuple(DTYPES.values()), (n, *self.vectors.shape[1:])),
            ("ids", self.ids, (np.dtype(np.int64),), (n,)),
            ("bids", self.bids, (np.dtype(np.float32),), (n,)),
            ("valid", self.valid, (np.dtype(bool),), (n,)),
        ):
            if isinstance(array, list):
                if len(array) != n or not all(type(v) is str for v in array):
                    raise AdIndexError(f"{name}: expected {n} strings")
            elif array.dtype not in dtypes or array.shape != shape:
                raise AdIndexError(f"{name}: expected {dtypes[0]} {shape}, got {array.dtype} {array.shape}")
        for name, column in self.attributes.columns.items():
            if len(column) != n:
                raise AdIndexError(f"attribute {name!r}: expected {n} ads, got {len(column)}")
        try:
            timestamp(self.created)
        except ValueError as e:
            raise AdIndexError(f"created: {e}") from None

    @property
    def dtype(self) -> VectorDType:
        """Of the vectors."""
        return vector_dtype(self.vectors)

    @property
    def stamp(self) -> Stamp:
        """Who made it, when, and its id."""
        return Stamp(self.fingerprint, self.index_id, self.created)

    def save(self, out: str | os.PathLike[str]) -> None:
        """Writes a directory that appears complete or not at all. Raises `PublishError` if it exists."""
        with published_directory(out) as directory:
            save_vectors(directory, self.vectors)
            rest = self.ids, self.bids, self.valid, self.attributes
            save_rest(directory, *rest, self.stamp, self.vectors.shape, self.dtype)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> AdIndex:
        """Reads an index. Raises `AdIndexError` unless every file is exactly as it was written."""
        path = Path(path)
        manifest = read_published(path, IndexManifest, AdIndexError)
        try:
            index = AdIndex(
                vectors=load_vectors(path, manifest.dtype),
                ids=load_ids(path, "ids", manifest.id_dtype),
                bids=np.load(path / "bids.npy", allow_pickle=False),
                valid=np.load(path / "valid.npy", allow_pickle=False),
                fingerprint=manifest.fingerprint,
                index_id=manifest.index_id,
                created=manifest.created,
                attributes=AdAttributes.load(path),
            )
        except Exception as e:  # NumPy and tokenize raise every kind for a damaged file
            raise AdIndexError(f"{path}: {e}") from e
        if (index.dtype, index.vectors.shape) != (manifest.dtype, manifest.shape):
            got = f"{index.dtype} {index.vectors.shape}"
            raise AdIndexError(f"{path / 'vectors.npy'}: expected {manifest.dtype} {manifest.shape}, got {got}")
        return index


def save_rest(
    directory: Path,
    ids: np.ndarray | list[str],
    bids: np.ndarray,
    valid: np.ndarray,
    attributes: AdAttributes,
    stamp: Stamp,
    shape: tuple[int, ...],
    dtype: VectorDType,
) -> None:
    """Writes what an index has beside its vectors, of this shape and dtype: the manifest last."""
    save_ids(directory, "ids", ids)
    np.save(directory / "bids.npy", bids, allow_pickle=False)
    np.save(directory / "valid.npy", valid, allow_pickle=False)
    attributes.save(directory)
    manifest = IndexManifest(
        **FORMAT.stamp,
        fingerprint=stamp.fingerprint,
        index_id=stamp.index_id,
        created=stamp.created,
        jax=importlib.metadata.version("jax"),
        tt_jax=importlib.metadata.version("tt-jax"),
        shape=shape,
        eligible=int(valid.sum()),
        dtype=dtype,
        id_dtype="string" if isinstance(ids, list) else "int",
        files=describe_files(directory),
    )
    write_manifest(directory, manifest)


def index_head(fingerprint: str, dtype: VectorDType, shape: tuple[int, ...]) -> str:
    """The line of text that the `content_id` of an index begins with."""
    return f"{fingerprint} {DTYPES[dtype]} {shape}"


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def timestamp(created: str) -> float:
    """Seconds since 1970 of what `now` gave. Raises ValueError."""
    return datetime.datetime.fromisoformat(created).timestamp()


def index_table(bundle: Bundle, ads: Any, dtype: VectorDType = "f32", batch: int = BATCH) -> AdIndex:
    """Embeds a corpus of ads.

    Args:
      bundle: its ad tower makes the vectors.
      ads: an Arrow table with the ad features, the schema's `ad_id` (distinct, no nulls), `bid` (finite, >= 0) and
        `eligible` (bool); other columns are ignored.
      dtype: of the vectors.
      batch: ads embedded at a time.

    Raises `EncodeError` naming column, row and value of what does not fit.
    """
    schema, n = bundle.schema, len(ads)
    if n == 0:
        raise EncodeError(schema.ad_id, None, "the corpus is empty; expected at least one ad")
    rows = read_ad_rows(schema, columns_of(ads))
    vectors = embed_rows(bundle, rows.features, n, dtype, batch)
    fingerprint = bundle.fingerprint
    head = index_head(fingerprint, dtype, vectors.shape)
    index_id = content_id(vectors, rows.ids, rows.bids, rows.valid, *rows.attributes.parts(), head=head)
    return AdIndex(vectors, rows.ids, rows.bids, rows.valid, fingerprint, index_id, now(), rows.attributes)


def embed_rows(
    bundle: Bundle, features: Mapping[str, Any], n: int, dtype: VectorDType = "f32", batch: int = BATCH
) -> np.ndarray:
    """Vectors `[n, T, D]` of n raw ads, by the bundle's ad tower. Raises `EncodeError`."""
    vectors = np.empty((n, *vector_shape(bundle, dtype)), DTYPES[dtype])
    embed_ads(Encoder(bundle.schema), features, max(1, min(batch, n)), ad_tower(bundle, dtype), vectors)
    return vectors


def vector_shape(bundle: Bundle, dtype: VectorDType) -> tuple[int, int]:
    """T and the width of the stored vector of an ad."""
    return len(bundle.schema.heads), width(bundle.model.config.output_dim, DTYPES[dtype])


def ad_tower(bundle: Bundle, dtype: VectorDType) -> Callable[[np.ndarray, np.ndarray], Any]:
    """The bundle's ad tower: encoded ids and floats of b ads to their vectors as they are stored."""
    model = bundle.model
    embed = jax.jit(lambda params, tables, *ad: stored(model.embed(params, tables, "ad", *ad), DTYPES[dtype]))
    return partial(embed, *jax.device_put((bundle.params, bundle.tables)))


def require_fit(index: AdIndex, bundle: Bundle) -> None:
    """Raises `IndexMismatchError` unless this bundle made the index, which has the attributes of its schema."""
    if index.fingerprint != bundle.fingerprint:
        raise IndexMismatchError(
            f"the index was made by the bundle {index.fingerprint}, but this bundle is {bundle.fingerprint}; "
            "build the index again with this bundle"
        )
    if index.attributes.schema != bundle.schema.attributes:
        schemas = bundle.schema.attributes, index.attributes.schema
        expected, got = (", ".join(a.name for a in schema) or "none" for schema in schemas)
        raise IndexMismatchError(f"expected an index with the attributes of the schema, {expected}; got {got}")
