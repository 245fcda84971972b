"""How far the columns of one split are from those of another, or of the last days from those of the first ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from input_pipeline.inspect import figures
from input_pipeline.inspect.label_counts import days_of
from input_pipeline.inspect.statistics import ColumnStats, SplitSummary
from input_pipeline.inspect.survey import Counted
from input_pipeline.inspect.values import NUMBERS, Values, numbers_of

_MIN_ROWS = 100  # of the sample, on either side of a comparison of days


def drift(log: Counted) -> dict[str, Any]:
    """Column -> split -> psi and ks, against the split `train`, or the first where there is none.

    Of one split, whose rows have times: its last days against its first ones, by the sample of its rows.
    """
    return _of_splits(log) if len(log.splits) > 1 else _of_days(log)


def _of_splits(log: Counted) -> dict[str, Any]:
    first = "train" if "train" in log.splits else next(iter(log.splits))
    reference, distances = log.splits[first], {}
    others = [(name, split) for name, split in log.splits.items() if name != first]
    for name, stats in reference.columns.items():
        if not _compared(log, name) or stats.kind in ("none", "other"):
            continue
        distances[name] = {
            other: _distance(log, reference, split, name)
            for other, split in others
            if name in split.columns and split.rows and reference.rows
        }
    return {"reference": first, "columns": distances}


def _of_days(log: Counted) -> dict[str, Any]:
    """Each of the first and of the last days is the fewest that have a third of the sampled rows."""
    time = log.roles.time
    if time is None or time not in log.whole.sample:
        return {}
    keys, valid = log.whole.sample[time]
    if not valid.any():
        return {}
    of_row, dated = days_of(Values(log.whole.columns[time].kind, valid, keys, keys))
    ordered = np.sort(of_row[dated])
    first, last = ordered[(ordered.size - 1) // 3], ordered[ordered.size - 1 - (ordered.size - 1) // 3]
    early, late = dated & (of_row <= first), dated & (of_row >= last)
    if first >= last or min(early.sum(), late.sum()) < _MIN_ROWS:
        return {}
    names = [n for n, stats in log.whole.columns.items() if _in_sample(log, n, stats)]
    until, since = (str(np.datetime64(int(day), "D")) for day in (first, last))
    of_names = {n: {f"the time from {since} on": _sample_distance(log, n, early, late)} for n in names}
    return {"reference": f"the time to {until}", "columns": of_names}


def _in_sample(log: Counted, name: str, stats: ColumnStats) -> bool:
    """Whether the sample tells the distribution of a column: of lists it has no elements."""
    return _compared(log, name) and stats.kind not in ("none", "other") and not stats.lists


def _sample_distance(log: Counted, name: str, early: np.ndarray, late: np.ndarray) -> dict[str, Any]:
    keys, valid = log.whole.sample[name]
    sides = [keys[rows & valid] for rows in (early, late)]
    missing = [int((rows & ~valid).sum()) for rows in (early, late)]
    kind, distance = log.whole.columns[name].kind, None
    if kind in NUMBERS and not log.roles.is_ids(name):
        numbers = [n[np.isfinite(n)] for n in (numbers_of(kind, side) for side in sides)]
        if min(n.size for n in numbers):
            distance = figures.ks(*numbers)
            if np.unique(sides[0]).size > figures.BINS:
                edges = figures.number_bins(numbers[0])
                counts = [figures.number_histogram(edges, n, m) for n, m in zip(numbers, missing, strict=True)]
                return {"psi": figures.psi(*counts), "ks": distance}
    values, counts = np.unique(sides[0], return_counts=True)
    top = values[np.argsort(-counts, kind="stable")[: figures.TOP_VALUES]]
    histograms = []
    for side, absent in zip(sides, missing, strict=True):
        of_top = np.array([(side == value).sum() for value in top])
        histograms.append(np.array([*of_top, side.size - of_top.sum(), absent], np.float64))
    return {"psi": figures.psi(*histograms), "ks": distance}


def _compared(log: Counted, name: str) -> bool:
    """All columns but the time, which differs of course; of a recipe its features and labels."""
    roles = log.roles
    features = {f.name for f in roles.schema.features} if roles.schema else {name}
    return name != roles.time and name in features | set(roles.labels.values())


def _distance(log: Counted, reference: SplitSummary, split: SplitSummary, name: str) -> dict[str, Any]:
    before = reference.columns[name]
    if before.kind in NUMBERS and not before.lists and not log.roles.is_ids(name):
        a, b = finite_sample(reference, name), finite_sample(split, name)
        if a.size and b.size:
            distance = figures.ks(a, b)
            if len(before.distinct) > figures.BINS:
                edges = figures.number_bins(a)
                shares = [s.missing_share(name) for s in (reference, split)]
                missing = [share * n.size / max(1e-9, 1 - share) for share, n in zip(shares, (a, b), strict=True)]
                counts = [figures.number_histogram(edges, n, m) for n, m in zip((a, b), missing, strict=True)]
                return {"psi": figures.psi(*counts), "ks": distance}
            return {"psi": figures.psi(*_value_histograms(reference, split, name)), "ks": distance}
    return {"psi": figures.psi(*_value_histograms(reference, split, name)), "ks": None}


def _value_histograms(reference: SplitSummary, other: SplitSummary, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the reference's most frequent values, of all others, and of missing rows."""
    top = [key for key, _ in reference.columns[name].frequent.top(figures.TOP_VALUES)]

    def counts(split: SplitSummary) -> np.ndarray:
        stats = split.columns[name]
        of = dict(zip(stats.frequent.keys.tolist(), stats.frequent.counts.tolist(), strict=True))
        values = [of.get(key, 0) for key in top]
        return np.array([*values, stats.elements - sum(values), split.missing(name)], np.float64)

    return counts(reference), counts(other)


def finite_sample(split: SplitSummary, name: str) -> np.ndarray:
    """The finite numbers of a column in the sample, float64."""
    if name not in split.sample:
        return np.empty(0)
    keys, valid = split.sample[name]
    numbers = numbers_of(split.columns[name].kind, keys[valid])
    return numbers[np.isfinite(numbers)]
