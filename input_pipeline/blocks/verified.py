"""Files against their hashes, each once in a process: when it is first read."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from tt_jax.io.publish import sha256_of

_locks: dict[Path, threading.Lock] = {}


def has_hash(path: Path, sha256: str) -> bool:
    """Whether a file has this hash, in hexadecimal. It is read again only where its size, time or inode changed.

    Safe in threads: one hashes a file while others wait for it, and others hash other files.
    """
    stat = path.stat()
    with _locks.setdefault(path, threading.Lock()):
        return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns) == sha256


@functools.lru_cache(maxsize=65_536)
def _sha256(path: Path, *_identity: int) -> str:
    return sha256_of(path)
