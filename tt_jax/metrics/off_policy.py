"""Off-policy estimates: what a policy would have earned, from the log of another that explored.

Each request has candidates, of which the logging policy served some, each with a known probability, its propensity. The
target policy chooses some of the candidates. Its value is the mean outcome of an ad that it chooses:

    value = E[ sum over candidates of target x outcome ] / E[ sum over candidates of target ]

over requests. Both estimators are ratios of means over requests. Their intervals are those of the delta method, with
Student's t: requests are independent, candidates of one are not.

- Self-normalised inverse propensity scores (Swaminathan & Joachims 2015): served rows weigh target / propensity.
- Doubly robust (Dudík et al. 2011): a model predicts all that is chosen, and the same weights correct its error on what
  was served. It is right if the propensities are, whatever the model; the better the model, the narrower the interval.

Shapes: n rows, a candidate of a request each; R requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


class OffPolicyError(ValueError):
    """A row that no estimate can be made with. The message names the row, its value and what was expected."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of requests, `[n]` each.

    Raises `OffPolicyError`, or ValueError for arrays of different lengths.

    Attributes:
      request: int64, equal for the candidates of one request.
      target: probabilities with which the target policy chooses, 0 or 1 of one that does not draw.
      propensity: probabilities with which the logging policy served; read where `outcome` is no NaN, above 0 there.
      outcome: what came of it; NaN = not served.
      predicted: outcomes that a model expects.
    """

    request: np.ndarray
    target: np.ndarray
    propensity: np.ndarray
    outcome: np.ndarray
    predicted: np.ndarray

    def __post_init__(self) -> None:
        if not self.request.shape == self.target.shape == self.propensity.shape == self.outcome.shape:
            raise ValueError("expected arrays of one length")
        if self.predicted.shape != self.request.shape:
            raise ValueError(f"predicted: expected {self.request.shape[0]} rows, got {self.predicted.shape[0]}")
        _refuse(~_within(self.target), "target", self.target, "a probability within 0..1")
        possible = _within(self.propensity) & (self.propensity > 0)
        _refuse(~possible & self.served, "propensity", self.propensity, "a probability above 0 and at most 1")
        _refuse(np.isinf(self.outcome), "outcome", self.outcome, "a finite number, or NaN of an ad that was not served")
        _refuse(~np.isfinite(self.predicted), "predicted", self.predicted, "a finite number")

    @property
    def served(self) -> np.ndarray:
        """bool `[n]`: which have an outcome."""
        return ~np.isnan(self.outcome)

    def weights(self) -> np.ndarray:
        """target / propensity of what was served, 0 of the rest: float64 `[n]`."""
        found = np.zeros(len(self.request))
        np.divide(self.target, self.propensity, out=found, where=self.served)
        return found


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Attributes:
      value: mean outcome of an ad that the target policy chooses; None if nothing weighs anything.
      interval: `[low, high]` of 95 %; None of fewer than two requests.
      requests: R.
      effective_rows: (sum of weights)^2 / sum of weights^2: the served rows that carry it.
    """

    value: float | None
    interval: list[float] | None
    requests: int
    effective_rows: float


def self_normalised_ips(candidates: Candidates) -> Estimate:
    """Sum of weight x outcome over the sum of weights. See above."""
    weight = candidates.weights()
    outcome = np.where(candidates.served, candidates.outcome, 0.0)
    return _ratio(candidates, weight, weight * outcome, weight)


def doubly_robust(candidates: Candidates) -> Estimate:
    """The predictions of all that is chosen, corrected by the weighted errors on what was served. See above.

    `predicted` must not come from the outcomes of these very rows, else the interval is too narrow.
    """
    weight, predicted = candidates.weights(), np.asarray(candidates.predicted, np.float64)
    error = np.where(candidates.served, candidates.outcome, predicted) - predicted
    return _ratio(candidates, weight, candidates.target * predicted + weight * error, candidates.target)


def best_of_each(request: np.ndarray, score: np.ndarray, best: int) -> np.ndarray:
    """1 for the `best` rows of the highest score in each request, else 0: float64 `[n]`. Ties in order of rows."""
    order = np.lexsort((-score, request))  # stable
    _, first, count = np.unique(request[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, count)
    found = np.zeros(len(order))
    found[order] = place < best
    return found


def _ratio(candidates: Candidates, weight: np.ndarray, above: np.ndarray, below: np.ndarray) -> Estimate:
    """The estimate of sum of `above` / sum of `below`, `[n]` each."""
    _, code = np.unique(candidates.request, return_inverse=True)
    above_R, below_R = (np.bincount(code, x) if len(code) else np.zeros(0) for x in (above, below))
    requests, total, squares = len(above_R), below_R.sum(), np.square(weight).sum()
    effective = float(weight.sum() ** 2 / squares) if squares else 0.0
    if not total:
        return Estimate(None, None, requests, effective)
    value = float(above_R.sum() / total)
    if requests < 2:
        return Estimate(value, None, requests, effective)
    error = np.sqrt(np.square(above_R - value * below_R).sum() * requests / (requests - 1)) / total
    reach = float(stats.t.ppf((1 + LEVEL) / 2, requests - 1) * error)
    return Estimate(value, [value - reach, value + reach], requests, effective)


def _within(x: np.ndarray) -> np.ndarray:
    return (x >= 0) & (x <= 1)  # False of NaN


def _refuse(wrong: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        more = f" ({int(wrong.sum())} such rows)" if wrong.sum() > 1 else ""
        raise OffPolicyError(f"row {row}: {name}: expected {expected}, got {values[row]}{more}")
