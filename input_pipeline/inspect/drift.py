"""How far the columns of one split are from those of another, or of the last days from those of the first ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from input_pipeline.inspect import figures
from input_pipeline.inspect.column import ColumnStats
from input_pipeline.inspect.survey import SplitStats, Survey, days_of
from input_pipeline.inspect.values import NUMBERS, Values, numbers_of

_MIN_ROWS = 100  # of the sample, on either side of a comparison of days


def drift(survey: Survey, whole: SplitStats) -> dict[str, Any]:
    """Column -> split -> psi and ks, against the split `train`, or the first where there is none.

    Of one split, whose rows have times: its last days against its first ones, by the sample of its rows.
    """
    return _of_splits(survey) if len(survey.splits) > 1 else _of_days(survey, whole)


def _of_splits(survey: Survey) -> dict[str, Any]:
    first = "train" if "train" in survey.splits else next(iter(survey.splits))
    reference, found = survey.splits[first], {}
    others = [(name, split) for name, split in survey.splits.items() if name != first]
    for name, stats in reference.columns.items():
        if not _compared(survey, name) or stats.kind in ("none", "other"):
            continue
        found[name] = {
            other: _distance(survey, reference, split, name)
            for other, split in others
            if name in split.columns and split.rows and reference.rows
        }
    return {"reference": first, "columns": found}


def _of_days(survey: Survey, whole: SplitStats) -> dict[str, Any]:
    """Each of the first and of the last days is the fewest that have a third of the sampled rows."""
    keys, valid = whole.sample.columns.get(survey.roles.time, (np.empty(0, np.uint64), np.empty(0, bool)))
    if not valid.any():
        return {}
    of_row, dated = days_of(Values(whole.columns[survey.roles.time].kind, valid, keys, keys))
    ordered = np.sort(of_row[dated])
    first, last = ordered[(ordered.size - 1) // 3], ordered[ordered.size - 1 - (ordered.size - 1) // 3]
    early, late = dated & (of_row <= first), dated & (of_row >= last)
    if first >= last or min(early.sum(), late.sum()) < _MIN_ROWS:
        return {}
    names = [n for n, stats in whole.columns.items() if _in_sample(survey, n, stats)]
    until, since = (str(np.datetime64(int(day), "D")) for day in (first, last))
    of_names = {n: {f"the time from {since} on": _sample_distance(survey, whole, n, early, late)} for n in names}
    return {"reference": f"the time to {until}", "columns": of_names}


def _in_sample(survey: Survey, name: str, stats: ColumnStats) -> bool:
    """Whether the sample tells the distribution of a column: of lists it has no elements."""
    return _compared(survey, name) and stats.kind not in ("none", "other") and not stats.lists


def _sample_distance(
    survey: Survey, whole: SplitStats, name: str, early: np.ndarray, late: np.ndarray
) -> dict[str, Any]:
    keys, valid = whole.sample.columns[name]
    sides = [keys[rows & valid] for rows in (early, late)]
    missing = [int((rows & ~valid).sum()) for rows in (early, late)]
    kind, distance = whole.columns[name].kind, None
    if kind in NUMBERS and not survey.roles.is_ids(name):
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


def _compared(survey: Survey, name: str) -> bool:
    """All columns but the time, which differs of course; of a recipe its features and labels."""
    roles = survey.roles
    features = {f.name for f in roles.schema.features} if roles.schema else {name}
    return name != roles.time and name in features | set(roles.labels.values())


def _distance(survey: Survey, reference: SplitStats, split: SplitStats, name: str) -> dict[str, Any]:
    before, after = reference.columns[name], split.columns[name]
    if before.kind in NUMBERS and not before.lists and not survey.roles.is_ids(name):
        a, b = finite_sample(reference, name), finite_sample(split, name)
        if a.size and b.size:
            distance = figures.ks(a, b)
            if len(before.distinct) > figures.BINS:
                edges = figures.number_bins(a)
                missing = [
                    missing_share(s) * n.size / max(1e-9, 1 - missing_share(s)) for s, n in ((before, a), (after, b))
                ]
                counts = [figures.number_histogram(edges, n, m) for n, m in zip((a, b), missing, strict=True)]
                return {"psi": figures.psi(*counts), "ks": distance}
            return {"psi": figures.psi(*_value_histograms(before, after)), "ks": distance}
    return {"psi": figures.psi(*_value_histograms(before, after)), "ks": None}


def _value_histograms(before: ColumnStats, after: ColumnStats) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the reference's most frequent values, of all others, and of missing rows."""
    top = np.array([key for key, _ in before.frequent.top(figures.TOP_VALUES)], np.uint64)

    def counts(stats: ColumnStats) -> np.ndarray:
        of = dict(zip(stats.frequent.keys.tolist(), stats.frequent.counts.tolist(), strict=True))
        values = [of.get(int(key), 0) for key in top]
        return np.array([*values, stats.elements - sum(values), stats.missing], np.float64)

    return counts(before), counts(after)


def missing_share(stats: ColumnStats) -> float:
    return stats.missing / stats.rows if stats.rows else 0.0


def finite_sample(split: SplitStats, name: str) -> np.ndarray:
    """The finite numbers of a column in the sample, float64."""
    if name not in split.sample.columns:
        return np.empty(0)
    keys, valid = split.sample.columns[name]
    numbers = numbers_of(split.columns[name].kind, keys[valid])
    return numbers[np.isfinite(numbers)]
