"""Many sets of changes of an index as one: the net of them, from the index as it was built to one version.

    manifest.json    `CompactedManifest`
    places.npy       int64 [P], positions of the ads that are put, so that equal ads stand in the order that they had
    chains.npy       uint8 [sequence, 32], the chain of every version on the way: a delta that is part of it is known
    and the arrays of `serving.index.delta.save_changes`

`compact` makes it, `Compacted.save` publishes it, `Compacted.load` checks every byte.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.eligibility.ad_attributes import AdAttributes
from serving.index.ad_arrays import VectorDType
from serving.index.ad_columns import AdId
from serving.index.ad_index import timestamp
from serving.index.ad_table import AdTable
from serving.index.change_set import SAME, AdUpdates, ChangeSet, IndexVersion, as_ids, id_values
from serving.index.delta import Delta, DeltaError, described, load_changes, save_changes
from tt_jax.io.publish import Format, published_directory, read_published, write_manifest
from tt_jax.io.verify import FileEntry
from tt_jax.schema import DType

FORMAT = Format("tt-jax compacted journal", (1, 2, 3))  # 2: also int8; 3: attributes


@dataclass(frozen=True)
class CompactedManifest:
    """`manifest.json`; `sequence` and `chain` are of the version that it leads to, all else as in `DeltaManifest`."""

    FORMAT: ClassVar[Format] = FORMAT
    format: str
    format_version: int
    fingerprint: str
    index_id: str
    sequence: int
    chain: str
    created: str
    jax: str
    tt_jax: str
    shape: tuple[int, ...]
    marked: int
    dtype: VectorDType
    id_dtype: DType
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, eq=False)
class Compacted:
    """The net of all sets of changes up to a version.

    Attributes:
      changes: what it changes of the index as it was built. It may remove ads that this index does not have.
      places: int64 `[P]`, positions of the ads that are put.
      chains: uint8 `[sequence, 32]`, the chain of each version, from the first.
      fingerprint: of the bundle whose ad tower made the vectors.
      index_id: of the index.
      created: of the last set, UTC, ISO 8601.
    """

    changes: ChangeSet
    places: np.ndarray
    chains: np.ndarray
    fingerprint: str
    index_id: str
    created: str

    @property
    def version(self) -> IndexVersion:
        """That it leads to."""
        return IndexVersion(self.index_id, len(self.chains), self.chains[-1].tobytes().hex())

    def passes(self, version: IndexVersion) -> bool:
        """Whether this version is one on the way, the last one included."""
        at = version.sequence - 1
        return 0 <= at < len(self.chains) and self.chains[at].tobytes().hex() == version.chain

    def save(self, out: str | os.PathLike[str]) -> None:
        """Writes a directory that appears complete or not at all. Raises `PublishError` if it exists."""
        changes, version = self.changes, self.version
        with published_directory(out) as directory:
            save_changes(directory, changes)
            np.save(directory / "places.npy", self.places, allow_pickle=False)
            np.save(directory / "chains.npy", self.chains, allow_pickle=False)
            manifest = CompactedManifest(
                **FORMAT.stamp,
                fingerprint=self.fingerprint,
                index_id=self.index_id,
                sequence=version.sequence,
                chain=version.chain,
                created=self.created,
                **described(directory, changes),
            )
            write_manifest(directory, manifest)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Compacted:
        """Reads one. Raises `DeltaError` unless every file is exactly as it was written."""
        path = Path(path)
        manifest = read_published(path, CompactedManifest, DeltaError)
        try:
            timestamp(manifest.created)
            changes = load_changes(path, manifest.dtype, manifest.id_dtype)
            places, chains = (np.load(path / f"{name}.npy", allow_pickle=False) for name in ("places", "chains"))
            _check(changes, places, chains)
        except Exception as e:  # as of `AdIndex.load`
            raise DeltaError(f"{path}: {e}") from e
        compacted = Compacted(changes, places, chains, manifest.fingerprint, manifest.index_id, manifest.created)
        if (compacted.version.sequence, compacted.version.chain) != (manifest.sequence, manifest.chain):
            raise DeltaError(f"{path}: its chains do not lead to {manifest.sequence}, {manifest.chain}, as it says")
        return compacted


def compact(before: Compacted | None, deltas: Iterable[Delta], ads: AdTable) -> Compacted:
    """All changes that lead to the version of these ads, as one.

    `before`, `deltas`: some of them, in any order; those that do not lead there are left out. Raises `DeltaError` if
    one is missing.
    """
    way = between(before, deltas, ads.version)
    changes = net(([] if before is None else [before.changes]) + [delta.changes for delta in way])
    places = ads.ids.positions(id_values(changes.ids))
    chains = np.array([list(bytes.fromhex(delta.after.chain)) for delta in way], np.uint8).reshape(len(way), 32)
    chains = chains if before is None else np.concatenate([before.chains, chains])
    fingerprint = way[-1].fingerprint if before is None else before.fingerprint
    return Compacted(changes, places, chains, fingerprint, ads.version.index_id, ads.created)


def between(before: Compacted | None, deltas: Iterable[Delta], version: IndexVersion) -> list[Delta]:
    """The deltas from where `before` leads, or the index as it was built, to a version, in their order.

    Raises `DeltaError` if one is missing.
    """
    to, way = {delta.after: delta for delta in deltas}, list[Delta]()
    start = IndexVersion.of(version.index_id) if before is None else before.version
    while version != start:
        if (delta := to.get(version)) is None:
            raise DeltaError(f"the set of changes that leads to {version} is missing")
        way.append(delta)
        version = delta.before
    return way[::-1]


def net(sets: Sequence[ChangeSet]) -> ChangeSet:
    """At least one set of changes with the effect of all of them in their order, but for where new ads are put.

    It removes what any of them removed and none put again, even if the index does not have it.
    """
    touched: dict[AdId, list[Any]] = {}  # bid, eligible, removed, and which row of which set has the vector, or -1
    for i, changes in enumerate(sets):
        rows = zip(id_values(changes.ids), changes.bids.tolist(), changes.valid.tolist(), strict=True)
        touched |= {ad: [bid, valid, False, i, row] for row, (ad, bid, valid) in enumerate(rows)}
        updates = changes.updates
        marked = zip(
            id_values(updates.ids), updates.bids.tolist(), updates.valid.tolist(), updates.removed.tolist(), strict=True
        )
        for ad, bid, valid, removed in marked:
            if removed:
                touched[ad] = [math.nan, SAME, True, -1, -1]
                continue
            state = touched.setdefault(ad, [math.nan, SAME, False, -1, -1])
            state[0] = state[0] if math.isnan(bid) else bid
            state[1] = state[1] if valid == SAME else valid
    return _changes(sets, touched)


def _changes(sets: Sequence[ChangeSet], touched: dict[AdId, list[Any]]) -> ChangeSet:
    put = {ad: state for ad, state in touched.items() if state[3] >= 0}
    marked = {ad: state for ad, state in touched.items() if state[3] < 0}
    vectors = np.empty((len(put), *sets[0].vectors.shape[1:]), sets[0].vectors.dtype)
    source = np.array([state[3:] for state in put.values()], np.int64).reshape(len(put), 2)
    for i, changes in enumerate(sets):
        rows = np.flatnonzero(source[:, 0] == i)
        vectors[rows] = changes.vectors[source[rows, 1]]
    ids, marked_ids = (as_ids(list(some), sets[0].id_dtype) for some in (put, marked))
    bids, marked_bids = (np.array([state[0] for state in some.values()], np.float32) for some in (put, marked))
    valid = np.array([state[1] for state in put.values()], np.bool_)
    marked_valid = np.array([state[1] for state in marked.values()], np.int8)
    removed = np.array([state[2] for state in marked.values()], np.bool_)
    attributes, given = _net_attributes(sets, {ad: i for i, ad in enumerate(touched)})
    is_put = np.array([state[3] >= 0 for state in touched.values()], bool)
    at_put, at_marked = np.flatnonzero(is_put), np.flatnonzero(~is_put)
    of_marked = attributes.at(at_marked), {name: some[at_marked] for name, some in given.items()}
    updates = AdUpdates(marked_ids, marked_bids, marked_valid, removed, *of_marked)
    return ChangeSet(vectors, ids, bids, valid, updates, attributes.at(at_put))


def _net_attributes(sets: Sequence[ChangeSet], place: dict[AdId, int]) -> tuple[AdAttributes, dict[str, np.ndarray]]:
    """What all sets together make of the attributes of ads that have a place, and which are given, by name."""
    schema = sets[0].attributes.schema
    attributes = AdAttributes.empty(schema, len(place))
    given = {a.name: np.zeros(len(place), bool) for a in schema}
    if not schema:
        return attributes, given
    for changes in sets:
        updates = changes.updates
        put, marked = (np.array([place[ad] for ad in id_values(ids)], np.int64) for ids in (changes.ids, updates.ids))
        attributes = attributes.put(put, changes.attributes).put(marked, updates.attributes, updates.given)
        for name, some in given.items():
            some[marked] = (some[marked] | updates.given[name]) & ~updates.removed
    return attributes, given


def _check(changes: ChangeSet, places: np.ndarray, chains: np.ndarray) -> None:
    n = len(changes.ids)
    if (places.dtype, places.shape) != (np.int64, (n,)) or len(np.unique(places)) != n or (places < 0).any():
        raise DeltaError(f"places: expected {n} distinct positions, got {places.dtype} {places.shape}")
    if chains.dtype != np.uint8 or chains.ndim != 2 or chains.shape[1] != 32 or len(chains) == 0:
        raise DeltaError(f"chains: expected uint8 [sequence, 32], got {chains.dtype} {chains.shape}")
