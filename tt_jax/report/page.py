"""`report.html`: the figures of a report as a page that needs nothing else, for a desk and a phone.

Every number leads to the row of the comparison that it is of, and from there to its runs and their fingerprints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tt_jax.report import plots
from tt_jax.report.plots import Line, Whisker

TEMPLATE = "report.html.jinja"
NAMES = {
    "logloss": "log loss", "auc": "AUC", "gauc": "GAUC", "ne": "NE", "calibration": "calibration", "ece": "ECE",
    "kl": "KL to teacher", "logmae": "LogMAE", "rows": "rows", "positives": "positives",
}  # fmt: skip


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the page of a report, whole or not at all. Raises OSError, naming the file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(render(report), encoding="utf-8")
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {e}") from e


def render(report: Mapping[str, Any]) -> str:
    """The page of a report, as `tt_jax.compare.summary.summarise` makes it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number, "percent": _percent, "signed": _signed, "count": _count, "pretty": _pretty,
    }  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        report=report,
        names=NAMES,
        colours=plots.COLOURS,
        whiskers=list(_whiskers(report)),
        learning=list(_learning(report)),
        curves=list(_curves(report)),
    )


# ---- pictures --------------------------------------------------------------------------------------------------------

Group = tuple[str, list[tuple[str, Markup]]]  # title, and by caption the pictures


def _whiskers(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split and task: the relative difference of the loss to the reference, by scope."""
    groups, reference = [], report["rows"][0]["name"]
    for split in report["splits"]:
        for task, kind in report["tasks"].items():
            loss = "kl" if kind == "soft" else "logloss"
            cards = []
            for scope in report["rows"][0]["metrics"][split]:
                drawn = _compared(report, split, scope, task, loss)
                if drawn:
                    told = "; ".join(f"{w.name} {w.value:+.2%}, {w.low:+.2%} to {w.high:+.2%}" for w in drawn)
                    alt = f"{NAMES[loss]} of {task} on {split}, {scope}, difference to {reference}: {told}"
                    cards.append((scope, Markup(plots.whiskers(drawn, alt, f"{NAMES[loss]}, difference"))))
            if cards:
                groups.append((f"{task} on {split}", cards))
    return groups


def _compared(report: Mapping[str, Any], split: str, scope: str, task: str, loss: str) -> Sequence[Whisker]:
    found = []
    for i, row in enumerate(report["rows"]):
        difference = row["metrics"][split][scope][task][loss].get("difference")
        if difference and difference["relative_interval"]:
            found.append(Whisker(i, row["name"], difference["relative"], *difference["relative_interval"]))
    return found


def _learning(report: Mapping[str, Any]) -> Sequence[Group]:
    """By task: log loss on the eval split over training time and over examples, by scenario."""
    groups = []
    tasks = [task for task in report["tasks"] if any(task in row["to_quality"] for row in report["rows"])]
    for task in tasks:
        cards = []
        for scenario in report["scenarios"]:
            for x, label in (("seconds", "seconds of training"), ("examples", "examples")):
                drawn, points = [], []
                for i, row in enumerate(report["rows"]):
                    for k, curve in enumerate(row["learning"][scenario].get(task, [])):
                        drawn.append(Line(i, curve[x], curve["logloss"], faint=k > 0, dots=len(curve[x]) == 1))
                        points += curve["logloss"][len(curve["logloss"]) // 8 :]
                if drawn:
                    room = 0.05 * (max(points) - min(points)) or 0.01
                    caption = f"{scenario}, over {label}"
                    alt = f"{task}: log loss on the eval split over {label}, {scenario}, one line a row and seed"
                    limits = (min(points) - room, max(points) + room)
                    cards.append((caption, Markup(plots.lines(drawn, alt, label, "log loss", y_limits=limits))))
        if cards:
            groups.append((task, cards))
    return groups


def _curves(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split and task: ROC and calibration, by scope."""
    groups = []
    for split in report["splits"]:
        for task in report["tasks"]:
            cards = []
            for scope in report["rows"][0]["curves"][split]:
                by_row = [row["curves"][split][scope][task] for row in report["rows"]]
                cards += _roc(by_row, f"{task} on {split}, {scope}") + _calibration(
                    by_row, f"{task} on {split}, {scope}"
                )
            if cards:
                groups.append((f"{task} on {split}", cards))
    return groups


def _roc(by_row: Sequence[Mapping[str, Any]], what: str) -> list[tuple[str, Markup]]:
    drawn = [
        Line(i, found["roc"]["false_positive_rate"], found["roc"]["true_positive_rate"])
        for i, found in enumerate(by_row)
        if found["roc"]
    ]
    if not drawn:
        return []
    svg = plots.lines(
        drawn, f"ROC curves of {what}, one a row", "false-positive rate", "true-positive rate", diagonal=True
    )
    return [(f"ROC, {what.rpartition(', ')[2]}", Markup(svg))]


def _calibration(by_row: Sequence[Mapping[str, Any]], what: str) -> list[tuple[str, Markup]]:
    drawn = [
        Line(i, found["calibration"]["prediction"], found["calibration"]["label"], dots=True)
        for i, found in enumerate(by_row)
        if found["calibration"]
    ]
    if not drawn:
        return []
    svg = plots.lines(
        drawn, f"Calibration of {what}: mean label over mean prediction, one line a row", "mean prediction",
        "mean label", diagonal=True,
    )  # fmt: skip
    return [(f"Calibration, {what.rpartition(', ')[2]}", Markup(svg))]


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:+.{digits}f} %".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _count(value: float | None) -> str:
    """`12.3 M`."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1)
