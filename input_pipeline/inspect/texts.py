"""Texts and bytes of Arrow as 64-bit hashes, all at once, and back.

Equal bytes have equal hashes in every process. They are no ids of a model, which `tt_jax.features.hashing` hashes one
by one.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tt_jax.features.hashing import mix64

_WORD = 8  # bytes hashed at a time
_WORDS = 32  # of a text; what follows is hashed at once, for few texts have it
_SEED = np.uint64(0x5851F42D4C957F2D)


def text_keys(array: Any) -> np.ndarray:
    """uint64 `[n]` of an array of strings or bytes, of any type of them; anything where it is null."""
    array = array.cast(pa.large_binary())
    n = len(array)
    if n == 0:
        return np.empty(0, np.uint64)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64, n + 1, array.offset * _WORD)
    text = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    starts, lengths = ends[:-1] - ends[0], np.diff(ends)
    spare = np.concatenate([text, np.zeros(_WORD, np.uint8)])  # so that a word may begin at the last byte
    words = np.ndarray((text.size + 1,), "<u8", spare, strides=(1,))  # one begins at each byte
    keys = mix64(lengths.astype(np.uint64) ^ _SEED)
    rows = np.flatnonzero(lengths)
    for i in range(_WORDS):
        left = lengths[rows] - i * _WORD
        word = words[starts[rows] + i * _WORD]
        spare_bits = (8 * np.maximum(_WORD - left, 0)).astype(np.uint64)
        keys[rows] = mix64(keys[rows] ^ (word << spare_bits))
        rows = rows[left > _WORD]
        if not rows.size:
            break
    for row in rows.tolist():
        rest = text[starts[row] + _WORDS * _WORD : starts[row] + lengths[row]]
        digest = hashlib.blake2b(rest.tobytes(), digest_size=_WORD).digest()
        keys[row] ^= np.uint64(int.from_bytes(digest, "little"))
    return keys


class Texts:
    """The text of a key: that of the first value that has it; of bytes their hexadecimal digits."""

    def __init__(self, keys: np.ndarray, array: Any) -> None:
        self._keys, self._array = keys, array

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._keys, kind="stable")

    def __getitem__(self, key: int) -> str:
        place = np.searchsorted(self._keys, np.uint64(key), sorter=self._order)
        value = self._array[int(self._order[place])].as_py()
        return value if isinstance(value, str) else value.hex()
