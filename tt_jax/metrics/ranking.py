"""Exact ROC-AUC, over all rows and per user, with ties and row weights. NumPy, accumulated in float64.

Also the AUC of one column of a log, and the Kolmogorov-Smirnov distance of two samples.
"""

from __future__ import annotations

import numpy as np

NO_USER = -1  # a missing id, as the encoder writes it in `keys`
_PRIOR_ROWS = 10.0  # by which the rate of a value is drawn to that of all rows


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that a positive row outscores a negative one, a tie counting one half.

    Args:
      scores: `[n]`, float32 (sorts fastest) or float64, no NaN; only their order matters.
      labels: `[n]`, 0 or 1.
      weights: `[n]`, >= 0; a pair of rows counts the product of its weights, as in scikit-learn.

    Returns None if one of the classes has no weight.
    """
    order = ascending(scores)
    won, lost = _by_class(labels[order], weights[order])
    ties = tie_bounds(scores[order])
    return area(running(won, ties), running(lost, ties))


def gauc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, users: np.ndarray) -> float | None:
    """Grouped AUC: the mean of each user's AUC, weighted by the user's impressions (the sum of their row weights).

    Users without both classes are left out, and so are the rows of `NO_USER`, which are no one's. `users` is int64
    `[n]`, the rest as in `auc`. Returns None if no user is left.
    Zhu et al. 2017, Optimized Cost per Click in Taobao Display Advertising, eq. 9 (arXiv 1703.02091).
    """
    codes, order = user_codes(users), ascending(scores)
    order = order[by_user(codes[order])]
    won, lost = _by_class(labels[order], weights[order])
    ties, user_bounds = user_ties(scores[order], codes[order])
    return grouped_area(running(won, ties), running(lost, ties), user_bounds)


def column_auc(codes: np.ndarray, labels: np.ndarray) -> float | None:
    """AUC of a column alone: every other row is scored by the rate that its value has in the rows between.

    Args:
      codes: int `[n]`, >= -1, the value of each row.
      labels: `[n]`, 0 or 1.

    Returns the mean of both halves; None where a half lacks a class.
    """
    first, areas = np.arange(codes.size) % 2 == 0, []
    places, y = codes + 1, labels.astype(np.float64)
    for fit in (first, ~first):
        rows = np.bincount(places[fit], minlength=int(places.max(initial=0)) + 1)
        positives = np.bincount(places[fit], y[fit], rows.size)
        mean = y[fit].mean() if fit.any() else 0.0
        rate = (positives + _PRIOR_ROWS * mean) / (rows + _PRIOR_ROWS)
        areas.append(auc(rate[places[~fit]], y[~fit], np.ones(y[~fit].size)))
    return None if None in areas else float(np.mean(areas))


def ks_distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Two-sample Kolmogorov-Smirnov distance, 0 to 1: the largest difference of the shares up to any value.

    Args:
      a, b: `[bins]`, how often each sample has each value or bin, the values ascending.

    Returns None if a sample is empty.
    """
    if not (a.any() and b.any()):
        return None
    return float(np.abs(np.cumsum(a) / a.sum() - np.cumsum(b) / b.sum()).max())


# ---- sorting ---------------------------------------------------------------------------------------------------------


def ascending(scores: np.ndarray) -> np.ndarray:
    """The rows by ascending score, those that tie in the order given: int64 `[n]`. `scores` as of `auc`."""
    if scores.dtype != np.float32:
        return np.argsort(scores, kind="stable")
    bits = (scores + np.float32(0)).view(np.int32)  # the sum: -0 is 0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # the order of integers is now that of the floats, negative ones too
    return _places_by(bits.astype(np.int64), 32)


def user_codes(users: np.ndarray) -> np.ndarray:
    """Users numbered from 0, int64 `[n]`, as `by_user` wants them; `NO_USER` stays. `users`: int64 `[n]`."""
    known = users != NO_USER
    codes = np.full(users.size, NO_USER, np.int64)
    codes[known] = np.unique(users[known], return_inverse=True)[1]
    return codes


def by_user(codes: np.ndarray) -> np.ndarray:
    """The rows by user, each user's in the order given, without those of `NO_USER`: int64 `[m]`.

    `codes`: of `user_codes`, int64 `[n]`, of any part of the rows.
    """
    order = _places_by(codes, codes.size.bit_length())
    return order[np.count_nonzero(codes == NO_USER) :]


def _places_by(keys: np.ndarray, bits: int) -> np.ndarray:
    """`np.argsort(keys, kind="stable")`, of fewer than 2^bits keys that leave room for that many bits in an int64.

    Key and place are sorted as one number: NumPy sorts numbers several times faster than it sorts places.
    """
    both = (keys << bits) | np.arange(keys.size)
    both.sort()
    return both & ((1 << bits) - 1)


def tie_bounds(scores: np.ndarray) -> np.ndarray:
    """The first row of each group that ties, and n: int64 `[G + 1]`, of sorted scores `[n]`."""
    return np.append(np.flatnonzero(_changes(scores)), scores.size)


def user_ties(scores: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows sorted by user, then score: `tie_bounds` of the groups of one user that tie, and the first group of each
    user, and G: int64 `[U + 1]`."""
    new_user = _changes(codes)
    ties = np.flatnonzero(new_user | _changes(scores))
    return np.append(ties, scores.size), np.append(np.flatnonzero(new_user[ties]), ties.size)


def _changes(values: np.ndarray) -> np.ndarray:
    changes = np.ones(values.size, bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


# ---- areas -----------------------------------------------------------------------------------------------------------


def running(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """What the values of sorted rows, float64 `[..., n]`, add up to before each of the bounds: `[..., G + 1]`."""
    n = values.shape[-1]
    sums = np.zeros((*values.shape[:-1], n + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums if bounds.size == n + 1 else sums.take(bounds, axis=-1)


def area(won: np.ndarray, lost: np.ndarray) -> float | None:
    """AUC of rows sorted by score: `auc` for any number of weightings.

    Args:
      won, lost: float64 `[G + 1]`, `running` sums at `tie_bounds` of the weights of positive and of negative rows.
    """
    if not won[-1] > 0 or not lost[-1] > 0:
        return None
    return float(_beaten(won, lost).sum()) / float(won[-1] * lost[-1])


def grouped_area(won: np.ndarray, lost: np.ndarray, user_bounds: np.ndarray) -> float | None:
    """GAUC of rows sorted by user, then score: `gauc` for any number of weightings.

    Args:
      won, lost: as of `area`, at the bounds of `user_ties`.
      user_bounds: of `user_ties`.
    """
    if user_bounds.size == 1:
        return None
    positive_U, negative_U = np.diff(won[user_bounds]), np.diff(lost[user_bounds])
    first_U = user_bounds[:-1]
    beaten_U = np.add.reduceat(_beaten(won, lost), first_U) - positive_U * lost[first_U]
    both = (positive_U > 0) & (negative_U > 0)
    if not both.any():
        return None
    auc_U, weight_U = beaten_U[both] / (positive_U[both] * negative_U[both]), (positive_U + negative_U)[both]
    return float((auc_U * weight_U).sum() / weight_U.sum())


def grouped_rows(won: np.ndarray, lost: np.ndarray, ties: np.ndarray, user_bounds: np.ndarray) -> int | None:
    """How many rows `grouped_area` is of, those of users with both classes; None without any.

    Args:
      won, lost: float64 `[G + 1]`, as of `grouped_area`.
      ties, user_bounds: int64 `[G + 1]` and `[U + 1]`, of `user_ties`.
    """
    both = (np.diff(won[user_bounds]) > 0) & (np.diff(lost[user_bounds]) > 0)
    return int(np.diff(ties[user_bounds])[both].sum()) if both.any() else None


def _beaten(won: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Of each group the weight of pairs in which a positive row of it stands above a negative one, ties one half."""
    return np.diff(won) * (0.5 * (lost[1:] + lost[:-1]))


def _by_class(labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w = weights.astype(np.float64)
    won = np.where(labels > 0, w, 0.0)
    return won, w - won
