"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "", least: Sequence[int] = ()
) -> list[str]:
    """The lines of a table: columns as wide as their widest cell, two spaces apart.

    Args:
      head: titles of the columns; empty = no line for them.
      rows: cells; one that has fewer than others ends with empty ones.
      align: `l` or `r` by column; the default is text in the first column and numbers, to the right, in the others.
      least: widths in characters that columns have at least.
    """
    lines = [*([head] if head else []), *rows]
    columns = list(zip_longest(*lines, fillvalue=""))
    widths = [max(map(len, column)) for column in columns]
    widths = [max(pair) for pair in zip_longest(widths, least[: len(widths)], fillvalue=0)]
    left = [a == "l" for a in (align or "l" + "r" * len(columns))]
    padded = [
        [cell.ljust(width) if to_left else cell.rjust(width) for cell in column]
        for column, width, to_left in zip(columns, widths, left, strict=False)
    ]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def figures_table(title: str, rows: Mapping[str, Mapping[str, Any]], shown: Sequence[str], digits: int = 4) -> str:
    """One line a row under a heading, and under it, where it has `intervals`, their ends.

    Args:
      rows: name -> figure -> value, an int, a float or None; `intervals`: figure -> `[low, high]` or None.
      shown: the figures, in order.
      digits: of a float, after the point.
    """
    lines = []
    for name, found in rows.items():
        lines.append([f"  {name}", *(number(found[figure], f".{digits}f") for figure in shown)])
        if "intervals" in found:
            known = [found["intervals"].get(figure) for figure in shown]  # a count has none
            for end, place in (("from", 0), ("to", 1)):
                lines.append([f"    {end}", *(number(i[place], f".{digits}f") if i else "" for i in known)])
    return "\n".join(text_table([title, *shown], lines, least=(16, *[10] * len(shown))))


def number(value: float | None, form: str) -> str:
    """A number by a format, an int with commas instead, None as a dash."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else format(value, form)
