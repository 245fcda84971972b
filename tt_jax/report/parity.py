"""`parity.html`: served requests against training, as a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from tt_jax.report.plain import number, plain_page
from tt_jax.report.plots import Whisker, whiskers

_TITLES = {
    "missing": "Missing",
    "default": "Encoded as if missing",
    "out_of_range": "Numbers out of training's range",
    "unseen": "Ids that training never had",
    "distance": "Distance of a number's distributions",
}


def parity_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax parity` writes to parity.json."""
    training = report["training"]
    about = (
        f"{report['queries']:,} logged queries against {training['rows']:,} training rows of"
        f" {', '.join(training['splits'])}. Intervals of 95 % know of the number of queries only."
    )
    marks = "".join(f"<p>{name}: <code>{html.escape(report[name])}</code></p>" for name in ("bundle", "index", "data"))
    found = "".join(f'<li class="bad">{html.escape(finding)}</li>' for finding in report["findings"])
    verdict = f"<ul>{found}</ul>" if found else "<p>Nothing is past a threshold.</p>"
    sections = "".join(_section(report, figure) for figure in _TITLES)
    return plain_page("Serving against training", f"<p>{about}</p>{marks}{verdict}{_scores(report)}{sections}")


def _scores(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{d['compared']:,}</td><td>{d['largest']:.3g}</td>"
        f"<td>{number(d['mean'], '.3g')}</td></tr>"
        for name, d in report["scores"].items()
        if name != "worst"
    )
    head = "<tr><th></th><th>compared</th><th>largest difference</th><th>mean</th></tr>"
    return f"<section><h2>Scores, served and replayed</h2><table>{head}{rows}</table></section>"


def _section(report: Mapping[str, Any], figure: str) -> str:
    """A figure of every feature that has it, with its picture."""
    threshold, drawn, rows = report["thresholds"][figure], [], []
    for feature, figures in report["features"].items():
        if figure not in figures:
            continue
        f = figures[figure]
        bad = feature not in report["ignored"] and not abs(f["difference"]) <= threshold
        cells = [number(f.get(name), ".4f") for name in ("training", "serving")] + [f"{f['difference']:+.4f}"]
        mark = ' class="bad"' if bad else ""
        rows.append(f"<tr{mark}><td>{html.escape(feature)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        if "low" in f:
            drawn.append(Whisker(int(bad), feature, f["difference"], f["low"], f["high"]))
    if not rows:
        return ""
    title = f"{_TITLES[figure]}; a difference of {threshold} is fine"
    picture = whiskers(drawn, f"{title}: serving - training, by feature", "serving - training") if drawn else ""
    head = "<tr><th></th><th>training</th><th>serving</th><th>difference</th></tr>"
    table = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    return f"<section><h2>{html.escape(title)}</h2>{picture}{table}</section>\n"
