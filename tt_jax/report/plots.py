"""Pictures of numbers as inline SVG: text stays text, and the colours are the page's, so that they follow its theme."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

COLOURS = 8  # `--series-0` .. `--series-7` of the page; more series repeat them with another dash
_INK, _GRID, _PAPER = "#010101", "#020202", "#040404"
_SERIES = tuple(f"#0300{i:02x}" for i in range(COLOURS))
_VARIABLES = {
    _INK: "currentColor",
    _GRID: "var(--rule)",
    _PAPER: "var(--paper)",
    **{c: f"var(--series-{i})" for i, c in enumerate(_SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text, not paths: it can be found, read out and scaled
    "svg.hashsalt": "tt-jax",  # the same numbers give the same bytes
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
}
_WIDTH, _HEIGHT = 3.6, 2.6  # inches of 72 px: a phone shows one at full width
_MARGINS = {
    "left": 0.2,
    "right": 0.97,
    "bottom": 0.19,
    "top": 0.97,
}  # shares of the picture, around two axes of numbers


@dataclass(frozen=True)
class Line:
    """A line of a picture: `x` and `y` of equal length. Lines of a `series` have one colour; faint ones stand back.

    `band`: low and high of each point, drawn as a strip.
    """

    series: int
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    dots: bool = False
    band: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, in a row of its own."""

    series: int
    name: str
    value: float
    low: float
    high: float


def lines(
    drawn: Sequence[Line],
    alt: str,
    x_label: str,
    y_label: str,
    *,
    diagonal: bool = False,
    y_limits: tuple[float, float] | None = None,
) -> str:
    """Lines over common axes. `alt` says what is seen; `diagonal`: draw y = x too."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(_HEIGHT, None)
        figure.subplots_adjust(**_MARGINS)  # a layout that looks for them takes twice the time of the drawing
        if diagonal:
            axes.axline((0, 0), slope=1, color=_INK, linewidth=0.8, linestyle=(0, (2, 3)))
        for line in drawn:
            axes.plot(
                line.x, line.y, color=_SERIES[line.series % COLOURS], alpha=0.35 if line.faint else 1.0,
                linewidth=0.9 if line.faint else 1.6, linestyle="--" if line.series >= COLOURS else "-",
                marker="o" if line.dots else "", markersize=3,
            )  # fmt: skip
            if line.band:
                low, high = zip(*line.band, strict=True)
                axes.fill_between(line.x, low, high, color=_SERIES[line.series % COLOURS], alpha=0.2, linewidth=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        counts = all(isinstance(x, int) for line in drawn for x in line.x)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=counts))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if y_limits:
            axes.set_ylim(*y_limits)
        return _svg(figure, alt)


def whiskers(drawn: Sequence[Whisker], alt: str, x_label: str) -> str:
    """Relative differences with their intervals, one below the other, and a line at 0."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(0.75 + 0.26 * len(drawn))
        axes.axvline(0, color=_INK, linewidth=0.8)
        for row, w in enumerate(drawn):
            colour = _SERIES[w.series % COLOURS]
            axes.plot([w.low, w.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot([w.value], [row], color=colour, marker="o", markersize=5)
        axes.set_yticks(range(len(drawn)), [w.name for w in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(x_label)
        return _svg(figure, alt)


def heat_map(values: Sequence[Sequence[float]], row_names: Sequence[str], column_names: Sequence[str], alt: str) -> str:
    """Shares within 0..1 as cells, each with its number; the strength of one colour is the scale."""
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure, axes = _figure(0.8 + 0.3 * len(row_names))
        for r, row in enumerate(values):
            for c, value in enumerate(row):
                axes.add_patch(_cell(c, r, value))
                ink = _PAPER if value > 0.8 else _INK  # what can be read on a cell so strong
                axes.text(c + 0.5, r + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_xlim(0, len(column_names))
        axes.set_ylim(len(row_names), 0)
        slant = (
            {"rotation": 25, "ha": "right"} if max(map(len, column_names)) > 4 else {}
        )  # names side by side would meet
        axes.set_xticks([c + 0.5 for c in range(len(column_names))], list(column_names), **slant)
        axes.set_yticks([r + 0.5 for r in range(len(row_names))], list(row_names))
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _svg(figure, alt)


def _cell(column: int, row: int, value: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=_SERIES[0], alpha=0.08 + 0.72 * value)


def _figure(height: float, layout: Literal["constrained"] | None = "constrained") -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout=layout, facecolor="none")
    return figure, figure.add_subplot(facecolor="none")


def _svg(figure: Figure, alt: str) -> str:
    """The figure as an element that fits its column, with the page's colours and a name for who cannot see it."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = text[text.index("<svg") :]
    text = re.sub(r' id="(figure|axes|patch|matplotlib|line2d|text|xtick|ytick|LineCollection)[^"]*"', "", text)
    text = re.sub(r' (width|height)="[^"]*pt"', "", text, count=2)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = html.escape(alt)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
