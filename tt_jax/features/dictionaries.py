"""Arrow dictionaries encoded once: the rows that have them are gathered from what was made of their values.

A column of a joined table is a dictionary of the whole table, the same one in each chunk of a log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.features.arrow import identity
from tt_jax.features.columns import EncodeError, pieces, read_dictionary

_PIECE = 16_384  # values of a dictionary that are encoded at a time: what a cache holds
_MAX_BYTES = 1 << 28  # of what is kept of one feature; more is encoded row by row

# (feature, Arrow values `[m]`) -> as encoded `[m, width]`, and where it is missing, bool `[m]`
EncodeValues = Callable[[str, Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Table:
    """What was made of a dictionary of m values, and at the end of a null: `[m + 1, width]`, and bool `[m + 1]`."""

    encoded: np.ndarray
    missing: np.ndarray


@dataclass(frozen=True)
class _Kept:
    """The last dictionary of a feature: held, so that no other one is at its address.

    `table` is None where it has not been encoded, or cannot be, which `tried` tells.
    """

    values: Any
    tried: bool
    table: _Table | None


class Dictionaries:
    """Of each feature the last dictionary as it was encoded. Safe in threads: at worst two encode the same one."""

    def __init__(self, encode: EncodeValues) -> None:
        self._encode = encode
        self._kept: dict[str, _Kept] = {}

    def gather(self, name: str, column: Any, out: np.ndarray) -> int | None:
        """Writes a feature's rows `[n, width]`; returns in how many it is missing.

        None, and nothing is written, where the column is no dictionary, or one not to be encoded: it has more values
        than there are rows and was not met before, is too large, or has a value that is wrong, in a row or in none.
        """
        found = read_dictionary(column)
        if found is None:
            return None
        values, codes = found
        table = self._table(name, values, len(codes), out)
        if table is None:
            return None
        out[:] = table.encoded.take(codes, axis=0, mode="clip")  # which is faster than to check each
        return int(np.count_nonzero(table.missing.take(codes, mode="clip")))

    def _table(self, name: str, values: Any, rows: int, out: np.ndarray) -> _Table | None:
        kept = self._kept.get(name)
        again = kept is not None and identity(kept.values) == identity(values)
        if kept is None or not again or not kept.tried:
            worth_it = again or len(values) <= rows
            table = self._encoded(name, values, out) if worth_it else None
            kept = self._kept[name] = _Kept(values, worth_it, table)
        return kept.table

    def _encoded(self, name: str, values: Any, out: np.ndarray) -> _Table | None:
        m, width = len(values), out.shape[1]
        if (m + 1) * (width * out.itemsize + 1) > _MAX_BYTES:
            return None
        table = _Table(np.empty((m + 1, width), out.dtype), np.empty(m + 1, bool))
        try:
            for first, some in pieces(values, _PIECE):
                rows = slice(first, first + len(some))
                table.encoded[rows], table.missing[rows] = self._encode(name, some)
        except EncodeError:  # of a value that perhaps no row has: row by row, the row is named
            return None
        return table
