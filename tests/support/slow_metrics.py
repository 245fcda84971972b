"""Metrics by their definitions, pair by pair."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score


def slow_gauc(p, y, w, users):
    """One user at a time, through scikit-learn."""
    areas, weights = [], []
    for user in set(users.tolist()) - {-1}:
        mine = (users == user) & (w > 0)
        if len(set(y[mine])) == 2:
            areas.append(roc_auc_score(y[mine], p[mine], sample_weight=w[mine].astype(np.float64)))
            weights.append(w[mine].astype(np.float64).sum())
    return float(np.average(areas, weights=weights)) if areas else None
