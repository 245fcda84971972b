"""Columns that know the answer: by name, or because one of them alone orders the rows of a task nearly perfectly."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from input_pipeline.infer_schema.name_words import is_of_the_auction
from input_pipeline.infer_schema.sampled_columns import Column
from input_pipeline.infer_schema.tasks import Outcome
from tt_jax.metrics.ranking import column_auc

ABSURD_AUC = 0.95
_MIN_PER_CLASS = 20
_AFTERWARDS = (
    (r"(play|watch|stay|dwell|read|listen|view)(ing|ed)?_?(time|duration|seconds|ms|percent|ratio|length)",
     "is known only afterwards"),
    (r"(click|conver|conversion|purchase|order|install|attribut|payment|transaction)\w*?_?(id|time|timestamp|ts|date|delay)$",
     "is known only afterwards"),
    (r"^(cost|price|cpc|ecpm|paid|revenue|spend|payment|win_price|clearing_price)$", "comes out of the auction"),
    (r"^(true|oracle|teacher|pred|predicted|propensity|label|target)_|_(label|pred|prediction|pctr|pcvr)$",
     "is an answer, or a model's"),
    (r"^(bid|bid_price)$", "is for ranking by `bid * task`, not for the model"),
)  # fmt: skip


def leak_by_name(column: Column) -> str:
    """Why a column of that name should not be a feature, or ""."""
    if is_of_the_auction(column.words):
        return "is decided after ranking"
    return next((why for pattern, why in _AFTERWARDS if re.search(pattern, "_".join(column.words))), "")


def leak_by_auc(column: Column, outcomes: Iterable[Outcome]) -> str:
    """Which task a column alone tells, with its AUC, or ""."""
    areas = [(auc_alone(column.bins, o.values), o.name) for o in outcomes]
    best, task = max(((a, task) for a, task in areas if a is not None), default=(0.0, ""))
    return f"alone has an AUC of {best:.3f} for {task}: is it known before?" if best >= ABSURD_AUC else ""


def auc_alone(bins: np.ndarray, labels: np.ndarray) -> float | None:
    """`column_auc` of the rows that have a label; None if every other of them has fewer than 20 rows of a class.

    Args:
      bins: int `[n]` >= 0, the value.
      labels: float `[n]`, 0, 1, or NaN where there is none.
    """
    known = ~np.isnan(labels)
    y = labels[known]
    if min(min(half.sum(), len(half) - half.sum()) for half in (y[0::2], y[1::2])) < _MIN_PER_CLASS:
        return None
    return column_auc(bins[known], y)
