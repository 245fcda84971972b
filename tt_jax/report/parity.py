"""`parity.html`: served requests against training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tt_jax.report.page import aligned, number, render
from tt_jax.report.parity_verdict import counted, past
from tt_jax.report.plots import Whisker, whiskers

_TITLES = {
    "missing": "Missing: share of queries without a value",
    "default": "Default: share of queries that are encoded as if it were missing",
    "out_of_range": "Out of range: share of numbers outside of training's central 99.9 %",
    "unseen": "Unseen: share of ids that training never had; of the held-out rows in place of training's",
    "distance": "Distance of a number's distribution to that of training, 0 to 1",
}
_SCORES = {"score": "score, of the largest of its answer", "probability": "probability"}


def parity_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax parity` writes to parity.json."""
    scores, wrong_scores = _scores(report)
    figures = [found for figure in _TITLES if (found := _figure(report, figure))]
    return render(
        "parity", "Serving against training", report=report, not_compared=counted(report), scores=scores,
        wrong_scores=wrong_scores, figures=figures,
    )  # fmt: skip


def _scores(report: Mapping[str, Any]) -> tuple[list[list[str]], list[int]]:
    """The rows of the table, and which are past what is allowed."""
    allowed, found = report["thresholds"]["score"], {k: d for k, d in report["scores"].items() if k != "worst"}
    largest = aligned([d["largest"] if d["compared"] else None for d in found.values()])
    mean = aligned([d["mean"] for d in found.values()])
    rows = [
        [_SCORES[name], f"{d['compared']:,}", largest[i], mean[i], f"{allowed:g}"]
        for i, (name, d) in enumerate(found.items())
    ]
    return rows, [i for i, d in enumerate(found.values()) if not d["largest"] <= allowed]


def _figure(report: Mapping[str, Any], figure: str) -> tuple[str, Markup, list[list[str]], list[int]] | None:
    """Of every feature that has a figure: its title, picture, rows, and which are past; None if none has."""
    drawn, rows, wrong = [], [], []
    for feature, figures in report["features"].items():
        if figure not in figures:
            continue
        f, bad = figures[figure], past(report, feature, figure)
        if bad:
            wrong.append(len(rows))
        numbers = [number(f.get(name), ".4f") for name in ("training", "serving")] + [f"{f['difference']:+.4f}"]
        allowed = "any" if feature in report["ignored"] else f"{report['thresholds'][figure]:g}"
        rows.append([feature, *numbers, allowed, "past" if bad else "fine"])
        if "low" in f:
            drawn.append(Whisker(int(bad), feature, f["difference"], f["low"], f["high"]))
    if not rows:
        return None
    alt = f"{_TITLES[figure]}: serving - training, by feature"
    picture = Markup(whiskers(drawn, alt, "serving - training")) if drawn else Markup("")
    return _TITLES[figure], picture, rows, wrong
