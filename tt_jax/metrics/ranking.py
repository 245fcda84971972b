"""Exact ROC-AUC, over all rows and per user, with ties and row weights. NumPy, accumulated in float64.

Shapes: n rows, sorted; G groups of rows tied in score; U users.
"""

from __future__ import annotations

import numpy as np

NO_USER = -1  # a missing id, as the encoder writes it in `keys`


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that a positive row outscores a negative one, a tie counting one half.

    Args:
      scores: `[n]`, float32 (sorts fastest) or float64, no NaN; only their order matters.
      labels: `[n]`, 0 or 1.
      weights: `[n]`, >= 0; a pair of rows counts the product of its weights, as in scikit-learn.

    Returns None if one of the classes has no weight.
    """
    if not scores.size:
        return None
    order = np.argsort(scores)
    first = np.zeros(scores.size, bool)
    first[0] = True
    auc_U, _ = _auc_by_user(scores[order], labels[order], weights[order], first)
    return float(auc_U[0]) if auc_U.size else None


def gauc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, users: np.ndarray) -> float | None:
    """Grouped AUC: the mean of each user's AUC, weighted by the user's impressions (the sum of their row weights).

    Users without both classes are left out, and so are the rows of `NO_USER`, which are no one's. `users` is int64
    `[n]`, the rest as in `auc`. Returns None if no user is left.
    Zhu et al. 2017, Optimized Cost per Click in Taobao Display Advertising, eq. 9 (arXiv 1703.02091).
    """
    known = users != NO_USER
    if not known.any():
        return None
    scores, labels, weights, users = scores[known], labels[known], weights[known], users[known]
    order = np.lexsort((scores, users))
    users = users[order]
    first = np.concatenate([[True], users[1:] != users[:-1]])
    auc_U, weight_U = _auc_by_user(scores[order], labels[order], weights[order], first)
    return float(auc_U @ weight_U / weight_U.sum()) if auc_U.size else None


def _auc_by_user(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUC and weight, float64 `[U]` each, of the users with both classes. Rows are sorted by user, then by score.

    `first` is True at the first row of each user.
    """
    new_tie = first.copy()
    new_tie[1:] |= scores[1:] != scores[:-1]
    tie_starts = np.flatnonzero(new_tie)
    user_starts = np.flatnonzero(first[tie_starts])  # as indices of tie groups
    weights = weights.astype(np.float64)
    positive = weights * (labels > 0)
    positive_G = np.add.reduceat(positive, tie_starts)
    negative_G = np.add.reduceat(weights - positive, tie_starts)
    below_G = np.cumsum(negative_G) - negative_G
    below_G -= np.repeat(below_G[user_starts], np.diff(user_starts, append=tie_starts.size))
    won_U = np.add.reduceat(positive_G * (below_G + 0.5 * negative_G), user_starts)
    positive_U = np.add.reduceat(positive_G, user_starts)
    negative_U = np.add.reduceat(negative_G, user_starts)
    both = (positive_U > 0) & (negative_U > 0)
    return won_U[both] / (positive_U[both] * negative_U[both]), (positive_U + negative_U)[both]
