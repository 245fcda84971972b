"""Fits of a map from logit to calibrated logit: temperature, Platt, isotonic. NumPy, float64.

In every function `z` are logits `[n]`, `y` labels in [0, 1], hard or soft, `[n]`, `w` row weights >= 0 `[n]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from tt_jax.calibration.maps import MAX_KNOTS

_GROUPS = 512  # quantiles of the logits that isotonic regression sees: no block rests on less than 1/512 of the weight
_RIDGE = 1e-3  # pull of the affine fits to the identity, in rows: without it, separable labels have no optimum
_STEPS = 100
_DECREMENT = 1e-14  # nats a row that a Newton step must promise to be taken


class Affine(NamedTuple):
    """Calibrated logit = scale * logit + shift."""

    scale: float
    shift: float


class PiecewiseLinear(NamedTuple):
    """Calibrated logit = linear between (knots[i], values[i]), both rising; of slope 1 outside them."""

    knots: np.ndarray
    values: np.ndarray


def fit_temperature(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> Affine:
    """The scale, 1 / temperature, of least log loss (Guo et al. 2017, On Calibration of Modern Neural Networks)."""
    (scale,) = fit_logistic(z[:, None].astype(np.float64), y, w, np.array([1.0]), _RIDGE)
    return Affine(float(scale), 0.0)


def fit_platt(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> Affine:
    """Scale and shift of least log loss (Platt 1999, without its smoothing of the labels)."""
    x = np.stack([z.astype(np.float64), np.ones(z.size)], axis=1)
    scale, shift = fit_logistic(x, y, w, np.array([1.0, 0.0]), _RIDGE)
    return Affine(float(scale), float(shift))


def fit_isotonic(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> PiecewiseLinear:
    """Isotonic regression, made strictly rising and small enough to serve.

    The labels of quantiles of the logits are pooled to a rising sequence of blocks; blocks are merged, those first
    whose merging costs the least log loss, until `MAX_KNOTS` are left and each has both kinds of labels. Knots are the
    blocks' mean logits, values the logits of their mean labels, moved together so that the mean prediction is the mean
    label. Needs weight in both classes.
    """
    z64, y64, w64 = (a.astype(np.float64) for a in (z, y, w))
    order = np.argsort(z64, kind="stable")
    z64, y64, w64 = z64[order], y64[order], w64[order]
    end = np.cumsum(w64)
    group = np.minimum(((end - w64 / 2) * (_GROUPS / end[-1])).astype(np.int64), _GROUPS - 1)
    starts = np.flatnonzero(np.concatenate([[True], z64[1:] != z64[:-1]]))
    group = np.repeat(group[starts], np.diff(starts, append=z64.size))  # rows that tie stay together
    sums = np.stack([np.bincount(group, part, _GROUPS) for part in (w64, w64 * y64, w64 * z64)], axis=1)
    sums = sums[sums[:, 0] > 0]
    block = pool_adjacent(sums[:, 1] / sums[:, 0], sums[:, 0])
    sums = _merge(np.stack([np.bincount(block, column) for column in sums.T], axis=1))
    weight, label, of_logit = sums.T
    knots, values = of_logit / weight, logit(label / weight)
    for _ in range(_STEPS):
        p = expit(interpolate(z64, knots, values))
        step = float(w64 @ (p - y64) / (w64 @ (p * (1 - p))))
        values = values - np.clip(step, -1, 1)
        if abs(step) < 1e-12:
            break
    return PiecewiseLinear(knots, values)


def pool_adjacent(mean: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Isotonic regression of a sequence by pooling adjacent violators: the block of each element, int64, from 0.

    Blocks rise strictly. Ayer et al. 1955, An Empirical Distribution Function for Sampling with Incomplete Information.
    """
    sums: list[list[float]] = []  # of each block: weight * mean, weight, elements
    for m, v in zip(mean.tolist(), weight.tolist(), strict=True):
        sums.append([m * v, v, 1])
        while len(sums) > 1 and sums[-2][0] * sums[-1][1] >= sums[-1][0] * sums[-2][1]:
            last = sums.pop()
            sums[-1] = [a + b for a, b in zip(sums[-1], last, strict=True)]
    return np.repeat(np.arange(len(sums)), [int(s[2]) for s in sums])


def interpolate(z: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The map of `PiecewiseLinear`, float64."""
    outside = np.minimum(z - knots[0], 0.0) + np.maximum(z - knots[-1], 0.0)
    return np.interp(z, knots, values) + outside


def _merge(sums: np.ndarray) -> np.ndarray:
    """Blocks `[b, (weight, label, logit)]` with both kinds of labels in each, at most `MAX_KNOTS`."""
    while len(sums) > 1:
        loss = _block_loss(sums[:, 0], sums[:, 1])
        cost = _block_loss(sums[:-1, 0] + sums[1:, 0], sums[:-1, 1] + sums[1:, 1]) - loss[:-1] - loss[1:]
        pure = (sums[:, 1] <= 0) | (sums[:, 1] >= sums[:, 0])
        if pure.any():  # the first block or the last: all between them have a mean between theirs
            i = 0 if pure[0] else len(sums) - 2
        elif len(sums) > MAX_KNOTS:
            i = int(np.argmin(cost))
        else:
            break
        sums = np.concatenate([sums[:i], sums[i : i + 1] + sums[i + 1 : i + 2], sums[i + 2 :]])
    return sums


def _block_loss(weight: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Summed cross-entropy of blocks predicted by their mean label."""
    rate = np.clip(label / weight, 1e-300, 1 - 1e-16)
    return -(label * np.log(rate) + (weight - label) * np.log1p(-rate))


def fit_logistic(x: np.ndarray, y: np.ndarray, w: np.ndarray, start: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Coefficients `a`, float64 `[k]`, of least log loss of `expit(x @ a)`, by Newton's method with halved steps.

    Args:
      x: float64 `[n, k]`; columns that depend on each other do no harm.
      start: float64 `[k]`, where to begin.
      ridge: pull to `start`, in rows; without one, the labels must not be separable.

    Raises ValueError if it does not converge.
    """
    y, w = y.astype(np.float64), w.astype(np.float64)
    enough = _DECREMENT * float(w.sum())

    def loss(a: np.ndarray) -> float:
        t = x @ a
        return float(w @ (np.logaddexp(0.0, t) - y * t)) + ridge / 2 * float(((a - start) ** 2).sum())

    a, now = start, loss(start)
    for _ in range(_STEPS):
        p = expit(x @ a)
        gradient = x.T @ (w * (p - y)) + ridge * (a - start)
        step = np.linalg.lstsq((x * (w * p * (1 - p))[:, None]).T @ x + ridge * np.eye(a.size), gradient)[0]
        if gradient @ step <= enough:
            return a
        while (lower := loss(a - step)) > now and gradient @ step > enough:
            step /= 2
        a, now = a - step, lower
    raise ValueError(f"the logistic regression on {len(x)} rows did not converge in {_STEPS} Newton steps")
