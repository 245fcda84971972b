"""Rankings that explore: the utilities of all ads, as the one call has left them, and draws among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.scoring.calls import batches, start_calls
from serving.scoring.explore import Draw, Explore, draw
from serving.scoring.programs import Programs
from serving.scoring.results import Encoded

Drawing = tuple[Explore, int]  # and the number of the query that it draws for


def explored(
    programs: Programs,
    encoded: Encoded,
    ks: Sequence[int],
    lists: Sequence[np.ndarray] | None,
    drawings: Sequence[Drawing],
) -> list[tuple[np.ndarray, ...]]:
    """Positions, utilities `[n]`, probabilities `[T, n]` and propensities `[n]` of the answers to n requests. Waits.

    All ads are scored, also for lists of them: which ones are eligible is known after that alone.
    """
    chosen: list[np.ndarray] = []
    propensities: list[np.ndarray] = []
    for rows in batches(encoded.conditions.excluded):
        utilities_BN = programs.all_utilities(encoded.at(rows))
        for row, utilities_N in zip(rows, utilities_BN, strict=True):
            of = np.flatnonzero(utilities_N > -np.inf) if lists is None else lists[row]
            of = of[utilities_N[of] > -np.inf]
            ranked, others = _split(of, utilities_N[of], ks[row])
            drawn = draw(*drawings[row], len(ranked), utilities_N[others])
            chosen.append(_filled(drawn, ranked, others))
            propensities.append(np.full(len(ranked), drawn.ranked_propensity))
            propensities[-1][drawn.slots] = drawn.propensities
    calls = start_calls(programs, encoded.without_exclusions(), ks, [c.astype(np.int32) for c in chosen])
    empty = np.empty(0, np.float32)
    found: list[tuple[np.ndarray, ...]] = [(c, empty, empty.reshape(0, 0), empty) for c in chosen]
    for rows, call in calls:
        top = call.result()
        for b, row in enumerate(rows):
            n = len(chosen[row])
            at = np.argsort(top.positions_Bk[b, :n])[np.argsort(np.argsort(chosen[row]))]  # in the order of the slots
            scores = np.asarray(top.utility_Bk)[b, at], np.asarray(top.probabilities_TBk)[:, b, at]
            found[row] = chosen[row], *scores, propensities[row]
    return found


def _split(positions: np.ndarray, utilities: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k, best first, ties in the order given; and the rest."""
    if len(positions) > k:
        least = np.partition(utilities, len(utilities) - k)[len(utilities) - k]
        near = np.flatnonzero(utilities >= least)
    else:
        near = np.arange(len(positions))
    best = near[np.argsort(-utilities[near], kind="stable")][:k]
    return positions[best], np.delete(positions, best)


def _filled(drawn: Draw, ranked: np.ndarray, others: np.ndarray) -> np.ndarray:
    filled = ranked.copy()
    filled[drawn.slots] = others[drawn.others]
    return filled
