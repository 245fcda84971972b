"""A plain page that needs nothing else: its frame and style, and numbers as text."""

from __future__ import annotations

import html

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d2126; --rule: #dfe2e2; --bad: #a83232;
  --series-0: #1f77b4; --series-1: #a83232 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --ink: #e4e6e6; --rule: #343a40; --bad: #ee8c8c;
    --series-0: #6cb2ee; --series-1: #ee8c8c }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
section { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: center; border-top: 1px solid var(--rule) }
h2 { flex-basis: 100%; font-size: 1.1rem; margin: 1rem 0 0 }
svg { width: 22rem; max-width: 100% }
.scroll { overflow-x: auto }
.bad { color: var(--bad); font-weight: 600 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule) }
td:first-child, th:first-child { text-align: left }
code { overflow-wrap: anywhere }
"""


def plain_page(title: str, body: str) -> str:
    """A page. `body` is HTML, `title` is text."""
    title = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>{body}</body></html>\n"
    )


def number(value: float | None, spec: str) -> str:
    """A number by a format, or a dash."""
    return "–" if value is None else format(value, spec)
