"""`abtest.html`: the effects of a simulated experiment, as a verdict, pictures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tt_jax.report.page import number, render
from tt_jax.report.plots import Whisker, whiskers

_COUNTED = ("requests", "impressions", "clicks", "conversions")


def experiment_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax abtest` writes to abtest.json."""
    groups = [
        (name, _counts(group["sums"]), _picture(name, group["effects"]), _rows(group["effects"]))
        for name, group in report["groups"].items()
    ]
    summary, verdicts = _verdict(report["groups"])
    title = "Simulated experiment"
    return render("experiment", title, report=report, summary=summary, verdicts=verdicts, groups=groups)


def _verdict(groups: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """A summary; and which figures differ for sure, by group, the largest difference first."""
    known = sure = 0
    verdicts = []
    for name, group in groups.items():
        effects = {f: e for f, e in group["effects"].items() if e["low"] is not None}
        found = sorted((f for f, e in effects.items() if _sure(e)), key=lambda f: -abs(effects[f]["relative"]))
        known, sure = known + len(effects), sure + len(found)
        differences = ", ".join(f"{_name(f)} {_difference(effects[f])}" for f in found)
        verdicts.append((name, differences or "no difference that is sure"))
    summary = (
        f"The treatment differs from the control in {sure} of {known} figures: their 95 % interval leaves out 0."
        f" Of arms that do not differ, one interval in twenty would, here about {known / 20:.1g}."
    )
    return summary, verdicts


def _sure(e: Mapping[str, Any]) -> bool:
    return e["low"] is not None and not e["low"] <= 0 <= e["high"]


def _difference(e: Mapping[str, Any]) -> str:
    return f"{e['relative']:+.2%} [{e['low']:+.2%}, {e['high']:+.2%}]"


def _name(figure: str) -> str:
    return figure.replace("_", " ")


def _counts(sums: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{arm}: " + ", ".join(f"{sums[what][i]:,.0f} {what}" for what in _COUNTED)
        for i, arm in enumerate(("control", "treatment"))
    )


def _picture(name: str, effects: Mapping[str, Any]) -> Markup:
    known = {figure: e for figure, e in effects.items() if e["low"] is not None}
    drawn = [Whisker(0, _name(figure), e["relative"], e["low"], e["high"]) for figure, e in known.items()]
    if not drawn:
        return Markup("")
    return Markup(whiskers(drawn, f"{name}: treatment against control", "treatment against control"))


def _rows(effects: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            Markup("<b>{}</b>").format(_name(figure)) if _sure(e) else _name(figure),
            number(e["control"], ".4f"), number(e["treatment"], ".4f"), number(e["relative"], "+.2%"),
            f"{number(e['low'], '+.2%')} .. {number(e['high'], '+.2%')}",
        ]
        for figure, e in effects.items()
    ]  # fmt: skip
