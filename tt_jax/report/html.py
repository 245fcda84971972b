"""The frame of every page, which needs nothing but itself; tables, and numbers as text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path


@cache
def style(*names: str) -> str:
    """The style sheets of these names, one after the other. `frame`: that of tables which scroll on their own."""
    sheets = (Path(__file__).with_name(f"{name}.css.jinja") for name in names)
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)


def plain_page(title: str, body: str, kind: str = "plain") -> str:
    """A page. `body` is HTML, `title` is text; `kind`: the class of the page's own part of the style."""
    title = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style('report', 'frame')}</style></head>\n"
        f'<body class="{kind}"><h1>{title}</h1>{body}</body></html>\n'
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in a frame that scrolls on its own. `head` is text, cells are HTML; numbers are to the right."""
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def number(value: float | None, spec: str) -> str:
    """A number by a format, or a dash."""
    return "–" if value is None else format(value, spec)


def aligned(values: Sequence[float | None]) -> list[str]:
    """Numbers of one column: the same decimals in all, so many that the smallest has four digits; whole ones have none.

    Where that takes more than eight decimals, all are written with an exponent.
    """
    known = [v for v in values if v and math.isfinite(v)]
    decimals = 3 - min((math.floor(math.log10(abs(v))) for v in known), default=3)
    fixed = ",.0f" if all(v == int(v) for v in known) else f",.{max(0, decimals)}f"
    spec = ".3e" if decimals > 8 else fixed
    return [number(v, spec) for v in values]
