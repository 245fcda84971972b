"""Exploration: a share of the slots of an answer goes to eligible ads by chance, with exactly known probabilities.

A request asks for k ads, of which the ranking fills K = min(k, eligible ads). Others are the eligible ads that it does
not rank among those. In the mean s = min(share x K, others) slots are given to others: floor(s) of them or one more, by
chance. Which slots is drawn uniformly; which others, by systematic sampling (Madow 1949): their probabilities, which
add up to s, lie side by side on a line, and one of every whole step from a random start is taken. So no ad comes twice,
and what an ad's probability of being in the answer is needs no approximation:

- of a ranked ad: 1 - s / K;
- of another, uniformly: s / others;
- of another, by softmax: proportional to exp(utility / temperature), but at most 1: what would be more is 1, and the
  rest is shared anew among the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from tt_jax.io.strict_json import nearest

_LARGEST_SEED = 2**63 - 1


class ExploreError(ValueError):
    """Settings of an exploration that cannot be. The message names the setting, its value and what was expected."""


@dataclass(frozen=True)
class Explore:
    """How a request explores. The same seed, ads and request give the same answer.

    Raises `ExploreError`.

    Attributes:
      share: of the slots, 0..1, that other ads get in the mean.
      seed: of the draws, 0..2^63 - 1; use another for each request. Query i of a call draws from (seed, i).
      by: how the other ads are drawn.
      temperature: of the softmax, in units of utility, above 0.
    """

    share: float
    seed: int
    by: Literal["uniform", "softmax"] = "uniform"
    temperature: float = 1.0

    @staticmethod
    def of(given: Mapping[str, Any]) -> Explore:
        """From an object of JSON, `{"share": ..., "seed": ...}`. Raises `ExploreError`, also for an unknown key."""
        keys = [field.name for field in fields(Explore)]
        for key in given:
            if key not in keys:
                raise ExploreError(f"explore: unknown key {key!r}{nearest(key, keys)}")
        for key in ("share", "seed"):
            if key not in given:
                raise ExploreError(f"explore.{key}: expected a number, got none")
        return Explore(**given)

    def __post_init__(self) -> None:
        if not _is_number(self.share) or not 0 <= self.share <= 1:
            raise ExploreError(f"explore.share: expected a number within 0..1, got {self.share!r}")
        if type(self.seed) is not int or not 0 <= self.seed <= _LARGEST_SEED:
            raise ExploreError(f"explore.seed: expected an integer within 0..2^63 - 1, got {self.seed!r}")
        if self.by not in ("uniform", "softmax"):
            raise ExploreError(f"explore.by: expected 'uniform' or 'softmax', got {self.by!r}")
        if not _is_number(self.temperature) or not 0 < self.temperature < np.inf:
            raise ExploreError(f"explore.temperature: expected a finite number above 0, got {self.temperature!r}")


@dataclass(frozen=True)
class Draw:
    """What came of the draws for one request.

    Attributes:
      slots: int64 `[e]`, ascending: those that other ads get.
      others: int64 `[e]`: which of the others get them, in this order.
      ranked_propensity: of every ranked ad.
      propensities: float64 `[e]`, of those others.
    """

    slots: np.ndarray
    others: np.ndarray
    ranked_propensity: float
    propensities: np.ndarray


def draw(explore: Explore, query: int, ranked: int, other_utilities: np.ndarray) -> Draw:
    """Draws for the query of that number: `ranked` = K, utilities `[others]`, finite, of the eligible others."""
    rng = np.random.default_rng((explore.seed, query))
    mean = min(explore.share * ranked, float(len(other_utilities)))
    if not mean:
        return Draw(np.zeros(0, np.int64), np.zeros(0, np.int64), 1.0, np.zeros(0))
    if explore.by == "uniform":
        inclusion = np.full(len(other_utilities), mean / len(other_utilities))
    else:
        inclusion = softmax_inclusion(other_utilities, mean, explore.temperature)
    others = systematic(inclusion, rng)
    rng.shuffle(others)
    slots = np.sort(rng.choice(ranked, len(others), replace=False))
    return Draw(slots, others, 1 - mean / ranked, inclusion[others])


def softmax_inclusion(utilities: np.ndarray, mean: float, temperature: float) -> np.ndarray:
    """Probabilities that add up to `mean` <= their number, as of the softmax where that gives none above 1."""
    weights = np.exp((np.asarray(utilities, np.float64) - np.max(utilities)) / temperature)
    weights = np.maximum(weights, 1e-12)  # every eligible ad can be drawn
    certain = np.zeros(len(weights), bool)
    while True:
        left = mean - np.count_nonzero(certain)
        inclusion = np.where(certain, 1.0, 0.0)
        if left <= 0 or certain.all():
            return inclusion
        inclusion[~certain] = weights[~certain] * (left / weights[~certain].sum())
        above = (inclusion > 1) & ~certain
        if not above.any():
            return inclusion
        certain |= above


def systematic(inclusion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places, int64, drawn so that each is among them with its probability, at most once."""
    ends = np.cumsum(inclusion)
    whole = np.round(ends[-1])
    if abs(ends[-1] - whole) < 1e-9 * max(1.0, whole):  # an integer but for rounding: always as many
        ends *= whole / ends[-1]
        ends[-1] = whole
    points = rng.random() + np.arange(np.ceil(ends[-1]))
    return np.unique(np.searchsorted(ends, points[points < ends[-1]], side="right"))


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
