"""Deltas: sets of changes of an index as published directories, each of which follows an index or another delta.

    manifest.json                             `DeltaManifest`
    vectors.npy ids.npy bids.npy valid.npy    ads that are put, as in an index
    marked_ids.npy marked_bids.npy marked_valid.npy removed.npy   `AdUpdates`

    put/ marked/                              of `AdAttributes`, and marked/given.npz, where the schema has some

String ids are `.json`, as in an index. `Delta.save` publishes it, `Delta.load` checks every byte.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.eligibility.ad_attributes import AdAttributes
from serving.index.ad_arrays import VectorDType, load_ids, load_vectors, save_ids, save_vectors
from serving.index.ad_columns import ad_columns, columns_of, read_ad_ids, read_ad_rows
from serving.index.ad_index import AdIndexError, IndexManifest, embed_rows, now, timestamp
from serving.index.change_set import AdUpdates, ChangeSet, IndexVersion
from tt_jax.bundle.reader import Bundle
from tt_jax.io.publish import Format, describe_files, published_directory, read_published, write_manifest
from tt_jax.io.verify import FileEntry
from tt_jax.schema import DType

FORMAT = Format("tt-jax ad delta", (1, 2, 3))  # 2: also int8; 3: attributes


class DeltaError(ValueError):
    """A delta that must not be used. The message names the directory or file and what is wrong with it."""


@dataclass(frozen=True)
class DeltaManifest:
    """`manifest.json` of a delta.

    Attributes:
      format, format_version: see `FORMAT`.
      fingerprint: of the bundle whose ad tower made the vectors.
      index_id: of the index that the deltas began with.
      sequence: of the version that it leads to: 1 of the first delta.
      follows: chain of the version that it changes.
      chain: of the version that it leads to.
      created: UTC, ISO 8601.
      jax, tt_jax: versions that wrote it.
      shape: of the vectors, P, T, D.
      marked: number of updates.
      dtype: of the vectors: `f32`, `bf16` or `int8`.
      id_dtype: `int` or `string`.
      files: every other file.
    """

    FORMAT: ClassVar[Format] = FORMAT
    format: str
    format_version: int
    fingerprint: str
    index_id: str
    sequence: int
    follows: str
    chain: str
    created: str
    jax: str
    tt_jax: str
    shape: tuple[int, ...]
    marked: int
    dtype: VectorDType
    id_dtype: DType
    files: tuple[FileEntry, ...]

    @property
    def version(self) -> IndexVersion:
        """That it leads to."""
        return IndexVersion(self.index_id, self.sequence, self.chain)


@dataclass(frozen=True, eq=False)
class Delta:
    """Changes of one version of an index.

    Attributes:
      changes: what it changes.
      fingerprint: of the bundle whose ad tower made the vectors.
      before: the version that it changes.
      created: UTC, ISO 8601.
      path: where it was read, for messages.
    """

    changes: ChangeSet
    fingerprint: str
    before: IndexVersion
    created: str
    path: Path | None = None

    @property
    def after(self) -> IndexVersion:
        """The version that it leads to."""
        return self.before.after(self.changes.changes_id)

    def save(self, out: str | os.PathLike[str]) -> None:
        """Writes a directory that appears complete or not at all. Raises `PublishError` if it exists."""
        changes, after = self.changes, self.after
        with published_directory(out) as directory:
            save_changes(directory, changes)
            manifest = DeltaManifest(
                **FORMAT.stamp,
                fingerprint=self.fingerprint,
                index_id=after.index_id,
                sequence=after.sequence,
                follows=self.before.chain,
                chain=after.chain,
                created=self.created,
                **described(directory, changes),
            )
            write_manifest(directory, manifest)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Delta:
        """Reads a delta. Raises `DeltaError` unless every file is exactly as it was written."""
        path = Path(path)
        manifest = read_published(path, DeltaManifest, DeltaError)
        try:
            timestamp(manifest.created)
            changes = load_changes(path, manifest.dtype, manifest.id_dtype)
        except Exception as e:  # as of `AdIndex.load`
            raise DeltaError(f"{path}: {e}") from e
        before = IndexVersion(manifest.index_id, manifest.sequence - 1, manifest.follows)
        if before.after(changes.changes_id) != manifest.version:
            raise DeltaError(
                f"{path}: its changes do not lead from {before} to {manifest.version}, as its manifest says"
            )
        return Delta(changes, manifest.fingerprint, before, manifest.created, path)

    @staticmethod
    def load_all(directory: str | os.PathLike[str]) -> list[Delta]:
        """Reads the deltas of a directory, in their order. Hidden names, which may be unfinished, do not count.

        Raises `DeltaError` for anything else in it.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise DeltaError(f"{directory}: expected a directory of deltas, found none")
        deltas = [Delta.load(path) for path in sorted(directory.iterdir()) if not path.name.startswith(".")]
        return sorted(deltas, key=lambda delta: delta.before.sequence)

    def require_after(self, fingerprint: str, version: IndexVersion) -> None:
        """Raises `DeltaError` unless it was made by this bundle, for this version of the index."""
        if self.fingerprint != fingerprint:
            raise DeltaError(f"{self.path}: made by the bundle {self.fingerprint}, but this bundle is {fingerprint}")
        if self.before.index_id != version.index_id:
            raise DeltaError(f"{self.path}: a delta of the index {self.before.index_id}, not of {version.index_id}")
        if self.before != version:
            raise DeltaError(
                f"{self.path}: out of sequence: it follows {self.before}, but the index is at {version}; "
                f"expected delta {version.sequence + 1}, got {self.before.sequence + 1}"
            )


_GIVEN = Path("marked", "given.npz")
_ARRAYS = ("bids", "valid", "marked_bids", "marked_valid", "removed")


def described(directory: Path, changes: ChangeSet) -> dict[str, Any]:
    """What a manifest says of the changes that `save_changes` has written, of all files, and of what wrote them."""
    return {
        "jax": importlib.metadata.version("jax"),
        "tt_jax": importlib.metadata.version("tt-jax"),
        "shape": changes.vectors.shape,
        "marked": len(changes.updates.ids),
        "dtype": changes.dtype,
        "id_dtype": changes.id_dtype,
        "files": describe_files(directory),
    }


def save_changes(directory: Path, changes: ChangeSet) -> None:
    """Writes the arrays of a set of changes, each as a file. Raises OSError."""
    updates = changes.updates
    save_vectors(directory, changes.vectors)
    save_ids(directory, "ids", changes.ids)
    save_ids(directory, "marked_ids", updates.ids)
    arrays = changes.bids, changes.valid, updates.bids, updates.valid, updates.removed
    for name, array in zip(_ARRAYS, arrays, strict=True):
        np.save(directory / f"{name}.npy", array, allow_pickle=False)
    if changes.attributes.schema:
        for name, attributes in (("put", changes.attributes), ("marked", updates.attributes)):
            (directory / name).mkdir()
            attributes.save(directory / name)
        np.savez(directory / _GIVEN, allow_pickle=False, **updates.given)


def load_changes(directory: Path, dtype: VectorDType, id_dtype: DType) -> ChangeSet:
    """What `save_changes` wrote. Raises `ChangeError` if its parts do not fit together, else whatever NumPy does."""
    arrays = (np.load(directory / f"{name}.npy", allow_pickle=False) for name in _ARRAYS)
    bids, valid, marked_bids, marked_valid, removed = arrays
    ids, marked = (load_ids(directory, name, id_dtype) for name in ("ids", "marked_ids"))
    put_attributes, marked_attributes = (AdAttributes.load(directory / name) for name in ("put", "marked"))
    given: dict[str, np.ndarray] = {}
    if put_attributes.schema:
        with (directory / _GIVEN).open("rb") as f, np.load(f, allow_pickle=False) as arrays:
            given = {name: arrays[name] for name in arrays.files}
    of_marked = AdUpdates(marked, marked_bids, marked_valid, removed, marked_attributes, given)
    return ChangeSet(load_vectors(directory, dtype), ids, bids, valid, of_marked, put_attributes)


@dataclass(frozen=True)
class Base:
    """What a new delta follows, an index or another delta: version, fingerprint of the bundle, dtype of the vectors."""

    version: IndexVersion
    fingerprint: str
    dtype: VectorDType

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Base:
        """Of an index or a delta. Raises `DeltaError` or `AdIndexError`, also if a byte of it is not as written."""
        path = Path(path)
        if (path / "marked_valid.npy").exists():
            manifest = read_published(path, DeltaManifest, DeltaError)
            return Base(manifest.version, manifest.fingerprint, manifest.dtype)
        manifest = read_published(path, IndexManifest, AdIndexError)
        return Base(IndexVersion.of(manifest.index_id), manifest.fingerprint, manifest.dtype)


def make_delta(bundle: Bundle, base: Base, ads: Any = None, changes: Any = None) -> Delta:
    """The changes of what `base` stands for.

    Args:
      bundle: that made the index.
      ads: an Arrow table of ads to put, as for `index_table`; None = none.
      changes: an Arrow table as for `AdUpdates.read`; None = none.

    Raises `DeltaError` for another bundle, `EncodeError` for a value that does not fit, `ChangeError` for an ad named
    twice.
    """
    if bundle.fingerprint != base.fingerprint:
        raise DeltaError(
            f"the index was made by the bundle {base.fingerprint}, but this bundle is {bundle.fingerprint}"
        )
    schema, n = bundle.schema, 0 if ads is None else len(ads)
    columns = {name: [] for name in ad_columns(schema)} if ads is None else columns_of(ads)
    rows = read_ad_rows(schema, columns)
    vectors = embed_rows(bundle, rows.features, n, base.dtype)
    nothing = AdUpdates.of(read_ad_ids(schema.ad_id, [], schema.ad_id_dtype), schema.attributes)
    updates = nothing if changes is None else AdUpdates.read(schema, columns_of(changes))
    made = ChangeSet(vectors, rows.ids, rows.bids, rows.valid, updates, rows.attributes)
    return Delta(made, bundle.fingerprint, base.version, now())
