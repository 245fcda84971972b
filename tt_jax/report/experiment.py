"""`abtest.html`: the effects of a simulated experiment, as pictures and a table, on a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from tt_jax.report.plain import number, plain_page
from tt_jax.report.plots import Whisker, whiskers


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
    return plain_page("Simulated experiment", f"<p>{html.escape(about)}</p>{arms}\n{groups}")


def _group(name: str, effects: Mapping[str, Mapping[str, Any]]) -> str:
    drawn = [
        Whisker(0, figure.replace("_", " "), e["relative"], e["low"], e["high"])
        for figure, e in effects.items()
        if e["low"] is not None
    ]
    picture = whiskers(drawn, f"{name}: treatment against control", "treatment against control") if drawn else ""
    rows = "".join(
        f"<tr><td>{figure.replace('_', ' ')}</td><td>{number(e['control'], '.4f')}</td>"
        f"<td>{number(e['treatment'], '.4f')}</td><td>{number(e['relative'], '+.2%')}</td>"
        f"<td>{number(e['low'], '+.2%')} .. {number(e['high'], '+.2%')}</td></tr>"
        for figure, e in effects.items()
    )
    head = "<tr><th></th><th>control</th><th>treatment</th><th>difference</th><th>95 % interval</th></tr>"
    return (
        f"<section><h2>{html.escape(name)}</h2>{picture}"
        f'<div class="scroll"><table>{head}{rows}</table></div></section>\n'
    )
