"""Damaged files, shared by the tests of what verifies its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np


def damages(path: Path, rng: np.random.Generator) -> Iterator[None]:
    """Damages a file in one way after the other: a bit flipped, the last byte cut, the file gone. Then it is whole."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    for damaged in (bytes(changed), content[:-1]):
        path.write_bytes(damaged)
        yield
    path.unlink()
    yield
    path.write_bytes(content)
