"""What `tt-jax parity` found, in words: a verdict, and each thing that is past a threshold, the worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_FIGURES = {
    "missing": "missing in {serving:.4f} of the served queries and {training:.4f} of the training rows",
    "default": "encoded as if missing in {serving:.4f} of the served queries and {training:.4f} of the training rows",
    "out_of_range": "{serving:.4f} of the served and {training:.4f} of the training numbers are out of its range",
    "unseen": "{serving:.4f} of the served and {training:.4f} of the held-out ids are ones that training never had",
    "distance": "the distribution of its numbers has a distance of {difference:.4f} to that of training",
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
    queries, scored, wrong = (report[name] for name in ("queries", "scored", "wrong_scores"))
    rest = f"; {queries - scored:,} were not checked, since pairs that are not given answered them"
    if not scored:
        scores = f"no score was checked, since none of the {queries:,} queries was answered by a pair that is given"
    elif wrong:
        scores = f"{wrong:,} of {scored:,} checked queries got other scores than those of the model"
    else:
        scores = f"all {scored:,} {'' if scored == queries else 'checked '}queries got the scores of the model"
    scores += rest if 0 < scored < queries else ""
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
    return [
        f"scores: {report['wrong_scores']:,} of {report['scored']:,} checked queries got other scores than those of "
        f"the model, off {' and '.join(parts)} ({allowed:g} is allowed); most off is the {worst['number']} of ad "
        f"{worst['ad']!r} in {worst['file']}, line {worst['line']}: {worst['served']:.6g} served, "
        f"{worst['replayed']:.6g} by the model"
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
