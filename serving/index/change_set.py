"""Sets of changes of the ads of an index, and the versions that they lead to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from serving.eligibility.ad_attributes import NO_ATTRIBUTES, AdAttributes
from serving.index.ad_arrays import DTYPES, VectorDType, content_id, vector_dtype
from serving.index.ad_columns import BID, ELIGIBLE, AdId, read_ad_ids, read_bids
from tt_jax.features.columns import EncodeError, read_flags
from tt_jax.io.strict_json import nearest
from tt_jax.schema import AdAttribute, DType, Schema

REMOVE = "remove"
SAME = -1


class ChangeError(ValueError):
    """Changes that must not be applied; none of them was. The message names the change and what is wrong with it."""


@dataclass(frozen=True)
class IndexVersion:
    """An index as it was built, or after changes. As text: the index_id, then `+sequence.chain` (the chain shortened).

    Attributes:
      index_id: of the index as it was built.
      sequence: sets of changes since.
      chain: hash over the index and these sets, in order; the index_id where there are none.
    """

    index_id: str
    sequence: int
    chain: str

    @staticmethod
    def of(index_id: str) -> IndexVersion:
        """Of an index without changes."""
        return IndexVersion(index_id, 0, index_id)

    def after(self, changes_id: str) -> IndexVersion:
        """The version that a set of changes leads to."""
        sequence = self.sequence + 1
        links = f"{self.index_id} {sequence} {self.chain} {changes_id}"
        return IndexVersion(self.index_id, sequence, hashlib.sha256(links.encode()).hexdigest())

    def __str__(self) -> str:
        return f"{self.index_id}+{self.sequence}.{self.chain[:16]}" if self.sequence else self.index_id


@dataclass(frozen=True, eq=False)
class AdUpdates:
    """What changes of M ads that are there.

    Attributes:
      ids: int64 `[M]`, or M strings.
      bids: float32 `[M]`; NaN = as it was.
      valid: int8 `[M]`, whether the ad may be returned: 1 or 0; SAME = as it was.
      removed: bool `[M]`, whether the ad goes.
      attributes: of the M ads, where they are `given`; none where the schema has none.
      given: name of an attribute -> bool `[M]`, whether it changes.
    """

    ids: np.ndarray | list[str]
    bids: np.ndarray
    valid: np.ndarray
    removed: np.ndarray
    attributes: AdAttributes = NO_ATTRIBUTES
    given: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of(ids: np.ndarray | list[str], attributes: tuple[AdAttribute, ...] = ()) -> AdUpdates:
        """Of these ads, nothing changed yet."""
        m = len(ids)
        given = {a.name: np.zeros(m, bool) for a in attributes}
        numbers, flags, removed = np.full(m, np.nan, np.float32), np.full(m, SAME, np.int8), np.zeros(m, bool)
        return AdUpdates(ids, numbers, flags, removed, AdAttributes.empty(attributes, m), given)

    @staticmethod
    def read(schema: Schema, columns: Mapping[str, Any]) -> AdUpdates:
        """Of a table: the schema's `ad_id`, and one or more of `bid`, `eligible`, `remove` and attributes; null = as it
        was.

        Raises `EncodeError` naming column, row and value of what does not fit.
        """
        allowed = {schema.ad_id, BID, ELIGIBLE, REMOVE, *(a.name for a in schema.attributes)}
        for name in sorted(set(columns) - allowed):
            raise EncodeError(name, None, f"unknown column of changes{nearest(name, allowed)}")
        if schema.ad_id not in columns or len(columns) == 1:
            others = ", ".join(sorted(allowed - {schema.ad_id}))
            raise EncodeError(schema.ad_id, None, f"expected columns {schema.ad_id} and any of {others}")
        ids = read_ad_ids(schema.ad_id, columns[schema.ad_id], schema.ad_id_dtype)
        attributes, given = AdAttributes.read_updates(schema.attributes, columns, len(ids))
        updates = replace(AdUpdates.of(ids), attributes=attributes, given=given)
        if BID in columns:
            updates.bids[:] = read_bids(columns[BID], null=np.nan)
        if ELIGIBLE in columns:
            updates.valid[:] = read_flags(ELIGIBLE, columns[ELIGIBLE], null=SAME)
        if REMOVE in columns:
            updates.removed[:] = read_flags(REMOVE, columns[REMOVE], null=0) == 1
        return updates


@dataclass(frozen=True, eq=False)
class ChangeSet:
    """One set of changes. Raises `ChangeError` if its parts do not fit together.

    P ads are put: they are new, or replace the ad of their id. Others, which must be there, are marked. No id is named
    twice.

    Attributes:
      vectors: as of `AdIndex`, `[P, T, D]`.
      ids: int64 `[P]`, or P strings.
      bids: float32 `[P]`.
      valid: bool `[P]`.
      updates: of M others.
      attributes: of the P ads.
    """

    vectors: np.ndarray
    ids: np.ndarray | list[str]
    bids: np.ndarray
    valid: np.ndarray
    updates: AdUpdates
    attributes: AdAttributes = NO_ATTRIBUTES

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or self.vectors.dtype not in DTYPES.values():
            expected, got = ", ".join(DTYPES), f"{self.vectors.dtype} {self.vectors.shape}"
            raise ChangeError(f"vectors: expected {expected} [P, T, D], got {got}")
        put, marked = len(self.vectors), len(self.updates.ids)
        if put + marked == 0:
            raise ChangeError("expected at least one change, got none")
        id_type = list if isinstance(self.ids, list) else np.int64
        for name, array, n, dtype in (
            ("ids", self.ids, put, id_type),
            ("bids", self.bids, put, np.float32),
            ("valid", self.valid, put, np.bool_),
            ("updates.ids", self.updates.ids, marked, id_type),
            ("updates.bids", self.updates.bids, marked, np.float32),
            ("updates.valid", self.updates.valid, marked, np.int8),
            ("updates.removed", self.updates.removed, marked, np.bool_),
        ):
            _check_array(name, array, n, dtype)
        _check_bids("bids", self.bids)
        _check_bids("updates.bids", self.updates.bids[~np.isnan(self.updates.bids)])
        if not np.isin(self.updates.valid, (SAME, 0, 1)).all():
            raise ChangeError(f"updates.valid: expected 1, 0 or {SAME}")
        for n, attributes in ((put, self.attributes), (marked, self.updates.attributes)):
            if attributes.schema != self.attributes.schema or any(len(x) != n for x in attributes.columns.values()):
                raise ChangeError(f"attributes: expected those of {n} ads")
        for a in self.attributes.schema:
            _check_array(f"updates.given of {a.name}", self.updates.given[a.name], marked, np.bool_)
        once({"ads": self.ids, "updates": self.updates.ids})

    @property
    def dtype(self) -> VectorDType:
        """Of the vectors."""
        return vector_dtype(self.vectors)

    @property
    def id_dtype(self) -> DType:
        """Of the ids."""
        return "string" if isinstance(self.ids, list) else "int"

    @property
    def changes_id(self) -> str:
        """SHA-256, hexadecimal, of dtypes, shapes and all arrays: equal sets of changes have equal ids."""
        updates, head = self.updates, f"{self.dtype} {self.vectors.shape} {self.id_dtype} {len(self.updates.ids)}"
        put = (self.vectors, self.ids, self.bids, self.valid)
        marked = (updates.ids, updates.bids, updates.valid, updates.removed)
        attributes = (*self.attributes.parts(), *updates.attributes.parts(), *updates.given.values())
        return content_id(*put, *marked, *attributes, head=head)


def once(lists: Mapping[str, np.ndarray | Sequence[AdId]]) -> None:
    """Raises `ChangeError` naming the first ad that is in these lists twice, and where."""
    places: dict[AdId, str] = {}
    for key, ids in lists.items():
        for i, ad in enumerate(ids.tolist() if isinstance(ids, np.ndarray) else ids):
            if ad in places:
                raise ChangeError(f"{key}[{i}]: expected each ad once, but {ad!r} is {places[ad]} too")
            places[ad] = f"{key}[{i}]"


def _check_array(name: str, array: np.ndarray | list[str], n: int, dtype: Any) -> None:
    if isinstance(array, list):
        if dtype is not list or len(array) != n or not all(type(v) is str for v in array):
            raise ChangeError(f"{name}: expected {n} strings")
    elif dtype is list or array.dtype != dtype or array.shape != (n,):
        wanted = "strings" if dtype is list else np.dtype(dtype)
        raise ChangeError(f"{name}: expected {n} {wanted}, got {array.dtype} {array.shape}")


def _check_bids(name: str, bids: np.ndarray) -> None:
    bad = ~(np.isfinite(bids) & (bids >= 0))
    if bad.any():
        raise ChangeError(f"{name}: expected float32 numbers >= 0, got {bids[np.argmax(bad)]}")


def id_values(ids: np.ndarray | list[str]) -> list[Any]:
    """Ids as Python values."""
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def as_ids(values: Sequence[Any], dtype: DType) -> np.ndarray | list[str]:
    """Python values as ids: int64 `[n]`, or n strings."""
    return list(values) if dtype == "string" else np.array(values, np.int64)
