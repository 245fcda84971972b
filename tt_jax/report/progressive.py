"""`progressive.html`: the loss of rows before they were learned, hour by hour of the log."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tt_jax.report.html import number, plain_page, table
from tt_jax.report.plots import Line, lines


def progressive_page(sets: Sequence[Mapping[str, Any]]) -> str:
    """The page of what `tt-jax train --data` writes to progressive.json."""
    tasks = list(sets[0]["overall"])
    return plain_page("Progressive validation", "".join(_task(task, sets) for task in tasks))


def _task(task: str, sets: Sequence[Mapping[str, Any]]) -> str:
    hours = [h["overall"][task] for found in sets for h in found["hours"] if h["hour"] is not None]
    points = [(i, h["logloss"]) for i, h in enumerate(hours) if h["logloss"] is not None]
    picture = ""
    if points:
        x, y = zip(*points, strict=True)
        picture = lines([Line(0, x, y)], f"{task}: log loss by hour", "hour of the log", "log loss")
    rows = [
        [
            html.escape(found["path"]), f"{m['rows']:,}", number(m["logloss"], ".4f"), number(m["auc"], ".4f"),
            number(m["calibration"], ".4f"),
        ]
        for found in sets
        for m in (found["overall"][task],)
    ]  # fmt: skip
    shown = table(["", "rows", "log loss", "AUC", "sum p / sum y"], rows)
    return f"<section><h2>{html.escape(task)}</h2>{picture}{shown}</section>\n"
