"""What `tt-jax parity` found, in words: a verdict, and each thing that is past a threshold, the worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_FIGURES = {
    "missing": "missing in {serving:.4f} of the served queries and {training:.4f} of the training rows",
    "default": "encoded as if missing in {serving:.4f} of the served queries and {training:.4f} of the training rows",
    "out_of_range": "{serving:.4f} of the served numbers are out of training's range, {training:.4f} of its own",
    "unseen": "{serving:.4f} of the served ids are ones that training never had, {training:.4f} of the held-out ids",
    "distance": "its numbers have a distance of {difference:.4f} to those of training",
}


def findings(report: Mapping[str, Any]) -> list[str]:
    """A line for the scores, if they differ, and for each feature that does; the one furthest past comes first."""
    features = [found for name in report["features"] if (found := _feature(report, name))]
    ordered = [line for _, line in sorted(features, key=lambda found: -found[0])]
    return [*_scores(report), *ordered]


def past(report: Mapping[str, Any], feature: str, figure: str) -> bool:
    """Whether this figure of a feature is past its threshold and not ignored."""
    difference = abs(report["features"][feature][figure]["difference"])
    return feature not in report["ignored"] and not difference <= report["thresholds"][figure]


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence: pass or fail, and why."""
    bad, compared = _features_past(report), len(report["features"]) - len(report["ignored"])
    if bad:
        features = (
            f"{bad} of {compared} query features differ{'s' if bad == 1 else ''} from training by more than allowed"
        )
    else:
        features = f"none of {compared} query features differs from training by more than allowed"
    queries, scored = report["queries"], report["scored"]
    if not scored:
        scores = f"no score was checked, since none of the {queries:,} queries was answered by a pair that is given"
    else:
        are = "are not" if _scores(report) else "are"
        how_many = f"all {queries:,}" if scored == queries else f"{scored:,} of {queries:,}"
        scores = f"the served scores of {how_many} queries {are} those of the model"
    if scored and scored < queries:
        scores += f" (the other {queries - scored:,} were answered by pairs that are not given: not checked)"
    word = "FAIL" if report["findings"] else "PASS" if scored else "PASS for features only"
    return f"{word}: {features}; {scores}."


def counted(report: Mapping[str, Any]) -> list[str]:
    """What was not compared and why, a line each."""
    lines = []
    for other in report["not_scored"]:
        versions = f"at {other['versions']:,} versions " if other["versions"] > 1 else ""
        lines.append(
            f"{other['queries']:,} queries were answered by the bundle {other['bundle'][:12]} and the index "
            f"{other['index'][:12]} {versions}that are not given: their features are compared, their scores are not"
        )
    lines += [
        f"{queries:,} queries of other bundles have the feature {name!r}, which this bundle does not know: left out"
        for name, queries in report["unknown_features"].items()
    ]
    lines += [
        f"{queries:,} queries of other bundles are not compared, since this bundle refuses them: {reason}"
        for reason, queries in report["not_encoded"].items()
    ]
    return lines


def _features_past(report: Mapping[str, Any]) -> int:
    return sum(any(past(report, name, figure) for figure in figures) for name, figures in report["features"].items())


def _scores(report: Mapping[str, Any]) -> list[str]:
    """At most one line."""
    allowed, scores = report["thresholds"]["score"], report["scores"]
    kinds = {"score": "of the largest score of its answer", "probability": "of a probability"}
    parts = [
        f"by up to {scores[name]['largest']:.3g} {of}"
        for name, of in kinds.items()
        if not scores[name]["largest"] <= allowed
    ]
    if not parts:
        return []
    worst = scores["worst"]
    where = f"ad {worst['ad']!r} in {worst['file']}, line {worst['line']}: " if worst else ""
    numbers = f"{worst['served']:.6g} served, {worst['replayed']:.6g} by the model" if worst else "none"
    return [
        f"scores: served ones differ from those of the model {' and '.join(parts)}, {allowed:g} is allowed; the score "
        f"that differs most: {where}{numbers}"
    ]


def _feature(report: Mapping[str, Any], name: str) -> tuple[float, str] | None:
    """How many times its threshold the feature is off, and the line."""
    figures, thresholds = report["features"][name], report["thresholds"]
    bad = [figure for figure in figures if past(report, name, figure)]
    if not bad:
        return None

    def severity(figure: str) -> float:
        difference, allowed = abs(figures[figure]["difference"]), thresholds[figure]
        return difference / allowed if allowed else math.inf

    worst = max(map(severity, bad))
    if {"missing", "default"} <= set(bad):
        extra = abs(figures["default"]["difference"] - figures["missing"]["difference"])
        if extra <= thresholds["default"]:
            bad.remove("default")  # a missing value is encoded as one, which is not another finding
    parts = []
    for figure in sorted(bad, key=severity, reverse=True):
        f = figures[figure]
        sign = "" if figure == "distance" else f"a difference of {f['difference']:+.4f}, "
        parts.append(f"{_FIGURES[figure].format(**f)} ({sign}{thresholds[figure]:g} is allowed)")
    return worst, f"{name}: {'; '.join(parts)}"
