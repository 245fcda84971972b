"""Raw ads as arrays: the columns of a corpus or of changed ads, checked, and their vectors by the ad tower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.eligibility.ad_attributes import AdAttributes
from tt_jax.features.columns import EncodeError, nulls, read_flags, read_ids, read_numbers
from tt_jax.features.encoder import Encoder
from tt_jax.io.strict_json import nearest
from tt_jax.schema import PAD_ID, DType, Schema

BID, ELIGIBLE = "bid", "eligible"
AdId = int | str
Embed = Callable[[np.ndarray, np.ndarray], Any]  # encoded ids and floats of ads -> their vectors


@dataclass(frozen=True, eq=False)
class AdRows:
    """n raw ads.

    Attributes:
      ids: int64 `[n]`, or n strings; distinct.
      bids: float32 `[n]`, finite, >= 0.
      valid: bool `[n]`.
      attributes: those of the schema.
      features: the columns of the ad tower's features.
    """

    ids: np.ndarray | list[str]
    bids: np.ndarray
    valid: np.ndarray
    attributes: AdAttributes
    features: dict[str, Any]


def ad_columns(schema: Schema) -> set[str]:
    """Names of the columns of an ad: features of its tower, the schema's `ad_id`, attributes, `bid` and `eligible`."""
    return {*_required(schema), *(a.name for a in schema.attributes)}


def _required(schema: Schema) -> set[str]:
    with_default = {a.name for a in schema.attributes if a.default is not None}
    attributes = {a.name for a in schema.attributes} - with_default
    return {*(f.name for f in schema.tower_features("ad")), schema.ad_id, *attributes, BID, ELIGIBLE}


def columns_of(table: Any) -> dict[str, Any]:
    """The columns of an Arrow table. Raises `EncodeError` for a name that two of them have."""
    require_different(table.column_names)
    return {name: table.column(name) for name in table.column_names}


def require_different(names: Sequence[str]) -> None:
    """Raises `EncodeError` for the first name that two columns have."""
    for place, name in enumerate(names, 1):
        if (first := names.index(name) + 1) != place:
            raise EncodeError(name, None, f"two columns have this name, number {first} and number {place}")


def read_ad_rows(schema: Schema, columns: Mapping[str, Any]) -> AdRows:
    """The ads of these columns, Arrow or Python; columns that `ad_columns` does not name are ignored.

    Raises `EncodeError` naming column, row and value of what does not fit. Features are read when they are embedded.
    """
    require_ad_columns(schema, columns)
    return AdRows(
        read_ad_ids(schema.ad_id, columns[schema.ad_id], schema.ad_id_dtype),
        read_bids(columns[BID]),
        read_flags(ELIGIBLE, columns[ELIGIBLE]),
        AdAttributes.read(schema.attributes, columns, len(columns[schema.ad_id])),
        {f.name: columns[f.name] for f in schema.tower_features("ad")},
    )


def require_ad_columns(schema: Schema, names: Iterable[str]) -> None:
    """Raises `EncodeError` for the first column of an ad that is not among the names."""
    names = list(names)
    for name in sorted(_required(schema).difference(names)):
        raise EncodeError(name, None, f"the column is missing{nearest(name, names)}")


def embed_ads(encoder: Encoder, features: Mapping[str, Any], batch: int, embed: Embed, out: np.ndarray) -> None:
    """Embeds raw ads into `out` `[n, T, D]`, in batches. Raises `EncodeError` naming column, row and value."""
    n = len(out)
    for start in range(0, n, batch):
        rows = min(batch, n - start)
        columns = {name: column[start : start + rows] for name, column in features.items()}
        out[start : start + rows] = embed_batch(encoder, columns, start, batch, embed)


def embed_batch(encoder: Encoder, columns: Mapping[str, Any], start: int, batch: int, embed: Embed) -> np.ndarray:
    """The vectors `[n, T, D]` of n <= batch raw ads. Raises `EncodeError`, rows counted from `start`.

    Fewer are padded, so that one program serves all.
    """
    try:
        arrays = encoder.encode(columns, ("ad",), outcomes=False).arrays
    except EncodeError as e:
        raise EncodeError(e.column, None if e.row is None else start + e.row, e.reason) from None
    rows = len(arrays["ad_ids"])
    spare = ((0, batch - rows), (0, 0))
    ids = np.pad(arrays["ad_ids"], spare, constant_values=PAD_ID)
    return np.asarray(embed(ids, np.pad(arrays["ad_floats"], spare)))[:rows]


def read_ad_ids(name: str, column: Any, dtype: DType) -> np.ndarray | list[str]:
    """Distinct ids of ads: int64 `[n]`, or n strings. Raises `EncodeError`."""
    scalars = read_ids(name, column, dtype, empty_is_id=False)
    if not scalars.valid.all():
        raise EncodeError(name, int(np.argmin(scalars.valid)), "expected an id, got null or an empty text")
    strings = scalars.strings or []
    codes = scalars.ints if scalars.ints is not None else scalars.codes
    assert codes is not None
    ordered = np.sort(codes)  # a tenth of the memory and time of what tells where they are
    if (ordered[1:] == ordered[:-1]).any():
        distinct, first = np.unique(codes, return_index=True)
        again = np.ones(len(codes), bool)
        again[first] = False
        row = int(np.argmax(again))
        value = int(codes[row]) if scalars.ints is not None else strings[codes[row]]
        before = int(first[np.searchsorted(distinct, codes[row])])
        raise EncodeError(name, row, f"expected distinct ids, got {value!r} as in row {before}")
    return codes if scalars.ints is not None else [strings[c] for c in codes]


def read_bids(column: Any, null: float | None = None) -> np.ndarray:
    """Bids float32 `[n]`, finite and >= 0; `null` where there is none, which is an error without it.

    Raises `EncodeError`.
    """
    values = read_numbers(BID, column)
    with np.errstate(over="ignore"):
        bids = values.astype(np.float32)
    bad = ~(np.isfinite(bids) & (bids >= 0))  # a null is NaN here
    if null is not None:
        absent = nulls(column)
        bids[absent] = null
        bad &= ~absent
    if bad.any():
        row = int(np.argmax(bad))
        raise EncodeError(BID, row, f"expected a float32 number >= 0, got {values[row]}")
    return bids
