"""Files against their hashes and sizes."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_HASHING = 4  # threads
_locks: dict[Path, threading.Lock] = {}


@dataclass(frozen=True)
class FileEntry:
    """One file of a published directory: path relative to it with `/`, size in bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


def verify_files(directory: Path, expected: Sequence[FileEntry], error: type[ValueError]) -> None:
    """Raises `error`, naming the first file that is missing or not as it was when it was described."""
    verify_sizes(directory, expected, error)
    hashes = sha256_of_all([directory / entry.path for entry in expected])
    for entry, digest in zip(expected, hashes, strict=True):
        _require_equal(directory / entry.path, entry.sha256, digest, error)


def verify_sizes(directory: Path, expected: Sequence[FileEntry], error: type[ValueError]) -> None:
    """Raises `error`, naming the first file that is missing or of another size."""
    for entry in expected:
        path = directory / entry.path
        if not path.is_file():
            raise error(f"{path}: missing, but the manifest lists it")
        if (size := path.stat().st_size) != entry.size:
            raise error(f"{path}: expected {entry.size} bytes, got {size}")


def verify_once(path: Path, sha256: str, error: type[ValueError]) -> None:
    """Raises `error` if a file is missing or has another SHA-256.

    A process hashes it again only if its size, time or inode has changed. Safe in threads: one hashes a file while
    others wait for it, and others hash other files.
    """
    if not path.is_file():
        raise error(f"{path}: missing, but the manifest lists it")
    stat = path.stat()
    with _locks.setdefault(path, threading.Lock()):
        digest = _sha256_while(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    _require_equal(path, sha256, digest, error)


@functools.lru_cache(maxsize=65_536)
def _sha256_while(path: Path, *_identity: int) -> str:
    return sha256_of(path)


def _require_equal(path: Path, expected: str, digest: str, error: type[ValueError]) -> None:
    if digest != expected:
        raise error(f"{path}: expected SHA-256 {expected}, got {digest}")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_of_all(paths: Sequence[Path]) -> list[str]:
    """Those of many files, in their order; hashed by threads, which Python lets run side by side."""
    with ThreadPoolExecutor(_HASHING) as pool:
        return list(pool.map(sha256_of, paths))
