"""What the host knows of the ads of a scorer: which ad is where, its bid, whether it may be returned.

Nothing here changes in place: a change gives other objects. So whoever is still at work on results of the ads as they
were reads them as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.eligibility.ad_attributes import NO_ATTRIBUTES, AdAttributes
from serving.index.ad_columns import AdId
from serving.index.ad_index import AdIndex, timestamp
from serving.index.change_set import ChangeError, ChangeSet, IndexVersion, id_values

_RECENT = 1024  # fewest changed ids that make a new lookup


class AdIdError(ValueError):
    """Ids of the wrong type, or of no ad. The message names some of them."""


class AdIds:
    """Ids <-> positions of ads. `len` of them; a position may be empty, between others too.

    Attributes:
      used: bool `[size]`, whether an ad is at that position; from `size` on there is none.
    """

    def __init__(self, ids: np.ndarray | list[str]) -> None:
        self.used = np.ones(len(ids), bool)
        self._names = ids
        self._index()

    def __len__(self) -> int:
        return int(np.count_nonzero(self.used))

    def at(self, positions: np.ndarray) -> list[Any]:
        """The ids of the ads at these positions."""
        if isinstance(self._names, list):
            return [self._names[p] for p in positions.tolist()]
        return self._names[positions].tolist()

    def positions(self, ids: Sequence[AdId]) -> np.ndarray:
        """int64 `[n]`. Raises `AdIdError` for an id of the wrong type, or of no ad."""
        places = self.find(ids)
        unknown = np.flatnonzero(places < 0)
        if len(unknown):
            some = ", ".join(repr(ids[i])[:50] for i in unknown[:3])
            raise AdIdError(f"{len(unknown)} unknown ad ids: {some}{', ...' if len(unknown) > 3 else ''}")
        return places

    def find(self, ids: Sequence[AdId]) -> np.ndarray:
        """int64 `[n]`, -1 for an id of no ad. Raises `AdIdError` for an id of the wrong type."""
        wanted = str if isinstance(self._names, list) else int
        for value in ids:
            if type(value) is not wanted:
                raise AdIdError(f"expected {'a string' if wanted is str else 'an integer'}, got {value!r}")
        if isinstance(self._names, list):
            places = np.fromiter((self._places.get(value, -1) for value in ids), np.int64, len(ids))
        else:
            places = self._search(ids)
        if self._recent:
            pairs = zip(ids, places.tolist(), strict=True)
            places = np.fromiter((self._recent.get(ad, place) for ad, place in pairs), np.int64, len(ids))
        return places

    def free(self, n: int) -> np.ndarray:
        """int64 `[n]`: the first positions without an ad; past the last position where fewer than n are free."""
        gaps = np.flatnonzero(~self.used)[:n]
        return np.concatenate([gaps, len(self.used) + np.arange(n - len(gaps))])

    def changed(self, removed: np.ndarray, added: Sequence[AdId], places: np.ndarray) -> AdIds:
        """Without the ads at positions `removed`, with the ids `added` at `places`, where there is no ad."""
        if len(removed) + len(places) == 0:
            return self
        other, size = copy.copy(self), max(len(self.used), int(places.max(initial=-1)) + 1)
        other.used = np.pad(self.used, (0, size - len(self.used)))
        other.used[removed] = False
        other.used[places] = True
        gone = dict.fromkeys(self.at(removed), -1)
        other._recent = self._recent | gone | dict(zip(added, places.tolist(), strict=True))
        other._names = self._renamed(added, places, size)
        if len(other._recent) > max(_RECENT, size // 8):
            other._index()
        return other

    def _renamed(self, added: Sequence[AdId], places: np.ndarray, size: int) -> np.ndarray | list[str]:
        if isinstance(self._names, list):
            names: list[Any] = [*self._names, *[""] * (size - len(self._names))]
            for place, ad in zip(places.tolist(), added, strict=True):
                names[place] = ad
            return names
        numbers = np.pad(self._names, (0, size - len(self._names)))
        numbers[places] = np.array(added, np.int64)
        return numbers

    def _index(self) -> None:
        """Makes the lookup, of all ads. What changes after that is in `_recent`: id -> position, or -1."""
        self._recent: dict[AdId, int] = {}
        places = np.flatnonzero(self.used)
        if isinstance(self._names, list):
            self._places: dict[Any, int] = {self._names[p]: p for p in places.tolist()}
        else:
            self._order = places[np.argsort(self._names[places])]
            self._sorted = self._names[self._order]

    def _search(self, ids: Sequence[Any]) -> np.ndarray:
        """Positions of integers in the lookup, -1 for an unknown one."""
        try:
            values = np.array(ids, np.int64)
        except OverflowError:  # an id of more than 64 bits
            inside = [v if -(2**63) <= v < 2**63 else None for v in ids]
            return np.array([-1 if v is None else int(self._search([v])[0]) for v in inside])
        if len(self._sorted) == 0:
            return np.full(len(values), -1)
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        return np.where(self._sorted[at] == values, self._order[at], -1)


@dataclass(frozen=True, eq=False)
class CorpusUpdate:
    """What a set of changes does to the arrays of a scorer, by position.

    Attributes:
      put: int32 `[P]`, where vectors change.
      vectors: `[P, T, D]`.
      marked: int32 `[M]`, where bids and eligibility change: `put` among others.
      bids: float32 `[M]`.
      valid: bool `[M]`.
      attributes: of all ads after the change.
      bits: bool, whether a small set or a flag changes.
    """

    put: np.ndarray
    vectors: np.ndarray
    marked: np.ndarray
    bids: np.ndarray
    valid: np.ndarray
    attributes: AdAttributes
    bits: bool


@dataclass(frozen=True, eq=False)
class AdTable:
    """The ads of a scorer.

    Attributes:
      ids: which ad is where.
      bids: float32 `[size]`, by position; of no meaning where there is no ad.
      valid: bool `[size]`, by position: there is an ad, and it may be returned.
      version: of the index.
      created: when it, or the last of its changes, was made: UTC, ISO 8601.
      attributes: by position; of no meaning where there is no ad.
    """

    ids: AdIds
    bids: np.ndarray
    valid: np.ndarray
    version: IndexVersion
    created: str
    attributes: AdAttributes = NO_ATTRIBUTES

    @staticmethod
    def of(index: AdIndex) -> AdTable:
        """The ads of an index, in its order."""
        version = IndexVersion.of(index.index_id)
        return AdTable(AdIds(index.ids), index.bids, index.valid, version, index.created, index.attributes)

    def changed(self, changes: ChangeSet, created: str) -> tuple[AdTable, CorpusUpdate]:
        """The ads after a set of changes, and what that does to the arrays. A new ad takes the first free position.

        Raises `ChangeError` naming the ids that are of the wrong type or of no ad.
        """
        updates, new_ids = changes.updates, id_values(changes.ids)
        try:
            marked, put = self.ids.positions(id_values(updates.ids)), self.ids.find(new_ids)
        except AdIdError as e:
            raise ChangeError(f"the index {self.version}: {e}") from None
        new = np.flatnonzero(put < 0)
        put[new] = self.ids.free(len(new))
        gone = marked[updates.removed]
        ids = self.ids.changed(gone, [new_ids[i] for i in new], put[new])
        return self._with(ids, put, marked, gone, changes, self.version.after(changes.changes_id), created)

    def restored(
        self, changes: ChangeSet, places: np.ndarray, version: IndexVersion, created: str
    ) -> tuple[AdTable, CorpusUpdate]:
        """As `changed`, of the index as it was built, by the net of all changes up to a version.

        Args:
          changes: of `serving.index.compaction`; what they remove need not be there.
          places: int64 `[P]`, positions of the ads that are put.

        Raises `ChangeError` naming the ids that are of the wrong type, or of no ad.
        """
        updates, new_ids = changes.updates, id_values(changes.ids)
        try:
            marked, put = self.ids.find(id_values(updates.ids)), self.ids.find(new_ids)
            self.ids.positions(
                [ad for ad, gone in zip(id_values(updates.ids), updates.removed, strict=True) if not gone]
            )
        except AdIdError as e:
            raise ChangeError(f"the index {self.version}: {e}") from None
        gone = np.concatenate([marked[updates.removed], put])
        gone = gone[gone >= 0]
        ids = self.ids.changed(gone, new_ids, places)
        return self._with(ids, places, marked, gone, changes, version, created)

    def _with(
        self,
        ids: AdIds,
        put: np.ndarray,
        marked: np.ndarray,
        gone: np.ndarray,
        changes: ChangeSet,
        version: IndexVersion,
        created: str,
    ) -> tuple[AdTable, CorpusUpdate]:
        """`put`, `marked`: positions of what is put and marked, of which -1 is nowhere; `gone`: that lose their ad."""
        updates, spare = changes.updates, (0, len(ids.used) - len(self.bids))
        bids, valid = np.pad(self.bids, spare), np.pad(self.valid, spare)
        valid[gone] = False
        bids[put], valid[put] = changes.bids, changes.valid
        stays = ~updates.removed
        rebid, switched = stays & ~np.isnan(updates.bids), stays & (updates.valid >= 0)
        bids[marked[rebid]] = updates.bids[rebid]
        valid[marked[switched]] = updates.valid[switched] == 1
        attributes = self._attributes(len(bids), put, marked, changes)
        ads = AdTable(ids, bids, valid, version, max(created, self.created, key=timestamp), attributes)
        places = np.unique(np.concatenate([put, marked[marked >= 0], gone]))
        names = [a.name for a in attributes.schema if a.is_bits or a.kind == "flag"]
        bits = bool(names) and (len(put) > 0 or any(updates.given[name].any() for name in names))
        numbers = (put.astype(np.int32), changes.vectors, places.astype(np.int32), bids[places], valid[places])
        return ads, CorpusUpdate(*numbers, attributes, bits)

    def _attributes(self, size: int, put: np.ndarray, marked: np.ndarray, changes: ChangeSet) -> AdAttributes:
        """Raises `ChangeError` for attributes that are not those of the index, or a set of too many values."""
        updates = changes.updates
        if changes.attributes.schema != self.attributes.schema:
            raise ChangeError(f"the index {self.version}: the attributes of the changes are not those of the index")
        stays = ~updates.removed & (marked >= 0)
        given = {name: some & stays for name, some in updates.given.items()}
        try:
            changed = self.attributes.padded(size).put(marked, updates.attributes, given)
            return changed.put(put, changes.attributes)
        except ValueError as e:
            raise ChangeError(str(e)) from None
