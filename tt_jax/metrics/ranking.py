"""Exact ROC-AUC, over all rows and per user, with ties and row weights. NumPy, accumulated in float64."""

from __future__ import annotations

from dataclasses import dataclass

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
    return SortedRows.of(scores, labels).auc(weights)


def gauc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, users: np.ndarray) -> float | None:
    """Grouped AUC: the mean of each user's AUC, weighted by the user's impressions (the sum of their row weights).

    Users without both classes are left out, and so are the rows of `NO_USER`, which are no one's. `users` is int64
    `[n]`, the rest as in `auc`. Returns None if no user is left.
    Zhu et al. 2017, Optimized Cost per Click in Taobao Display Advertising, eq. 9 (arXiv 1703.02091).
    """
    return SortedRows.of(scores, labels, users).auc(weights)


@dataclass(frozen=True)
class SortedRows:
    """Rows sorted by user, then by score, once for the AUC under any number of weightings.

    P positive and M negative rows, of the U users that have both.

    Attributes:
      positives, negatives: int64 `[P]`, `[M]`, the rows in this order.
      below, upto: int64 `[P]`, how many of `negatives` stand before the first one of at least, and the first one of
        more than, a positive row's score: between the two are its ties.
      first: int64 `[U]`, each user's first place in `positives`.
      start, end: int64 `[U]`, each user's first place in `negatives`, and the one after its last.
    """

    positives: np.ndarray
    negatives: np.ndarray
    below: np.ndarray
    upto: np.ndarray
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @staticmethod
    def of(scores: np.ndarray, labels: np.ndarray, users: np.ndarray | None = None) -> SortedRows:
        """The rows sorted; as one user's without `users`. Arguments as of `gauc`; there may be none."""
        if users is None:
            order = np.argsort(scores)
            new_user = np.zeros(order.size, bool)
        else:
            known = np.flatnonzero(users != NO_USER)
            order = known[np.lexsort((scores[known], users[known]))]
            new_user = np.concatenate([[True], users[order[1:]] != users[order[:-1]]])[: order.size]
        new_user[:1] = True
        new_tie = new_user.copy()
        new_tie[1:] |= scores[order[1:]] != scores[order[:-1]]
        positive = labels[order] > 0
        negatives_before = np.concatenate([[0], np.cumsum(~positive)])
        tie_bounds = np.append(np.flatnonzero(new_tie), order.size)
        tie = np.cumsum(new_tie) - 1
        user_bounds = np.append(np.flatnonzero(new_user), order.size)
        user = np.cumsum(new_user) - 1
        of_user = np.bincount(user[positive], minlength=user_bounds.size - 1)
        start, end = negatives_before[user_bounds[:-1]], negatives_before[user_bounds[1:]]
        both = (of_user > 0) & (end > start)
        kept = positive & both[user]
        return SortedRows(
            positives=order[kept],
            negatives=order[~positive],
            below=negatives_before[tie_bounds[tie[kept]]],
            upto=negatives_before[tie_bounds[tie[kept] + 1]],
            first=np.cumsum(of_user[both]) - of_user[both],
            start=start[both],
            end=end[both],
        )

    def auc(self, weights: np.ndarray) -> float | None:
        """The mean of the users' AUCs, weighted by their rows. `weights`: >= 0 `[n]`, in the order of the rows given.

        None if no user has weight in both classes.
        """
        if not self.first.size:
            return None
        weight_P = weights[self.positives].astype(np.float64)
        lost_M = np.concatenate([[0.0], np.cumsum(weights[self.negatives], dtype=np.float64)])
        positive_U = np.add.reduceat(weight_P, self.first)
        negative_U = lost_M[self.end] - lost_M[self.start]
        beaten_P = 0.5 * (lost_M[self.below] + lost_M[self.upto])
        won_U = np.add.reduceat(weight_P * beaten_P, self.first) - positive_U * lost_M[self.start]
        both = (positive_U > 0) & (negative_U > 0)
        if not both.any():
            return None
        auc_U, weight_U = won_U[both] / (positive_U[both] * negative_U[both]), (positive_U + negative_U)[both]
        return float(auc_U @ weight_U / weight_U.sum())
