"""The style sheets of pages. It needs no other package, so that a bare service has them too."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def style(*names: str) -> str:
    """The style sheets of these names, one after the other. `frame`: that of tables which scroll on their own."""
    sheets = (Path(__file__).with_name("templates") / f"{name}.css" for name in names)
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
