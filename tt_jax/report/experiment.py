"""`abtest.html`: the effects of a simulated experiment, as a verdict, pictures and tables, on a page that needs nothing
else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from tt_jax.report.html import number, plain_page, table
from tt_jax.report.plots import Whisker, whiskers

_COUNTED = ("requests", "impressions", "clicks", "conversions")


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
    groups = "".join(_group(name, group) for name, group in report["groups"].items())
    body = f"{_verdict(report['groups'])}<p>{html.escape(about)}</p>{arms}\n{groups}"
    return plain_page("Simulated experiment", body)


def _verdict(groups: Mapping[str, Any]) -> str:
    """Which figures differ for sure, by group, the largest difference first."""
    known = sure = 0
    lines = []
    for name, group in groups.items():
        effects = {f: e for f, e in group["effects"].items() if e["low"] is not None}
        found = sorted((f for f, e in effects.items() if _sure(e)), key=lambda f: -abs(effects[f]["relative"]))
        known, sure = known + len(effects), sure + len(found)
        told = ", ".join(f"{_name(f)} {_difference(effects[f])}" for f in found) or "no difference that is sure"
        lines.append(f"<li><b>{html.escape(name)}</b>: {told}</li>")
    summary = (
        f"The treatment differs from the control in {sure} of {known} figures: their 95 % interval leaves out 0."
        f" Of arms that do not differ, one interval in twenty would, here about {known / 20:.1g}."
    )
    return f'<div class="verdict"><p><b>{summary}</b></p><ul>{"".join(lines)}</ul></div>'


def _sure(e: Mapping[str, Any]) -> bool:
    return not e["low"] <= 0 <= e["high"]


def _difference(e: Mapping[str, Any]) -> str:
    return f"{e['relative']:+.2%} [{e['low']:+.2%}, {e['high']:+.2%}]"


def _name(figure: str) -> str:
    return html.escape(figure.replace("_", " "))


def _group(name: str, group: Mapping[str, Any]) -> str:
    effects = group["effects"]
    drawn = [
        Whisker(0, figure.replace("_", " "), e["relative"], e["low"], e["high"])
        for figure, e in effects.items()
        if e["low"] is not None
    ]
    picture = whiskers(drawn, f"{name}: treatment against control", "treatment against control") if drawn else ""
    rows = [
        [
            f"<b>{_name(figure)}</b>" if e["low"] is not None and _sure(e) else _name(figure),
            number(e["control"], ".4f"), number(e["treatment"], ".4f"), number(e["relative"], "+.2%"),
            f"{number(e['low'], '+.2%')} .. {number(e['high'], '+.2%')}",
        ]
        for figure, e in effects.items()
    ]  # fmt: skip
    shown = table(["", "control", "treatment", "difference", "95 % interval"], rows)
    counts = "; ".join(
        f"{arm}: " + ", ".join(f"{group['sums'][what][i]:,.0f} {what}" for what in _COUNTED)
        for i, arm in enumerate(("control", "treatment"))
    )
    return f'<section><h2>{html.escape(name)}</h2><p class="note">{counts}</p>{picture}{shown}</section>\n'
