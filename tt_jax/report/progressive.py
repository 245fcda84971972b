"""`progressive.html`: the loss of rows before they were learned, hour by hour of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tt_jax.report.page import number, render
from tt_jax.report.plots import Line, lines


def progressive_page(sets: Sequence[Mapping[str, Any]]) -> str:
    """The page of what `tt-jax train --data` writes to progressive.json."""
    tasks = [(task, _picture(task, sets), _rows(task, sets)) for task in sets[0]["overall"]]
    return render("progressive", "Progressive validation", tasks=tasks)


def _picture(task: str, sets: Sequence[Mapping[str, Any]]) -> Markup:
    hours = [h["overall"][task] for found in sets for h in found["hours"] if h["hour"] is not None]
    points = [(i, h["logloss"]) for i, h in enumerate(hours) if h["logloss"] is not None]
    if not points:
        return Markup("")
    x, y = zip(*points, strict=True)
    return Markup(lines([Line(0, x, y)], f"{task}: log loss by hour", "hour of the log", "log loss"))


def _rows(task: str, sets: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    found = [(one["path"], one["overall"][task]) for one in sets]
    shown = ("logloss", "auc", "calibration")
    return [[path, f"{m['rows']:,}", *(number(m[name], ".4f") for name in shown)] for path, m in found]
