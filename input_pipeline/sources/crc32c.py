"""CRC-32C (Castagnoli), and its masked form, by which TFRecord files check their records."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

HEADER = struct.Struct("<QI")  # of a record: its length, and the masked CRC-32C of that


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


_CRC_TABLE = _table()
_CRC_LIST = _CRC_TABLE.tolist()


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """CRC-32C (Castagnoli) of each record, uint32: all of them a byte at a time, the longest first."""
    lengths = np.array([len(r) for r in records], np.int64)
    order = np.argsort(-lengths, kind="stable")
    content = np.frombuffer(b"".join(records[i] for i in order), np.uint8)
    ordered = lengths[order]
    starts = np.cumsum(ordered) - ordered
    # How many records have a byte at each position.
    active = np.searchsorted(-ordered, -np.arange(int(lengths.max(initial=0))), side="left")
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for position, n in enumerate(active):
        some = crc[:n]
        crc[:n] = _CRC_TABLE[(some ^ content[starts[:n] + position]) & np.uint32(255)] ^ some >> np.uint32(8)
    out = np.empty_like(crc)
    out[order] = ~crc
    return out


def masked(crc: np.ndarray) -> np.ndarray:
    """As TFRecord stores it."""
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


def masked_of(data: bytes) -> int:
    """The masked CRC-32C of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_LIST[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
