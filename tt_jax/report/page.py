"""The pages of reports: one base, one style sheet, a template each. A page needs nothing else, at a desk or a phone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from tt_jax.report.html import style


def render(template: str, title: str, kind: str = "plain", **values: Any) -> str:
    """The page of a template `NAME.html.jinja`.

    Args:
      title: of the page.
      kind: class of the page, for its own part of the style.
      values: what the template is of; text in them is escaped, `Markup` is not.
    """
    page = _environment().get_template(f"{template}.html.jinja")
    return page.render(title=title, kind=kind, style=style("style", "frame"), **values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value, digits=4: number(value, f",.{digits}f"),
        "percent": lambda value, digits=2: "–" if value is None else signed(100 * value, digits) + " %",
        "signed": signed,
        "count": _count,
        "pretty": lambda value: json.dumps(value, indent=1),
    }
    return environment


# ---- numbers ---------------------------------------------------------------------------------------------------------


def number(value: float | None, form: str) -> str:
    """A number by a format, or a dash."""
    return "–" if value is None else format(value, form)


def signed(value: float, digits: int) -> str:
    """With its sign, and a minus as wide as a plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def aligned(values: Sequence[float | None]) -> list[str]:
    """Numbers of one column: the same decimals in all, so many that the smallest has four digits; whole ones have none.

    Where that takes more than eight decimals, all are written with an exponent.
    """
    known = [v for v in values if v and math.isfinite(v)]
    decimals = 3 - min((math.floor(math.log10(abs(v))) for v in known), default=3)
    fixed = ",.0f" if all(v == int(v) for v in known) else f",.{max(0, decimals)}f"
    form = ".3e" if decimals > 8 else fixed
    return [number(v, form) for v in values]


def _count(value: float | None) -> str:
    """`12.3 M`."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
