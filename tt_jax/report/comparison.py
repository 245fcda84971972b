"""`report.html`: the figures of a report as a page.

Every number leads to the row of the comparison that it is of, and from there to its runs and their fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tt_jax.metrics.table import METRICS, counts
from tt_jax.report import comparison_plots, page, plots


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
    rows, seeds = len(report["rows"]), report["seeds"]
    return page.render(
        "comparison",
        f"{report['name']}: {rows} rows compared over {seeds} seed{'s' if seeds != 1 else ''}",
        "compared",
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
