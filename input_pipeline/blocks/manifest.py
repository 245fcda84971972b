"""The manifest of a prepared set: what it holds, counted, and the hash of every file. Written last, read first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tt_jax.io.publish import Format
from tt_jax.io.strict_json import dataclass_from_dict, parse_json
from tt_jax.io.verify import FileEntry
from tt_jax.schema import SchemaError

FORMAT = Format("tt-jax prepared set", (1, 2))  # 1 had no `beside` and no digest; the key is `version`
VERSION = FORMAT.reads[-1]
MANIFEST = "manifest.json"
SCHEMA = "schema.json"
ADS = "ads.parquet"


@dataclass(frozen=True)
class DataFile:
    """One file of blocks: `path` below the set's directory, of one split and scenario, one row group a block."""

    path: str
    split: str
    scenario: str
    rows: int
    blocks: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Counts:
    """What one scenario of one split holds.

    Attributes:
      rows: log rows.
      labelled: rows with a label, per task.
      rate: mean label over those rows, per task; None where there are none.
      coverage: share of rows in which a feature is present, per feature; None without rows.
    """

    rows: int
    labelled: dict[str, int]
    rate: dict[str, float | None]
    coverage: dict[str, float | None]


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
      version: of this format.
      schema: fingerprint of the schema.
      block_rows: rows of a block, fewer in the last one of a split and scenario.
      splits: counts by split, then by scenario; every scenario of the schema is there.
      files: the files of blocks.
      ads_sha256: hash of the ad corpus beside them, "" without one.
      fingerprint: SHA-256 over the schema's fingerprint and the hashes of all files.
      rejected: bad rows that were left out, in `quarantine.jsonl`.
      beside: the other files: schema, sample rows, documents.
    """

    version: int
    schema: str
    block_rows: int
    splits: dict[str, dict[str, Counts]]
    files: tuple[DataFile, ...]
    ads_sha256: str
    fingerprint: str
    rejected: int = 0
    beside: tuple[FileEntry, ...] = ()

    def to_json(self) -> str:
        """JSON text, with a digest of itself."""
        return _with_digest(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Raises `SchemaError` naming what is wrong with the text."""
        data = parse_json(text, "manifest", SchemaError)
        if not isinstance(data, dict):
            raise SchemaError("manifest: expected a group of keys")
        if problem := FORMAT.problem({"format_version": data.get("version")}):
            raise SchemaError(problem)
        if data["version"] == VERSION:
            data.pop("digest", None)
            if _with_digest(data) != text:
                raise SchemaError("changed since it was written: its digest is not that of its content")
        return dataclass_from_dict(Manifest, data, "manifest", SchemaError)


def _with_digest(fields: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    return json.dumps({**fields, "digest": digest}, indent=1) + "\n"


def total_fingerprint(schema: str, files: tuple[DataFile, ...], ads_sha256: str) -> str:
    """Hexadecimal SHA-256 that changes with the schema and with every byte of the data."""
    lines = [schema, *(f"{f.path} {f.sha256}" for f in files), ads_sha256]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
