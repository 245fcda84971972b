"""Encoded requests as calls of the programs: which go together, and what of them is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from serving.eligibility.conditions import MAX_EXCLUDED
from serving.scoring.jitted import QUERIES
from serving.scoring.programs import Programs
from serving.scoring.results import Encoded, Running


def start_calls(
    programs: Programs, encoded: Encoded, ks: Sequence[int], lists: Sequence[np.ndarray] | None
) -> list[tuple[list[int], Running]]:
    """Starts to rank all ads, or a list of them, for n requests; calls, each with the requests that it is of."""
    if lists is None:
        together = batches(encoded.conditions.excluded)
        return [(rows, programs.best(encoded.at(rows), max(ks[row] for row in rows))) for rows in together]
    excluded = encoded.conditions.excluded
    lists = [some[~np.isin(some, out)] if len(out) else some for some, out in zip(lists, excluded, strict=True)]
    encoded, calls = encoded.without_exclusions(), list[tuple[list[int], Running]]()
    for rows in _list_batches(programs, lists):
        calls.append((rows, programs.best_candidates(encoded.at(rows), [lists[row] for row in rows])))
    return calls


def distinct(positions: np.ndarray) -> np.ndarray:
    """Each once, in order of first appearance."""
    first = np.unique(positions, return_index=True)[1]
    return positions[np.sort(first)]


def batches(excluded: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Requests that go together: as many as a call takes, and as they exclude ads for."""
    rows, count = list[int](), 0
    for row, places in enumerate(excluded):
        if rows and (len(rows) == QUERIES[-1] or count + len(places) > MAX_EXCLUDED):
            yield rows
            rows, count = [], 0
        rows.append(row)
        count += len(places)
    if rows:
        yield rows


def _list_batches(programs: Programs, lists: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Requests that go together. Those without a candidate go nowhere."""
    by_size: dict[int, list[int]] = {}
    for i, positions in enumerate(lists):
        if len(positions):
            by_size.setdefault(programs.queries_at_once(len(positions)), []).append(i)
    for at_once, rows in by_size.items():
        for first in range(0, len(rows), at_once):
            yield rows[first : first + at_once]
