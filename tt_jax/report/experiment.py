"""`abtest.html`: the effects of a simulated experiment, as pictures and a table, on a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from tt_jax.report.plots import Whisker, whiskers

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d2126; --rule: #dfe2e2; --series-0: #1f77b4 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --ink: #e4e6e6; --rule: #343a40; --series-0: #6cb2ee }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
section { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: center; border-top: 1px solid var(--rule) }
h2 { flex-basis: 100%; font-size: 1.1rem; margin: 1rem 0 0 }
svg { width: 22rem; max-width: 100% }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule) }
td:first-child, th:first-child { text-align: left }
code { overflow-wrap: anywhere }
"""


def experiment_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax abtest` writes to abtest.json."""
    arms = "".join(
        f"<p>{arm}, {html.escape(s)}: <code>{html.escape(b['bundle'])}</code>, <code>{b['fingerprint']}</code></p>"
        for arm in ("control", "treatment")
        for s, b in report[arm].items()
    )
    about = (
        f"{report['requests']:,} requests of each scenario, {report['design']}; {report['candidates']} candidates,"
        f" the best {report['passed']} passed on; recall of the heavy ranker's best {report['wanted']};"
        f" seed {report['seed']}. Relative differences with 95 % intervals."
    )
    groups = "".join(_group(name, group["effects"]) for name, group in report["groups"].items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Simulated experiment</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>Simulated experiment</h1><p>{html.escape(about)}</p>{arms}\n{groups}</body></html>\n"
    )


def _group(name: str, effects: Mapping[str, Mapping[str, Any]]) -> str:
    drawn = [
        Whisker(0, figure.replace("_", " "), e["relative"], e["low"], e["high"])
        for figure, e in effects.items()
        if e["low"] is not None
    ]
    picture = whiskers(drawn, f"{name}: treatment against control", "treatment against control") if drawn else ""
    rows = "".join(
        f"<tr><td>{figure.replace('_', ' ')}</td><td>{_number(e['control'], '.4f')}</td>"
        f"<td>{_number(e['treatment'], '.4f')}</td><td>{_number(e['relative'], '+.2%')}</td>"
        f"<td>{_number(e['low'], '+.2%')} .. {_number(e['high'], '+.2%')}</td></tr>"
        for figure, e in effects.items()
    )
    head = "<tr><th></th><th>control</th><th>treatment</th><th>difference</th><th>95 % interval</th></tr>"
    return (
        f"<section><h2>{html.escape(name)}</h2>{picture}"
        f'<div class="scroll"><table>{head}{rows}</table></div></section>\n'
    )


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
