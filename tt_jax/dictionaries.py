"""The values of Arrow dictionaries, encoded once each: a table that is joined to a log comes with every chunk of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_jax.columns import EncodeError, identity, with_null

# A column of m values -> what it is encoded to, `[m, w]`, and bool `[m]`, where it is missing. May raise `EncodeError`.
Encode = Callable[[Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Values:
    """The encoded values of a dictionary, `[m + 1, w]`, and bool `[m + 1]`, where one is missing. The last is null."""

    matrix: np.ndarray
    absent: np.ndarray


@dataclass(frozen=True)
class _Seen:
    dictionary: Any  # held, so that no other one can come to lie at its address
    tried: bool
    values: Values | None


class Dictionaries:
    """Remembers the last dictionary of each feature. Safe in threads: at worst one is encoded twice."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def values(self, name: str, dictionary: Any, rows: int, encode: Encode) -> Values | None:
        """None if it is to be encoded row by row: where one of its values does not fit, which may be one that no row
        has, and the first time that it comes if it is longer than the column, whose `rows` may be its only ones."""
        seen = self._seen.get(name)
        if seen is None or identity(seen.dictionary) != identity(dictionary):
            seen = _Seen(dictionary, False, None)
            if len(dictionary) > rows:
                self._seen[name] = seen
                return None
        if not seen.tried:
            try:
                seen = _Seen(dictionary, True, Values(*encode(with_null(dictionary))))
            except EncodeError:
                seen = _Seen(dictionary, True, None)
            self._seen[name] = seen
        return seen.values
