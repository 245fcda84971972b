"""`inspect.html`: what is in a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tt_jax.report.page import aligned, number, render
from tt_jax.report.plots import Line, Whisker, lines, whiskers

_DRAWN = 25  # columns of a picture
_SCENARIOS = 6  # the largest, that are drawn


@dataclass(frozen=True)
class _Section:
    """`parts`: what stands below the title, in order."""

    title: str
    parts: Sequence[_Text | _Picture | _Table | _Folded]


@dataclass(frozen=True)
class _Text:
    text: str


@dataclass(frozen=True)
class _Picture:
    svg: Markup


@dataclass(frozen=True)
class _Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Folded:
    """What stands below a line that unfolds it."""

    summary: str
    parts: Sequence[_Text | _Table]


def inspection_page(report: Mapping[str, Any]) -> str:
    """The page of what `tt-jax inspect` writes to inspect.json."""
    made = (make(report) for make in (_rates, _days, _missing, _columns, _leaks, _drift, _tables))
    return render(
        "inspection", "What is in the log", report=report, exactness=_exactness(report),
        sections=[section for section in made if section], values=_values(report),
    )  # fmt: skip


def _exactness(report: Mapping[str, Any]) -> str:
    duplicates, sampled = report["duplicates"], report["sampled_rows"]
    kind = "exactly" if duplicates["exact"] else "estimated"
    sample = "all rows" if sampled == report["rows"] else f"a uniform sample of {sampled:,} rows"
    return (
        f"Rows that repeat another one: {duplicates['share']:.2%} ({kind}). A number of distinct values after ~ is"
        f" estimated. Quantiles and the AUC of a column alone are of {sample}; days are of UTC."
    )


def _share(value: float | None) -> str:
    return number(value, ".2%")


def _rates(report: Mapping[str, Any]) -> _Section:
    rows = [
        [name, f"{g['rows']:,}", *_of_labels(report, g["labels"])]
        for groups in ("splits", "scenarios")
        for name, g in report[groups].items()
    ]
    head = ["split or scenario", "rows", *_label_heads(report)]
    return _Section("Rows and label rates", [_Table(head, rows)])


def _label_heads(report: Mapping[str, Any]) -> list[str]:
    return [head for task in report["labels"] for head in (*_counted(report, task), f"rate of {task}")]


def _of_labels(report: Mapping[str, Any], labels: Mapping[str, Any]) -> list[str]:
    """Of each label its rate, and in how many rows it is if some have none."""
    counted = {task: [f"{label['labelled']:,}"] if _counted(report, task) else [] for task, label in labels.items()}
    return [cell for task, label in labels.items() for cell in (*counted[task], number(label["rate"], ".4f"))]


def _counted(report: Mapping[str, Any], task: str) -> list[str]:
    return [f"rows with {task}"] if report["labels"][task]["labelled"] < report["rows"] else []


def _days(report: Mapping[str, Any]) -> _Section | None:
    days = [day for day in report["days"] if day["day"] is not None]
    if not days:
        return None
    at = list(range(len(days)))
    counts = [Line(0, at, [d["rows"] for d in days], dots=True)]
    span = f"days since {days[0]['day']}"
    parts: list[Any] = [_Picture(Markup(lines(counts, "rows by day", span, "rows")))]
    largest = sorted(report["scenarios"], key=lambda name: -report["scenarios"][name]["rows"])[:_SCENARIOS]
    for task in report["labels"]:
        of_scenarios = ([d["scenarios"].get(name) for d in days] for name in largest)
        drawn = [_line(0, days, task), *(_line(1, of_days, task, faint=True) for of_days in of_scenarios)]
        drawn = [line for line in drawn if line.x]
        if drawn:
            alt = f"rate of {task} by day, faint by scenario"
            parts.append(_Picture(Markup(lines(drawn, alt, span, f"rate of {task}"))))
    head = ["day", "rows", *_label_heads(report)]
    rows = [[d["day"] or "no day", f"{d['rows']:,}", *_of_labels(report, d["labels"])] for d in report["days"]]
    if largest and report["labels"]:
        parts.append(_Text("Faint lines are of the largest scenarios."))
    by_day = _Folded(f"{len(days)} days", [_Table(head, rows)])
    return _Section(f"By day, {days[0]['day']} to {days[-1]['day']}", [*parts, by_day])


def _line(series: int, days: Iterable[Any], task: str, faint: bool = False) -> Line:
    rates = [(i, d["labels"][task]["rate"]) for i, d in enumerate(days) if d]
    rates = [(i, rate) for i, rate in rates if rate is not None]
    return Line(series, [i for i, _ in rates], [rate for _, rate in rates], faint, dots=not faint)


def _missing(report: Mapping[str, Any]) -> _Section:
    shares = {name: c["missing"] for name, c in report["columns"].items() if c["missing"]}
    if not shares:
        return _Section("Missing values", [_Text("None.")])
    names = sorted(shares, key=lambda name: -shares[name])[:_DRAWN]
    drawn = [Whisker(0, name, shares[name], 0.0, shares[name]) for name in names]
    picture = whiskers(drawn, "share of rows without a value, by column", "share of rows without a value")
    splits = list(report["splits"])
    rows = [[name, *(_share(report["columns"][name]["missing_by_split"][split]) for split in splits)] for name in names]
    parts = [_Picture(Markup(picture)), _Table(["column", *splits], rows)]
    rest = len(shares) - len(names)
    return _Section("Missing values", [*parts, *([_Text(f"{rest} more columns miss less.")] if rest else [])])


def _columns(report: Mapping[str, Any]) -> _Section:
    rows = []
    for name, c in report["columns"].items():
        distinct, numbers, top = c.get("distinct"), c.get("numbers"), c.get("top")
        count = "–" if distinct is None else f"{'' if distinct['exact'] else '~'}{distinct['count']:,}"
        rows.append([
            name, c["role"], c["kind"], _share(c["missing"]), count,
            "–" if distinct is None else _share(distinct["once"]),
            f"{top[0]['value']} ({top[0]['share']:.1%})" if top else "–",
            f"{numbers['min']:.6g} … {numbers['max']:.6g}" if numbers else "–",
        ])  # fmt: skip
    head = ["column", "role", "kind", "missing", "distinct", "of them once", "most frequent", "range"]
    return _Section("Columns", [_Table(head, rows)])


def _leaks(report: Mapping[str, Any]) -> _Section | None:
    about = (
        "How well a column alone ranks the rows of a task, scored by the rate that its value has in the other half"
        " of the sample; a list counts as one value."
    )
    tables = [
        _Table([task, "AUC"], [[f["column"], f"{f['auc']:.4f}"] for f in columns])
        for task, columns in report["leaks"].items()
        if columns
    ]
    return _Section("Single columns as predictors", [_Text(about), *tables]) if tables else None


def _drift(report: Mapping[str, Any]) -> _Section | None:
    drift = report["drift"]
    if not drift:
        return None
    worst = {n: max((d["psi"] for d in s.values()), default=0.0) for n, s in drift["columns"].items()}
    rows, names = [], sorted(worst, key=lambda name: -worst[name])
    others = list(dict.fromkeys(split for splits in drift["columns"].values() for split in splits))
    for name in names:
        cells = [drift["columns"][name].get(split) for split in others]
        figures = [(number(c["psi"], ".4f"), number(c["ks"], ".4f")) if c else ("–", "–") for c in cells]
        rows.append([name, *(figure for pair in figures for figure in pair)])
    head = ["column", *(f"{split}: {figure}" for split in others for figure in ("PSI", "KS"))]
    about = (
        f"Against {drift['reference']}. PSI is of ten quantiles of a number, or of the twenty most frequent values and"
        " the rest, and of what is missing; below 0.1 is little, above 0.25 much. KS is of numbers."
    )
    shown, rest = rows[:_DRAWN], rows[_DRAWN:]
    more = [_Folded(f"{len(rest)} more", [_Table(head, rest)])] if rest else []
    return _Section("Drift", [_Text(about), _Table(head, shown), *more])


def _tables(report: Mapping[str, Any]) -> _Section | None:
    if not report["tables"]:
        return None
    rows = [
        [
            name, ", ".join(t["features"]), f"{t['rows']:,}",
            f"{'' if t['exact'] else '~'}{t['ids']:,}", _share(t["collisions"]), f"{t['rows_for']['rows']:,}",
        ]
        for name, t in report["tables"].items()
    ]  # fmt: skip
    share = max(t["rows_for"]["share"] for t in report["tables"].values())
    head = ["table", "features", "rows", "ids", "share a row", f"rows for {share:.0%}"]
    about = _Text("The share of the ids that is expected to have its row with another id.")
    return _Section("Collisions of hashed ids", [about, _Table(head, rows)])


def _values(report: Mapping[str, Any]) -> list[_Folded]:
    """Of each column what is frequent in it."""
    folded = []
    for name, c in report["columns"].items():
        if not c.get("top"):
            continue
        parts: list[Any] = [_Table(["value", "count", "share"], [_top_row(value) for value in c["top"]])]
        if c["top_error"]:
            parts.append(_Text(f"Each count may be too small by up to {c['top_error']:,}."))
        if c.get("lengths"):
            mean, longest = number(c["lengths"]["mean"], ".2f"), c["lengths"]["longest"]
            parts.append(_Text(f"Lists of {mean} on average, {longest:,} at most."))
        numbers = c.get("numbers")
        if numbers and numbers["quantiles"]:
            shown = {"mean": numbers["mean"], **numbers["quantiles"]}
            parts.append(_Table(["quantile", "value"], list(zip(shown, aligned(list(shown.values())), strict=True))))
        folded.append(_Folded(name, parts))
    return folded


def _top_row(value: Mapping[str, Any]) -> list[str]:
    return [value["value"], f"{value['count']:,}", _share(value["share"])]
