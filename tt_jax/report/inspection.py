"""`inspect.html`: what is in a log, as a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from tt_jax.report.html import aligned, number, plain_page, table
from tt_jax.report.plots import Line, Whisker, lines, whiskers

_DRAWN = 25  # columns of a picture
_SCENARIOS = 6  # the largest, that are drawn


def inspection_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax inspect` writes to inspect.json."""
    data = html.escape(str(report["data"]))
    recipe = f", as the recipe {html.escape(report['recipe'])} reads it" if report["recipe"] else ""
    about = f"<p><code>{data}</code>{recipe}: {report['rows']:,} rows. {_exactness(report)}</p>"
    found = "".join(f'<li class="bad">{html.escape(finding)}</li>' for finding in report["findings"])
    verdict = f'<div class="verdict"><ul>{found}</ul></div>' if found else "<p>Nothing that deserves a look.</p>"
    sections = (_rates, _days, _missing, _columns, _leaks, _drift, _tables, _values)
    return plain_page("What is in the log", about + verdict + "".join(section(report) for section in sections))


def _exactness(report: Mapping[str, Any]) -> str:
    duplicates, sampled = report["duplicates"], report["sampled_rows"]
    kind = "exactly" if duplicates["exact"] else "estimated"
    sample = "all rows" if sampled == report["rows"] else f"a uniform sample of {sampled:,} rows"
    return (
        f"Rows that repeat another one: {duplicates['share']:.2%} ({kind}). A number of distinct values after ~ is"
        f" estimated. Quantiles and the AUC of a column alone are of {sample}; days are of UTC."
    )


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def _share(value: float | None) -> str:
    return number(value, ".2%")


def _rates(report: Mapping[str, Any]) -> str:
    rows = [
        [html.escape(name), f"{g['rows']:,}", *_of_labels(report, g["labels"])]
        for groups in ("splits", "scenarios")
        for name, g in report[groups].items()
    ]
    head = ["split or scenario", "rows", *_label_heads(report)]
    return _section("Rows and label rates", table(head, rows))


def _label_heads(report: Mapping[str, Any]) -> list[str]:
    return [head for task in report["labels"] for head in (*_counted(report, task), f"rate of {task}")]


def _of_labels(report: Mapping[str, Any], labels: Mapping[str, Any]) -> list[str]:
    """Of each label its rate, and in how many rows it is if some have none."""
    counted = {task: [f"{label['labelled']:,}"] if _counted(report, task) else [] for task, label in labels.items()}
    return [cell for task, label in labels.items() for cell in (*counted[task], number(label["rate"], ".4f"))]


def _counted(report: Mapping[str, Any], task: str) -> list[str]:
    return [f"rows with {task}"] if report["labels"][task]["labelled"] < report["rows"] else []


def _days(report: Mapping[str, Any]) -> str:
    days = [day for day in report["days"] if day["day"] is not None]
    if not days:
        return ""
    at = list(range(len(days)))
    counts = [Line(0, at, [d["rows"] for d in days], dots=True)]
    span = f"days since {days[0]['day']}"
    pictures = [lines(counts, "rows by day", span, "rows")]
    largest = sorted(report["scenarios"], key=lambda name: -report["scenarios"][name]["rows"])[:_SCENARIOS]
    for task in report["labels"]:
        of_scenarios = ([d["scenarios"].get(name) for d in days] for name in largest)
        drawn = [_line(0, days, task), *(_line(1, of_days, task, faint=True) for of_days in of_scenarios)]
        drawn = [line for line in drawn if line.x]
        if drawn:
            pictures.append(lines(drawn, f"rate of {task} by day, faint by scenario", span, f"rate of {task}"))
    head = ["day", "rows", *_label_heads(report)]
    rows = [[d["day"] or "no day", f"{d['rows']:,}", *_of_labels(report, d["labels"])] for d in report["days"]]
    by_day = _folded(f"{len(days)} days", table(head, rows))
    faint = "<p>Faint lines are of the largest scenarios.</p>" if largest and report["labels"] else ""
    return _section(f"By day, {days[0]['day']} to {days[-1]['day']}", *pictures, faint, by_day)


def _line(series: int, days: Iterable[Any], task: str, faint: bool = False) -> Line:
    rates = [(i, d["labels"][task]["rate"]) for i, d in enumerate(days) if d]
    rates = [(i, rate) for i, rate in rates if rate is not None]
    return Line(series, [i for i, _ in rates], [rate for _, rate in rates], faint, dots=not faint)


def _missing(report: Mapping[str, Any]) -> str:
    shares = {name: c["missing"] for name, c in report["columns"].items() if c["missing"]}
    if not shares:
        return _section("Missing values", "<p>None.</p>")
    names = sorted(shares, key=lambda name: -shares[name])[:_DRAWN]
    drawn = [Whisker(0, name, shares[name], 0.0, shares[name]) for name in names]
    picture = whiskers(drawn, "share of rows without a value, by column", "share of rows without a value")
    splits = list(report["splits"])
    rows = [
        [html.escape(name), *(_share(report["columns"][name]["missing_by_split"][split]) for split in splits)]
        for name in names
    ]
    rest = f"<p>{len(shares) - len(names)} more columns miss less.</p>" if len(shares) > len(names) else ""
    return _section("Missing values", picture, table(["column", *splits], rows), rest)


def _columns(report: Mapping[str, Any]) -> str:
    rows = []
    for name, c in report["columns"].items():
        distinct, numbers, top = c.get("distinct"), c.get("numbers"), c.get("top")
        count = "–" if distinct is None else f"{'' if distinct['exact'] else '~'}{distinct['count']:,}"
        rows.append([
            html.escape(name), html.escape(c["role"]), c["kind"], _share(c["missing"]), count,
            "–" if distinct is None else _share(distinct["once"]),
            f"{html.escape(top[0]['value'])} ({top[0]['share']:.1%})" if top else "–",
            f"{numbers['min']:.6g} … {numbers['max']:.6g}" if numbers else "–",
        ])  # fmt: skip
    head = ["column", "role", "kind", "missing", "distinct", "of them once", "most frequent", "range"]
    return _section("Columns", table(head, rows))


def _leaks(report: Mapping[str, Any]) -> str:
    about = (
        "<p>How well a column alone ranks the rows of a task, scored by the rate that its value has in the other half"
        " of the sample; a list counts as one value.</p>"
    )
    tables = [
        table([task, "AUC"], ([html.escape(f["column"]), f"{f['auc']:.4f}"] for f in columns))
        for task, columns in report["leaks"].items()
        if columns
    ]
    return _section("Single columns as predictors", about, *tables) if tables else ""


def _drift(report: Mapping[str, Any]) -> str:
    drift = report["drift"]
    if not drift:
        return ""
    worst = {n: max((d["psi"] for d in s.values()), default=0.0) for n, s in drift["columns"].items()}
    rows, names = [], sorted(worst, key=lambda name: -worst[name])
    others = list(dict.fromkeys(split for splits in drift["columns"].values() for split in splits))
    for name in names:
        cells = [drift["columns"][name].get(split) for split in others]
        figures = [(number(c["psi"], ".4f"), number(c["ks"], ".4f")) if c else ("–", "–") for c in cells]
        rows.append([html.escape(name), *(figure for pair in figures for figure in pair)])
    head = ["column", *(f"{split}: {figure}" for split in others for figure in ("PSI", "KS"))]
    about = (
        f"<p>Against {html.escape(drift['reference'])}. PSI is of ten quantiles of a number, or of the twenty most"
        " frequent values and the rest, and of what is missing; below 0.1 is little, above 0.25 much."
        " KS is of numbers.</p>"
    )
    shown = rows[:_DRAWN], rows[_DRAWN:]
    more = _folded(f"{len(shown[1])} more", table(head, shown[1])) if shown[1] else ""
    return _section("Drift", about, table(head, shown[0]), more)


def _tables(report: Mapping[str, Any]) -> str:
    if not report["tables"]:
        return ""
    rows = [
        [
            html.escape(name), html.escape(", ".join(t["features"])), f"{t['rows']:,}",
            f"{'' if t['exact'] else '~'}{t['ids']:,}", _share(t["collisions"]), f"{t['rows_for']['rows']:,}",
        ]
        for name, t in report["tables"].items()
    ]  # fmt: skip
    share = max(t["rows_for"]["share"] for t in report["tables"].values())
    head = ["table", "features", "rows", "ids", "share a row", f"rows for {share:.0%}"]
    about = "<p>The share of the ids that is expected to have its row with another id.</p>"
    return _section("Collisions of hashed ids", about, table(head, rows))


def _values(report: Mapping[str, Any]) -> str:
    parts = []
    for name, c in report["columns"].items():
        if not c.get("top"):
            continue
        error = f"<p>Each count may be too small by up to {c['top_error']:,}.</p>" if c["top_error"] else ""
        body = [table(["value", "count", "share"], (_top_row(value) for value in c["top"])), error]
        if c.get("lengths"):
            mean, longest = number(c["lengths"]["mean"], ".2f"), c["lengths"]["longest"]
            body.append(f"<p>Lists of {mean} on average, {longest:,} at most.</p>")
        numbers = c.get("numbers")
        if numbers and numbers["quantiles"]:
            shown = {"mean": numbers["mean"], **numbers["quantiles"]}
            body.append(table(["quantile", "value"], zip(shown, aligned(list(shown.values())), strict=True)))
        parts.append(_folded(name, "".join(body)))
    return _section("Frequent values and quantiles", f"<div>{''.join(parts)}</div>")


def _top_row(value: Mapping[str, Any]) -> list[str]:
    return [html.escape(value["value"]), f"{value['count']:,}", _share(value["share"])]
