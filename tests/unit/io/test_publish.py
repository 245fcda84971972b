"""Stored things that were changed by hand: told by version if that is not read, as damage otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tt_jax.io.publish import (
    MANIFEST,
    Format,
    read_digested,
    read_published,
    write_digested,
    write_manifest,
)
from tt_jax.io.verify import FileEntry

FORMAT = Format("tt-jax thing", (1, 2))
CHANGES = [("format_version", 7, "expected 'tt-jax thing' version 1 or 2, found 'tt-jax thing' version 7$"),
           ("format_version", 1, "its digest is not that of its content"),
           ("format", "x", "found 'x' version 2$"),
           ("size", 3, "its digest is not that of its content")]  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    FORMAT: ClassVar[Format] = FORMAT
    format: str
    format_version: int
    size: int
    files: tuple[FileEntry, ...] = ()


def _change(path: Path, key: str, value: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_a_file_with_a_digest(tmp_path: Path, key: str, value: Any, message: str) -> None:
    write_digested(path := tmp_path / "thing.json", {"size": 2}, FORMAT)
    assert read_digested(path, FORMAT, ValueError) == {"size": 2}
    _change(path, key, value)
    with pytest.raises(ValueError, match=message):
        read_digested(path, FORMAT, ValueError)


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_a_published_directory(tmp_path: Path, key: str, value: Any, message: str) -> None:
    write_manifest(tmp_path, written := Manifest(**FORMAT.stamp, size=2))
    assert read_published(tmp_path, Manifest, ValueError) == written
    _change(tmp_path / MANIFEST, key, value)
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path, Manifest, ValueError)
