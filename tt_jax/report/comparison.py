"""`report.html`: the figures of a report as a page that needs nothing else, for a desk and a phone.

Every number leads to the row of the comparison that it is of, and from there to its runs and their fingerprints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tt_jax.metrics.table import METRICS, counts
from tt_jax.report import comparison_plots, plots
from tt_jax.report.html import plain_page

TEMPLATE = "report.html.jinja"


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
    body = environment.get_template(TEMPLATE).render(
        report=report,
        metrics=METRICS,
        counts=counts(),
        colours=plots.COLOURS,
        whiskers=comparison_plots.whiskers(report),
        learning=comparison_plots.learning(report),
        curves=comparison_plots.curves(report),
        calibration=comparison_plots.calibration(report),
        funnel=comparison_plots.funnel(report),
        funnel_tables=comparison_plots.funnel_tables(report),
        gates=comparison_plots.gates(report),
        regret=any(row["regret"] for row in report["rows"]),
    )
    rows, seeds = len(report["rows"]), report["seeds"]
    title = f"{report['name']}: {rows} rows compared over {seeds} seed{'s' if seeds != 1 else ''}"
    return plain_page(title, body, "compared")


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
