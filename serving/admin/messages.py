"""What the admin listener reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from serving.eligibility.ad_attributes import AdAttributes
from serving.index.ad_columns import AdId, ad_columns, read_ad_ids, read_ad_rows, read_bids
from serving.index.change_set import AdUpdates, ChangeError, ChangeSet, once
from serving.scorer import Scorer
from serving.scorer_updates import embed
from serving.service.messages import read_body
from tt_jax.features.columns import EncodeError
from tt_jax.io.strict_json import nearest
from tt_jax.schema import Schema

LOAD_EXAMPLE = '{"bundle": "bundles/kuairand", "index": "indexes/kuairand"}'
DELTA_EXAMPLE = '{"delta": "deltas/0001"}'
SPLIT_EXAMPLE = '{"model": "shopping", "weights": {"shopping.1": 90, "shopping.2": 10}}'
ADS_EXAMPLE = '{"disable": [<id>, ...], "rebid": [[<id>, <bid>], ...]}'


class LoadRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /admin/load`: directories that the service can read."""

    bundle: str
    index: str
    deltas: Annotated[str | None, Meta(description="directory of the deltas of this index, all to be applied")] = None
    journal: Annotated[str | None, Meta(description="directory of the journal; None = the one that is in use")] = None
    carry: Annotated[bool, Meta(description="make the changes of the index that is served to this one too")] = False
    model: str | None = None


class DeltaRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /admin/delta`: a directory that the service can read."""

    delta: str
    model: str | None = None


class SplitRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /admin/split`: the weight of each pair of a model that has several."""

    weights: dict[str, float]
    model: str | None = None


class _Named(Struct):
    """What every body may have: which pair it is for, needed if there are several; of a split, which model."""

    model: str | None = None


class AdChanges(Struct, forbid_unknown_fields=True):
    """Body of `POST /admin/ads`. All of it happens, or nothing.

    Attributes:
      upsert: ads that are new, or replace the ad of their id: every one an object of the ad's features, where an absent
        one is missing, its id, `bid` and `eligible`.
      enable, disable: ids of ads that may be returned from now on, or no longer.
      rebid: pairs of an id and a bid.
      set: name of an attribute -> pairs of an id and a value.
      remove: ids.
      model: whose ads they are.
    """

    upsert: list[dict[str, Any]] = []
    enable: list[AdId] = []
    disable: list[AdId] = []
    rebid: list[tuple[AdId, float]] = []
    set: dict[str, list[tuple[AdId, Any]]] = {}
    remove: list[AdId] = []
    model: str | None = None


class Count(Struct):
    """Attempts that succeeded, and that failed and changed nothing."""

    done: int
    failed: int


class Status(Struct):
    """Answer of every call of the admin listener that succeeds: what is served now.

    Attributes:
      ready: whether requests are welcome.
      model, models: the pair that this is of, and all of them.
      weights: of the pairs that share the requests of its model.
      bundle, index, deltas, journal: directories that were loaded.
      fingerprint: of the bundle.
      version: of the index, as answers name it.
      index_id, sequence, chain: its parts.
      ads, eligible_ads, places: in the index; those that may be returned; for ads, free ones included.
      memory_bytes: of its arrays.
      age_seconds: since the index or the last of its changes was made.
      loads, changes: of bundle and index; of ads.
      left_behind: index_id of other indexes -> sets of changes that the journal has of them; and of the index served
        before, that stay in another journal, or nowhere without one.
      last_error, last_error_seconds: of a load or a change, and how long ago it was.
    """

    ready: bool
    model: str
    models: list[str]
    weights: dict[str, float]
    bundle: str
    index: str
    deltas: str | None
    journal: str | None
    fingerprint: str
    version: str
    index_id: str
    sequence: int
    chain: str
    ads: int
    eligible_ads: int
    places: int
    memory_bytes: int
    age_seconds: float
    loads: Count
    changes: Count
    left_behind: dict[str, int]
    last_error: str | None
    last_error_seconds: float | None


_LOAD = msgspec.json.Decoder(LoadRequest)
_DELTA = msgspec.json.Decoder(DeltaRequest)
_ADS = msgspec.json.Decoder(AdChanges)
_SPLIT = msgspec.json.Decoder(SplitRequest)
_NAMED = msgspec.json.Decoder(_Named)


def read_load(body: bytes) -> LoadRequest:
    """Raises `RequestError`."""
    return read_body(body, _LOAD, LOAD_EXAMPLE)


def read_delta(body: bytes) -> DeltaRequest:
    """Raises `RequestError`."""
    return read_body(body, _DELTA, DELTA_EXAMPLE)


def read_split(body: bytes) -> SplitRequest:
    """Raises `RequestError`."""
    return read_body(body, _SPLIT, SPLIT_EXAMPLE)


def read_model(body: bytes) -> str | None:
    """The `model` of any body. Raises `RequestError`."""
    return read_body(body, _NAMED, LOAD_EXAMPLE).model


def read_changes(body: bytes, scorer: Scorer) -> ChangeSet:
    """The changes that a body asks for, with the vectors of the ads to put.

    Raises `RequestError` for a body that is none, `ChangeError` naming list, row, column and value of what is wrong.
    """
    request = read_body(body, _ADS, ADS_EXAMPLE)
    ids = {
        "enable": request.enable,
        "disable": request.disable,
        "rebid": [ad for ad, _ in request.rebid],
        "remove": request.remove,
    }
    schema = scorer.schema
    known = [a.name for a in schema.attributes]
    for name, pairs in request.set.items():
        if name not in known:
            raise ChangeError(f"set: unknown attribute {name!r}{nearest(name, known)}")
        ids[f"set.{name}"] = [ad for ad, _ in pairs]
    for key, some in ids.items():
        with _errors_of(key):
            read_ad_ids(schema.ad_id, some, schema.ad_id_dtype)
        _require_known(key, some, scorer)
    with _errors_of("upsert"):
        rows = read_ad_rows(schema, _columns(request.upsert, schema))
        vectors = embed(scorer, rows.features, len(request.upsert))
    put: dict[str, Any] = {"upsert": rows.ids}
    once(put | {key: ids[key] for key in ("enable", "disable", "remove")})
    for key in ("rebid", *(f"set.{name}" for name in request.set)):
        once(put | {key: ids[key], "remove": ids["remove"]})
    return ChangeSet(vectors, rows.ids, rows.bids, rows.valid, _ad_updates(request, ids, schema), rows.attributes)


def _ad_updates(request: AdChanges, ids: dict[str, list[AdId]], schema: Schema) -> AdUpdates:
    place = {ad: i for i, ad in enumerate(dict.fromkeys(chain(*ids.values())))}
    columns: dict[str, list[Any]] = {name: [None] * len(place) for name in request.set}
    for name, pairs in request.set.items():
        for row, (ad, value) in enumerate(pairs):
            if value is None:
                raise ChangeError(f"set.{name}[{row}]: expected a value, got null")
            columns[name][place[ad]] = value
    attributes = _read_attributes(schema, columns, list(place))
    updates = AdUpdates.of(read_ad_ids(schema.ad_id, list(place), schema.ad_id_dtype), schema.attributes)
    updates = replace(updates, attributes=attributes[0], given=attributes[1])
    at = {key: np.array([place[ad] for ad in some], np.int64) for key, some in ids.items()}
    updates.valid[at["enable"]] = 1
    updates.valid[at["disable"]] = 0
    updates.removed[at["remove"]] = True
    with _errors_of("rebid"):
        updates.bids[at["rebid"]] = read_bids([bid for _, bid in request.rebid])
    return updates


def _read_attributes(
    schema: Schema, columns: dict[str, list[Any]], ids: list[AdId]
) -> tuple[AdAttributes, dict[str, np.ndarray]]:
    try:
        return AdAttributes.read_updates(schema.attributes, columns, len(ids))
    except EncodeError as e:
        of_ad = "" if e.row is None else f", ad {ids[e.row]!r}"
        raise ChangeError(f"set.{e.column}{of_ad}: {e.reason}") from None
    except RecursionError:
        raise ChangeError("set: a value is nested too deeply") from None


def _require_known(key: str, ids: list[AdId], scorer: Scorer) -> None:
    unknown = np.flatnonzero(scorer.ads.ids.find(ids) < 0)
    if len(unknown):
        raise ChangeError(f"{key}[{unknown[0]}]: expected the id of an ad in the index, got {ids[unknown[0]]!r}")


def _columns(rows: list[dict[str, Any]], schema: Schema) -> dict[str, list[Any]]:
    names = ad_columns(schema)
    for i, row in enumerate(rows):
        for name in row:
            if name not in names:
                raise EncodeError(name, i, f"unknown column of an ad{nearest(name, names)}")
    return {name: [row.get(name) for row in rows] for name in sorted(names)}


@contextmanager
def _errors_of(key: str) -> Iterator[None]:
    """Errors of the encoder, with the place in the body."""
    try:
        yield
    except EncodeError as e:
        where = key if e.row is None else f"{key}[{e.row}]"
        raise ChangeError(f"{where}: column {e.column!r}: {e.reason}") from None
    except RecursionError:  # from the repr of a value in such an error
        raise ChangeError(f"{key}: a value is nested too deeply") from None
