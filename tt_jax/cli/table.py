"""Figures as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(title: str, rows: Mapping[str, Mapping[str, Any]], shown: Sequence[str], digits: int = 4) -> str:
    """One line a row under a heading, and under it, where it has `intervals`, their ends.

    Args:
      rows: name -> figure -> value, an int, a float or None; `intervals`: figure -> `[low, high]` or None.
      shown: the figures, in order.
      digits: of a float, after the point.
    """
    widths = [max(16, len(title) + 2, *(len(name) + 4 for name in rows)), *(max(12, len(name) + 2) for name in shown)]
    lines = [_line(title, shown, widths)]
    for name, found in rows.items():
        lines.append(_line(f"  {name}", [_cell(found[figure], digits) for figure in shown], widths))
        if "intervals" in found:
            known = [found["intervals"].get(figure) for figure in shown]  # a count has none
            for end, place in (("from", 0), ("to", 1)):
                lines.append(_line(f"    {end}", [_cell(i[place], digits) if i else "" for i in known], widths))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = widths
    line = f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))
    return line.rstrip()


def _cell(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
