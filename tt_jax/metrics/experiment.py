"""Online experiments: by how much a figure of the treatment differs from the control's, and how sure that is.

A figure is a ratio of sums, such as clicks / impressions, and the unit of chance is the user: what one user does is not
independent. Two designs:

- paired: every request was answered by both arms (a replay), so that what they have in common cancels: Poisson
  bootstrap over users, both arms seeing the same draws;
- split: every user was in one arm: the delta method, in which the log of a ratio of sums N / D has the variance
  sum_u (N_u / N - D_u / D)^2 over the users u (Deng, Knoblich and Lu 2018, Applying the Delta Method in Metric
  Analytics, arXiv 1803.06336).

Shapes: n requests, arms 0 (control) and 1 (treatment).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tt_jax.metrics.bootstrap import cluster_draws, interval

Z = 1.959964  # of a two-sided interval of `bootstrap.LEVEL`


@dataclass(frozen=True)
class Effect:
    """A figure of both arms.

    Attributes:
      control, treatment: the ratio; None if its denominator is 0.
      relative: treatment / control - 1; None if either is None or the control is 0.
      low, high: 95 % interval of `relative`; None where it cannot be given.
    """

    control: float | None
    treatment: float | None
    relative: float | None
    low: float | None
    high: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def paired_effects(
    sums: Mapping[str, np.ndarray],
    ratios: Mapping[str, tuple[str, str]],
    users: np.ndarray,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Effect]:
    """Effects of arms that answered the same requests.

    Args:
      sums: what is summed, by name: float64 `[n, 2]`, a column an arm.
      ratios: figure -> the names of its numerator and denominator.
      users: int64 `[n]`.
      replicates, seed: of the bootstrap.
    """
    names = list(sums)
    columns = np.stack([sums[name] for name in names], 2)  # [n, 2, S]
    by_user, found = None, []
    for code, draws in cluster_draws(users, replicates, seed):
        if by_user is None:
            by_user = np.zeros((draws.shape[1], *columns.shape[1:]))
            np.add.at(by_user, code, columns)
        found.append(np.einsum("ru,uas->ras", draws, by_user, optimize=True))
    replicate, total = np.concatenate(found), columns.sum(axis=0)
    effects = {}
    for figure, (numerator, denominator) in ratios.items():
        n, d = names.index(numerator), names.index(denominator)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = replicate[:, :, n] / replicate[:, :, d]
            relative = ratio[:, 1] / ratio[:, 0] - 1
        effects[figure] = _effect(total[:, n], total[:, d], interval(relative))
    return effects


def split_effects(
    sums: Mapping[str, np.ndarray], ratios: Mapping[str, tuple[str, str]], users: np.ndarray, arm: np.ndarray
) -> dict[str, Effect]:
    """Effects of arms with users of their own.

    Args:
      sums: what is summed, by name: float64 `[n]`.
      ratios: figure -> the names of its numerator and denominator.
      users, arm: int64 `[n]`; a user is in one arm.
    """
    found, code = np.unique(users, return_inverse=True)
    of_user = np.zeros(len(found), np.int64)
    of_user[code] = arm
    if not np.array_equal(of_user[code], arm):
        row = int(np.argmax(of_user[code] != arm))
        raise ValueError(f"user {users[row]}: expected one arm, found both")
    by_user = {name: np.bincount(code, values, len(found)) for name, values in sums.items()}
    effects = {}
    for figure, (numerator, denominator) in ratios.items():
        n_A, d_A, variance = np.zeros(2), np.zeros(2), 0.0
        for a in range(2):
            n, d = by_user[numerator][of_user == a], by_user[denominator][of_user == a]
            n_A[a], d_A[a] = n.sum(), d.sum()
            if n_A[a] > 0 and len(n) > 1:
                variance += len(n) / (len(n) - 1) * float(np.square(n / n_A[a] - d / d_A[a]).sum())
            else:
                variance = np.inf
        interval = None
        if np.isfinite(variance):
            log_ratio, width = np.log(n_A[1] / d_A[1] * d_A[0] / n_A[0]), Z * np.sqrt(variance)
            interval = [float(np.expm1(log_ratio - width)), float(np.expm1(log_ratio + width))]
        effects[figure] = _effect(n_A, d_A, interval)
    return effects


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of the probability of a success, by the score test (Wilson 1927). `trials` >= 1."""
    middle = (successes + Z**2 / 2) / (trials + Z**2)
    half = Z / (trials + Z**2) * math.sqrt(successes * (trials - successes) / trials + Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _effect(numerator_A: np.ndarray, denominator_A: np.ndarray, interval: list[float] | None) -> Effect:
    ratio = [float(n / d) if d > 0 else None for n, d in zip(numerator_A, denominator_A, strict=True)]
    control, treatment = ratio
    relative = treatment / control - 1 if control and treatment is not None else None
    low, high = interval if interval is not None and relative is not None else (None, None)
    return Effect(control, treatment, relative, low, high)
