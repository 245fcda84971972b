"""What `inspect.json` holds, of a `Survey`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from input_pipeline.inspect import figures
from input_pipeline.inspect.drift import drift, finite_sample
from input_pipeline.inspect.findings import findings
from input_pipeline.inspect.sketches import Distinct
from input_pipeline.inspect.survey import Counted, Survey
from input_pipeline.inspect.values import NUMBERS, numbers_of, shown
from tt_jax.metrics.ranking import column_auc

VERSION = 1
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_TOP = 20
_LEAKS = 10  # columns that are listed for a task
_COLLISIONS = 0.05  # share for which a table's size is reported
_MIN_LABELLED = 100  # rows of the sample without which no AUC is reported


def report_of(survey: Survey, about: Mapping[str, Any]) -> dict[str, Any]:
    """The report, JSON values only. `about` says where the rows are from, and stands at its beginning."""
    log = survey.counted()
    whole = log.whole
    report = {
        "version": VERSION,
        **about,
        "rows": whole.rows,
        "splits": {name: {"rows": split.rows, **_labels(log, split=name)} for name, split in log.splits.items()},
        "scenarios": {name: _labels(log, scenario=name) for name in sorted({s for _, _, s in log.labels}) if name},
        "labels": _labels(log)["labels"],
        "days": _days(log),
        "columns": {name: _column(log, name) for name in whole.columns},
        "tables": _tables(log),
        "drift": drift(log),
        "leaks": _leaks(log),
        "duplicates": {
            "share": whole.distinct_rows.repeated,
            "rows": round(whole.distinct_rows.repeated * whole.rows),
            "exact": not whole.distinct_rows.error,
        },
        "sampled_rows": whole.sampled,
        "troubles": log.troubles,
    }
    return {**report, "findings": findings(report)}


def _labels(log: Counted, split: str | None = None, scenario: str | None = None) -> dict[str, Any]:
    """Rows and label rates of some of them."""
    return _rates(log, (v for (s, _, c), v in log.labels.items() if split in (None, s) and scenario in (None, c)))


def _rates(log: Counted, parts: Iterable[np.ndarray]) -> dict[str, Any]:
    tasks = log.roles.labels
    total = sum(parts, np.zeros(1 + 2 * len(tasks)))
    labels = {}
    for i, task in enumerate(tasks):
        labelled, positive = int(total[1 + 2 * i]), float(total[2 + 2 * i])
        labels[task] = {"labelled": labelled, "rate": positive / labelled if labelled else None}
    return {"rows": int(total[0]), "labels": labels}


def _days(log: Counted) -> list[dict[str, Any]]:
    """Of each day, oldest first: rows and rates, of all and by scenario. A last one, of no date, has what has none."""
    days = {day for _, day, _ in log.labels}
    if days == {None}:
        return []
    result = []
    for day in sorted(days, key=lambda d: (d is None, d)):
        of_day = {(s, c): v for (s, d, c), v in log.labels.items() if d == day}
        scenarios = sorted({c for _, c in of_day if c})
        date = None if day is None else str(np.datetime64(day, "D"))
        by = {c: _rates(log, (v for (_, name), v in of_day.items() if name == c)) for c in scenarios}
        result.append({"day": date, **_rates(log, of_day.values()), "scenarios": by})
    return result


# ---- columns ---------------------------------------------------------------------------------------------------------


def _column(log: Counted, name: str) -> dict[str, Any]:
    stats = log.whole.columns[name]
    result: dict[str, Any] = {
        "role": _role(log, name),
        "kind": f"lists of {stats.kind}" if stats.lists else stats.kind,
        "missing": log.whole.missing_share(name),
        "missing_by_split": {n: s.missing_share(name) if name in s.columns else 1.0 for n, s in log.splits.items()},
    }
    if stats.lists:
        mean = stats.elements / stats.present if stats.present else None
        result["lengths"] = {"mean": mean, "longest": stats.longest}
    if stats.kind not in ("none", "other"):
        result["distinct"] = {
            "count": len(stats.distinct), "exact": not stats.distinct.error, "error": stats.distinct.error,
            "once": stats.distinct.once,
        }  # fmt: skip
        result["top"] = [
            {"value": shown(stats.kind, key, stats.texts), "count": count, "share": count / stats.elements}
            for key, count in stats.frequent.top(_TOP)
        ]
        result["top_error"] = stats.frequent.error
    if stats.kind in NUMBERS and stats.mean is not None and not log.roles.is_ids(name):
        result["numbers"] = {
            "min": stats.low, "max": stats.high, "mean": stats.mean, "infinite": stats.infinite,
            "quantiles": {} if stats.lists else _quantiles(finite_sample(log.whole, name)),
        }  # fmt: skip
    return result


def _role(log: Counted, name: str) -> str:
    roles = log.roles
    for task, label in roles.labels.items():
        if name == label:
            return f"label of {task}"
    if roles.schema and name in {f.name for f in roles.schema.features}:
        feature = roles.schema.feature(name)
        return f"{feature.tower}, {feature.kind}"
    named = {roles.scenario: "scenario", roles.time: "time", **dict.fromkeys(roles.masks.values(), "label mask")}
    return named.get(name, "")


def _quantiles(numbers: np.ndarray) -> dict[str, float]:
    if not numbers.size:
        return {}
    return {str(q): float(v) for q, v in zip(_QUANTILES, np.quantile(numbers, _QUANTILES), strict=True)}


def _tables(log: Counted) -> dict[str, Any]:
    """Of each hashed table without a vocabulary the ids of all features that look it up, and what share of them has a
    row with another."""
    schema, tables = log.roles.schema, {}
    for owner in schema.features if schema else ():
        if not owner.hash_size or owner.vocabulary or owner.learns:
            continue
        names = [f.name for f in schema.features if f.is_ids and schema.table_owner(f) == owner]  # pyright: ignore
        ids = Distinct(log.bounds.distinct)
        for name in names:
            if name in log.whole.columns:
                ids.merge(log.whole.columns[name].distinct)
        rows = owner.hash_size - 2  # what MISSING_ID and UNKNOWN_ID leave
        tables[owner.name] = {
            "features": names, "rows": owner.hash_size, "ids": len(ids), "exact": not ids.error,
            "collisions": figures.collisions(len(ids), rows),
            "rows_for": {"share": _COLLISIONS, "rows": figures.rows_for(len(ids), _COLLISIONS) + 2},
        }  # fmt: skip
    return tables


# ---- leaks -----------------------------------------------------------------------------------------------------------


def _leaks(log: Counted) -> dict[str, list[dict[str, Any]]]:
    """Task -> the columns with the highest AUC alone, in the sample."""
    roles, sample = log.roles, log.whole.sample
    codes = {
        name: figures.leak_codes(keys, valid, _numbers_for_bins(log, name))
        for name, (keys, valid) in sample.items()
        if _may_leak(log, name) and log.whole.columns[name].kind not in ("none", "other")
    }
    leaks: dict[str, list[dict[str, Any]]] = {}
    for task, label in roles.labels.items():
        keys, counts = sample[label]
        if task in roles.masks:
            mask_keys, valid = sample[roles.masks[task]]
            counts = counts & valid & (numbers_of(log.whole.columns[roles.masks[task]].kind, mask_keys) == 1)
        y = numbers_of(log.whole.columns[label].kind, keys)[counts]
        leaks[task] = []
        if y.size < _MIN_LABELLED:
            continue
        positive = y > y.mean()  # of a probability, as of 0 and 1
        alone = {name: column_auc(c[counts], positive) for name, c in codes.items() if name != label}
        ranked = sorted(((a, name) for name, a in alone.items() if a is not None), reverse=True)
        leaks[task] = [{"column": name, "auc": a} for a, name in ranked[:_LEAKS]]
    return leaks


def _may_leak(log: Counted, name: str) -> bool:
    schema = log.roles.schema
    return name in {f.name for f in schema.features} if schema else True


def _numbers_for_bins(log: Counted, name: str) -> np.ndarray | None:
    stats = log.whole.columns[name]
    if stats.kind not in NUMBERS or stats.lists or log.roles.is_ids(name):
        return None
    return numbers_of(stats.kind, log.whole.sample[name][0])
