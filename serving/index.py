"""The ad index: the ad tower's output for a corpus of ads, with ids, bids and eligibility, stamped with its bundle.

    manifest.json               `IndexManifest`
    vectors.npy                 [N, T, D] float32, or bfloat16 as its uint16 bits, which NumPy can store
    ids.npy | ids.json          int64 [N] | a list of strings
    bids.npy valid.npy          float32 [N], bool [N]

`build_index` makes it, `AdIndex.save` publishes it, `AdIndex.load` checks every byte.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tt_jax.bundle import Bundle
from tt_jax.columns import EncodeError, is_arrow, read_ids, read_numbers
from tt_jax.features import Encoder
from tt_jax.publish import FileEntry, describe_files, published_directory, read_published, write_manifest
from tt_jax.schema import PAD_ID, DType
from tt_jax.strict_json import nearest

FORMAT = "tt-jax ad index"
FORMAT_VERSION = 1
BID, ELIGIBLE = "bid", "eligible"
BATCH = 8192  # ads embedded at a time
AdId = int | str
VectorDType = Literal["f32", "bf16"]
_DTYPES: dict[str, np.dtype] = {"f32": np.dtype(np.float32), "bf16": np.dtype(jnp.bfloat16)}


class AdIndexError(ValueError):
    """An index that must not be used. The message names the file and what is wrong with it."""


@dataclass(frozen=True)
class IndexManifest:
    """`manifest.json` of an index.

    Attributes:
      format, format_version: `FORMAT`, `FORMAT_VERSION`.
      fingerprint: of the bundle whose ad tower made the vectors.
      index_id: see `AdIndex`.
      created: UTC, ISO 8601.
      jax, tt_jax: versions that wrote it.
      shape: of the vectors, N, T, D.
      eligible: number of ads that may be returned.
      dtype: of the vectors, `f32` or `bf16`.
      id_dtype: `int` or `string`.
      files: every other file.
    """

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


@dataclass(frozen=True, eq=False)
class AdIndex:
    """N embedded ads. Raises `AdIndexError` if its parts do not fit together.

    Attributes:
      vectors: float32 or bfloat16 `[N, T, D]`.
      ids: int64 `[N]`, or N strings; distinct.
      bids: float32 `[N]`, in the currency of the auction.
      valid: bool `[N]`, whether the ad may be returned.
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

    def __post_init__(self) -> None:
        n = len(self.vectors)
        if self.vectors.ndim != 3 or n == 0:
            raise AdIndexError(f"vectors: expected [N, T, D] of at least one ad, got {self.vectors.shape}")
        for name, array, dtypes, shape in (
            ("vectors", self.vectors, tuple(_DTYPES.values()), (n, *self.vectors.shape[1:])),
            ("ids", self.ids, (np.dtype(np.int64),), (n,)),
            ("bids", self.bids, (np.dtype(np.float32),), (n,)),
            ("valid", self.valid, (np.dtype(bool),), (n,)),
        ):
            if isinstance(array, list):
                if len(array) != n or not all(type(v) is str for v in array):
                    raise AdIndexError(f"{name}: expected {n} strings")
            elif array.dtype not in dtypes or array.shape != shape:
                raise AdIndexError(f"{name}: expected {dtypes[0]} {shape}, got {array.dtype} {array.shape}")

    @property
    def dtype(self) -> VectorDType:
        """Of the vectors."""
        return "f32" if self.vectors.dtype == np.float32 else "bf16"

    def save(self, out: str | os.PathLike[str]) -> None:
        """Writes a directory that appears complete or not at all. Raises `PublishError` if it exists."""
        with published_directory(out) as directory:
            bits = self.vectors if self.dtype == "f32" else self.vectors.view(np.uint16)
            np.save(directory / "vectors.npy", bits, allow_pickle=False)
            np.save(directory / "bids.npy", self.bids, allow_pickle=False)
            np.save(directory / "valid.npy", self.valid, allow_pickle=False)
            if isinstance(self.ids, list):
                (directory / "ids.json").write_text(json.dumps(self.ids), encoding="utf-8")
            else:
                np.save(directory / "ids.npy", self.ids, allow_pickle=False)
            manifest = IndexManifest(
                format=FORMAT,
                format_version=FORMAT_VERSION,
                fingerprint=self.fingerprint,
                index_id=self.index_id,
                created=self.created,
                jax=importlib.metadata.version("jax"),
                tt_jax=importlib.metadata.version("tt-jax"),
                shape=self.vectors.shape,
                eligible=int(self.valid.sum()),
                dtype=self.dtype,
                id_dtype="string" if isinstance(self.ids, list) else "int",
                files=describe_files(directory),
            )
            write_manifest(directory, manifest)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> AdIndex:
        """Reads an index. Raises `AdIndexError` unless every file is exactly as it was written."""
        path = Path(path)
        manifest = read_published(path, IndexManifest, AdIndexError)
        if (manifest.format, manifest.format_version) != (FORMAT, FORMAT_VERSION):
            found = f"{manifest.format!r} version {manifest.format_version}"
            raise AdIndexError(f"{path}: expected {FORMAT!r} version {FORMAT_VERSION}, found {found}")
        try:
            vectors = np.load(path / "vectors.npy", allow_pickle=False)
            index = AdIndex(
                vectors=vectors.view(_DTYPES["bf16"]) if manifest.dtype == "bf16" else vectors,
                ids=_load_ids(path, manifest.id_dtype),
                bids=np.load(path / "bids.npy", allow_pickle=False),
                valid=np.load(path / "valid.npy", allow_pickle=False),
                fingerprint=manifest.fingerprint,
                index_id=manifest.index_id,
                created=manifest.created,
            )
        except Exception as e:  # NumPy and tokenize raise every kind for a damaged file
            raise AdIndexError(f"{path}: {e}") from e
        if (index.dtype, index.vectors.shape) != (manifest.dtype, manifest.shape):
            found = f"{index.dtype} {index.vectors.shape}"
            raise AdIndexError(f"{path / 'vectors.npy'}: expected {manifest.dtype} {manifest.shape}, got {found}")
        return index


def _load_ids(path: Path, dtype: DType) -> np.ndarray | list[str]:
    if dtype == "string":
        return json.loads((path / "ids.json").read_text(encoding="utf-8"))
    return np.load(path / "ids.npy", allow_pickle=False)


def build_index(bundle: Bundle, ads: Any, dtype: VectorDType = "f32", batch: int = BATCH) -> AdIndex:
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
    names = {*(f.name for f in schema.tower_features("ad")), schema.ad_id, BID, ELIGIBLE}
    for name in sorted(names.difference(ads.column_names)):
        raise EncodeError(name, None, f"the column is missing{nearest(name, ads.column_names)}")
    ids = _read_ad_ids(schema.ad_id, ads.column(schema.ad_id), schema.ad_id_dtype)
    bids, valid = _read_bids(ads.column(BID)), _read_eligible(ads.column(ELIGIBLE))
    vectors = _embed(bundle, ads.select(sorted(names)), min(batch, n), _DTYPES[dtype])
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    index_id = _content_id(bundle.fingerprint, vectors, ids, bids, valid)
    return AdIndex(vectors, ids, bids, valid, bundle.fingerprint, index_id, now)


def _embed(bundle: Bundle, ads: Any, batch: int, dtype: np.dtype) -> np.ndarray:
    """`[N, T, D]`. The last batch is padded, so that one program serves all."""
    model, encoder = bundle.model, Encoder(bundle.schema)
    embed = jax.jit(lambda params, tables, ids, floats: model.embed(params, tables, "ad", ids, floats).astype(dtype))
    params, tables = jax.device_put((bundle.params, bundle.tables))
    vectors = np.empty((len(ads), len(bundle.schema.heads), model.config.output_dim), dtype)
    for start in range(0, len(ads), batch):
        rows = ads.slice(start, batch)
        try:
            arrays = encoder.encode({n: rows.column(n) for n in rows.column_names}, ("ad",), outcomes=False).arrays
        except EncodeError as e:
            raise EncodeError(e.column, None if e.row is None else start + e.row, e.reason) from None
        spare = ((0, batch - len(rows)), (0, 0))
        ids = np.pad(arrays["ad_ids"], spare, constant_values=PAD_ID)
        found = embed(params, tables, ids, np.pad(arrays["ad_floats"], spare))
        vectors[start : start + batch] = np.asarray(found)[: len(rows)]
    return vectors


def _read_ad_ids(name: str, column: Any, dtype: DType) -> np.ndarray | list[str]:
    scalars = read_ids(name, column, dtype)
    if not scalars.valid.all():
        raise EncodeError(name, int(np.argmin(scalars.valid)), "expected an id, got null")
    strings = scalars.strings or []
    codes = scalars.ints if scalars.ints is not None else scalars.codes
    assert codes is not None
    distinct, first = np.unique(codes, return_index=True)
    if len(distinct) < len(codes):
        again = np.ones(len(codes), bool)
        again[first] = False
        row = int(np.argmax(again))
        value = int(codes[row]) if scalars.ints is not None else strings[codes[row]]
        before = int(first[np.searchsorted(distinct, codes[row])])
        raise EncodeError(name, row, f"expected distinct ids, got {value!r} as in row {before}")
    return codes if scalars.ints is not None else [strings[c] for c in codes]


def _read_bids(column: Any) -> np.ndarray:
    values = read_numbers(BID, column)
    with np.errstate(over="ignore"):
        bids = values.astype(np.float32)
    bad = ~(np.isfinite(bids) & (bids >= 0))  # a null is NaN here
    if bad.any():
        row = int(np.argmax(bad))
        raise EncodeError(BID, row, f"expected a float32 number >= 0, got {values[row]}")
    return bids


def _read_eligible(column: Any) -> np.ndarray:
    if not is_arrow(column) or str(column.type) != "bool":
        raise EncodeError(ELIGIBLE, None, f"expected booleans, got {getattr(column, 'type', type(column).__name__)}")
    null = np.asarray(column.is_null())
    if null.any():
        raise EncodeError(ELIGIBLE, int(np.argmax(null)), "expected true or false, got null")
    return np.asarray(column)


def _content_id(
    fingerprint: str, vectors: np.ndarray, ids: np.ndarray | list[str], bids: np.ndarray, valid: np.ndarray
) -> str:
    digest = hashlib.sha256(f"{fingerprint} {vectors.dtype} {vectors.shape}\n".encode())
    names = np.frombuffer(json.dumps(ids).encode(), np.uint8) if isinstance(ids, list) else ids
    for array in (vectors, names, bids, valid):
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
