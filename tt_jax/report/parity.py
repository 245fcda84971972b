"""`parity.html`: served requests against training, as a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from tt_jax.report.html import aligned, number, plain_page
from tt_jax.report.parity_verdict import counted, past
from tt_jax.report.plots import Whisker, whiskers

_TITLES = {
    "missing": "Missing: share of queries without a value",
    "default": "Default: share of queries that are encoded as if it were missing",
    "out_of_range": "Out of range: share of numbers outside of training's central 99.9 %",
    "unseen": "Unseen: share of ids that training never had; of the held-out rows in place of training's",
    "distance": "Distance of a number's distribution to that of training, 0 to 1",
}


def parity_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax parity` writes to parity.json."""
    bad = bool(report["findings"])
    verdict = f'<p role="status"{_mark(bad)}>{html.escape(report["verdict"])}</p>'
    found = "".join(f"<li>{html.escape(finding)}</li>" for finding in report["findings"])
    findings = f"<h2>Findings, the worst first</h2><ol>{found}</ol>" if found else ""
    sections = "".join(_section(report, figure) for figure in _TITLES)
    return plain_page("Serving against training", f"{verdict}{findings}{_about(report)}{_scores(report)}{sections}")


def _mark(bad: bool) -> str:
    return ' class="bad"' if bad else ""


def _about(report: Mapping[str, Any]) -> str:
    training = report["training"]
    lines = [
        f"{report['queries']:,} logged queries against {training['rows']:,} training rows of"
        f" {', '.join(training['splits'])} and {training['held_out']:,} held-out rows."
        " The intervals, of 95 %, are those of the served queries alone.",
        *(f"{line}." for line in counted(report)),
        *(
            ["Shown, but without a threshold (--ignore): " + ", ".join(report["ignored"]) + "."]
            if report["ignored"]
            else []
        ),
    ]
    about = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    pairs = [("bundle", report["bundle"]), ("index", report["index"])]
    pairs += [(f"also the {kind}", value) for pair in report["also"] for kind, value in zip(("bundle", "index"), pair)]  # noqa: B905
    marks = "".join(f"<p>{name}: <code>{html.escape(v)}</code></p>" for name, v in [*pairs, ("data", report["data"])])
    return f"<h2>What was compared</h2>{about}{marks}"


def _scores(report: Mapping[str, Any]) -> str:
    allowed, found = report["thresholds"]["score"], {k: d for k, d in report["scores"].items() if k != "worst"}
    largest = aligned([d["largest"] if d["compared"] else None for d in found.values()])
    mean = aligned([d["mean"] for d in found.values()])
    rows = "".join(
        f"<tr{_mark(not d['largest'] <= allowed)}><td>{_SCORES[name]}</td><td>{d['compared']:,}</td>"
        f"<td>{largest[i]}</td><td>{mean[i]}</td><td>{allowed:g}</td></tr>"
        for i, (name, d) in enumerate(found.items())
    )
    head = "<tr><th></th><th>compared</th><th>largest difference</th><th>mean</th><th>allowed</th></tr>"
    table = f'<div class="scroll" tabindex="0"><table>{head}{rows}</table></div>'
    return f"<section><h2>Scores: served against those that the model gives</h2>{table}</section>"


_SCORES = {"score": "score, of the largest of its answer", "probability": "probability"}


def _section(report: Mapping[str, Any], figure: str) -> str:
    """A figure of every feature that has it, with its picture."""
    drawn, rows = [], []
    for feature, figures in report["features"].items():
        if figure not in figures:
            continue
        f, bad = figures[figure], past(report, feature, figure)
        cells = [number(f.get(name), ".4f") for name in ("training", "serving")] + [f"{f['difference']:+.4f}"]
        allowed = "any" if feature in report["ignored"] else f"{report['thresholds'][figure]:g}"
        row = "".join(f"<td>{cell}</td>" for cell in [*cells, allowed, "past" if bad else "fine"])
        rows.append(f"<tr{_mark(bad)}><td>{html.escape(feature)}</td>{row}</tr>")
        if "low" in f:
            drawn.append(Whisker(int(bad), feature, f["difference"], f["low"], f["high"]))
    if not rows:
        return ""
    picture = (
        whiskers(drawn, f"{_TITLES[figure]}: serving - training, by feature", "serving - training") if drawn else ""
    )
    names = ("", "training", "serving", "difference", "allowed", "")
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f'<div class="scroll" tabindex="0"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f"<section><h2>{html.escape(_TITLES[figure])}</h2>{picture}{table}</section>\n"
