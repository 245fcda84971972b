"""A prepared set: where its blocks are, what is in its manifest, whether its files are as they were written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from input_pipeline.blocks.block import Blocks, PreparedError
from input_pipeline.blocks.manifest import ADS, MANIFEST, SCHEMA, VERSION, DataFile, Manifest, total_fingerprint
from input_pipeline.blocks.samples import read_samples
from tt_jax.io.strict_json import nearest
from tt_jax.io.verify import FileEntry, verify_files, verify_once, verify_sizes
from tt_jax.schema import Schema

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedSet:
    """A prepared set that has been opened: see `open`."""

    root: Path
    schema: Schema
    manifest: Manifest

    @staticmethod
    def open(path: str | Path, verify: bool = False) -> PreparedSet:
        """Reads manifest and schema, and checks that every file is there with its size.

        The hash of a file of blocks is checked before its first block is read; those of all others are, here.

        Args:
          path: what `prepare` wrote.
          verify: hash the files of blocks too, and not only when they are read.

        Raises:
          PreparedError: it is not a prepared set, or not a whole one; the message names the file.
        """
        root = Path(path)
        if not (root / MANIFEST).is_file():
            wrong = "half written" if (root / SCHEMA).is_file() else "not a prepared set"
            raise PreparedError(f"{root}: {wrong}: it has no {MANIFEST}; make one with `tt-jax prepare`")
        manifest = _parse(root / MANIFEST, Manifest.from_json)
        schema = _parse(root / SCHEMA, Schema.from_json)
        if schema.fingerprint != manifest.schema:
            raise PreparedError(f"{root / SCHEMA}: not the schema that the set was prepared with")
        if total_fingerprint(manifest.schema, manifest.files, manifest.ads_sha256) != manifest.fingerprint:
            raise PreparedError(f"{root / MANIFEST}: changed since it was written: the fingerprint does not match")
        _check_files(root, manifest, verify)
        return PreparedSet(root, schema, manifest)

    @property
    def fingerprint(self) -> str:
        """Identifies schema and data."""
        return self.manifest.fingerprint

    def files(self, split: str, scenarios: Sequence[str] = ()) -> list[DataFile]:
        """The files of some scenarios of a split, all of them by default. Raises `PreparedError` if one has no rows."""
        splits = self.manifest.splits
        if split not in splits:
            raise PreparedError(f"{self.root}: unknown split {split!r}{nearest(split, splits)}")
        for name in scenarios:
            if name not in splits[split]:
                raise PreparedError(f"{self.root}: unknown scenario {name!r}{nearest(name, splits[split])}")
            if not splits[split][name].rows:
                raise PreparedError(f"{self.root}: the scenario {name!r} has no rows in the split {split!r}")
        files = [f for f in self.manifest.files if f.split == split and (not scenarios or f.scenario in scenarios)]
        if not files:
            raise PreparedError(f"{self.root}: the split {split!r} is empty")
        return files

    def rows(self, split: str, scenarios: Sequence[str] = ()) -> int:
        """Rows of some scenarios of a split."""
        return sum(f.rows for f in self.files(split, scenarios))

    def blocks(self, splits: Sequence[str], scenarios: Sequence[str] = (), arrays: Sequence[str] = ()) -> Blocks:
        """The blocks of some scenarios of some splits, one split after another; nothing else of the set is touched.

        Raises `PreparedError` as `files` does.
        """
        files = [f for split in splits for f in self.files(split, scenarios)]
        return Blocks(self.root, self.schema, files, arrays)

    def samples(self, scenarios: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A few raw rows; see `input_pipeline.blocks.samples.read_samples`."""
        return read_samples(self.root, scenarios)


@dataclass(frozen=True)
class Part:
    """Some splits of a prepared set, pooled."""

    prepared: PreparedSet
    splits: tuple[str, ...]

    def rows(self, scenarios: Sequence[str] = ()) -> int:
        """Rows of some scenarios. Raises `PreparedError` as `PreparedSet.files` does."""
        return sum(self.prepared.rows(split, scenarios) for split in self.splits)


def _parse(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text())
    except (ValueError, OSError) as e:
        raise PreparedError(f"{path}: {e}") from e


def _check_files(root: Path, manifest: Manifest, verify: bool) -> None:
    if manifest.version < VERSION:
        log.warning("%s: prepared by an earlier version: its counts and sample rows have no hash to verify", root)
    files = [FileEntry(f.path, f.bytes, f.sha256) for f in manifest.files]
    verify_sizes(root, files, PreparedError)
    verify_files(root, [*manifest.beside, *(files if verify else ())], PreparedError)
    if manifest.ads_sha256:
        verify_once(root / ADS, manifest.ads_sha256, PreparedError)
    listed = {file.path for file in files} | ({ADS} if manifest.ads_sha256 else set())
    for extra in sorted({p.relative_to(root).as_posix() for p in root.rglob("*.parquet")} - listed):
        raise PreparedError(f"{root / extra}: not in the manifest")
