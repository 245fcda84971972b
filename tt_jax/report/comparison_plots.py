"""The pictures of a report of `tt-jax compare`, in groups of cards, and the tables behind them that need an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tt_jax.metrics.table import METRICS
from tt_jax.report import plots
from tt_jax.report.plots import Line, Whisker

MIXTURES = {"query": "query tower", "ad": "ad tower", "pair": "both sides"}

Cards = list[tuple[str, Markup]]  # by caption the picture
Group = tuple[str, Cards]  # title, and what is under it


def whiskers(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split and task: the relative difference of the loss to the reference, by scope."""
    groups, reference = [], report["rows"][0]["name"]
    for split in report["splits"]:
        for task, kind in report["tasks"].items():
            loss = "kl" if kind == "soft" else "logloss"
            cards: Cards = []
            for scope in report["rows"][0]["metrics"][split]:
                drawn = _compared(report, split, scope, task, loss)
                if drawn:
                    told = "; ".join(f"{w.name} {w.value:+.2%}, {w.low:+.2%} to {w.high:+.2%}" for w in drawn)
                    alt = f"{METRICS[loss].label} of {task} on {split}, {scope}, difference to {reference}: {told}"
                    cards.append((scope, Markup(plots.whiskers(drawn, alt, f"{METRICS[loss].label}, difference"))))
            if cards:
                groups.append((f"{task} on {split}", cards))
    return groups


def _compared(report: Mapping[str, Any], split: str, scope: str, task: str, loss: str) -> Sequence[Whisker]:
    found = []
    for i, row in enumerate(report["rows"]):
        difference = row["metrics"][split][scope][task][loss].get("difference")
        if difference and difference["relative_interval"]:
            found.append(Whisker(i, row["name"], difference["relative"], *difference["relative_interval"]))
    return found


def learning(report: Mapping[str, Any]) -> Sequence[Group]:
    """By task: log loss on the eval split over training time and over examples, by scenario."""
    groups = []
    tasks = [task for task in report["tasks"] if any(task in row["to_quality"] for row in report["rows"])]
    for task in tasks:
        cards: Cards = []
        for scenario in report["scenarios"]:
            for x, label in (("seconds", "seconds of training"), ("examples", "examples")):
                drawn, points = [], []
                for i, row in enumerate(report["rows"]):
                    for k, curve in enumerate(row["learning"][scenario].get(task, [])):
                        drawn.append(Line(i, curve[x], curve["logloss"], faint=k > 0, dots=len(curve[x]) == 1))
                        points += curve["logloss"][len(curve["logloss"]) // 8 :]
                if drawn:
                    room = 0.05 * (max(points) - min(points)) or 0.01
                    caption = f"{scenario}, over {label}"
                    alt = f"{task}: log loss on the eval split over {label}, {scenario}, one line a row and seed"
                    limits = (min(points) - room, max(points) + room)
                    cards.append((caption, Markup(plots.lines(drawn, alt, label, "log loss", y_limits=limits))))
        if cards:
            groups.append((task, cards))
    return groups


def curves(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split and task: ROC, and calibration where nothing was calibrated, by scope."""
    groups = []
    for split in report["splits"]:
        for task in report["tasks"]:
            cards: Cards = []
            for scope in report["rows"][0]["curves"][split]:
                by_row = [row["curves"][split][scope][task] for row in report["rows"]]
                cards += _roc(by_row, f"{task} on {split}, {scope}")
                if not any(row["before"][split][scope][task] for row in report["rows"]):  # those have one below
                    shown = [(i, found["calibration"], False) for i, found in enumerate(by_row)]
                    cards += _calibration(shown, f"{task} on {split}, {scope}", "one line a row")
            if cards:
                groups.append((f"{task} on {split}", cards))
    return groups


def calibration(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split and task, where a row of the table was calibrated: its curve before and after, by scope."""
    groups = []
    for split in report["splits"]:
        for task in report["tasks"]:
            cards: Cards = []
            for scope in report["rows"][0]["before"][split]:
                both = []
                for i, row in enumerate(report["rows"]):
                    before = row["before"][split][scope][task]
                    if before:
                        after = row["curves"][split][scope][task]["calibration"]
                        both += [(i, before["curve"], True), (i, after, False)]
                cards += _calibration(both, f"{task} on {split}, {scope}", "faint before, strong after it was fitted")
            if cards:
                groups.append((f"{task} on {split}", cards))
    return groups


def _roc(by_row: Sequence[Mapping[str, Any]], what: str) -> Cards:
    drawn = [
        Line(i, found["roc"]["false_positive_rate"], found["roc"]["true_positive_rate"])
        for i, found in enumerate(by_row)
        if found["roc"]
    ]
    if not drawn:
        return []
    svg = plots.lines(
        drawn, f"ROC curves of {what}, one a row", "false-positive rate", "true-positive rate", diagonal=True
    )
    return [(f"ROC, {what.rpartition(', ')[2]}", Markup(svg))]


def _calibration(found: Sequence[tuple[int, Mapping[str, Any] | None, bool]], what: str, which: str) -> Cards:
    drawn = [Line(i, c["prediction"], c["label"], faint=faint, dots=not faint) for i, c, faint in found if c]
    if not drawn:
        return []
    alt = f"Calibration of {what}: mean label over mean prediction, {which}"
    svg = plots.lines(drawn, alt, "mean prediction", "mean label", diagonal=True)
    return [(f"Calibration, {what.rpartition(', ')[2]}", Markup(svg))]


# ---- funnel ----------------------------------------------------------------------------------------------------------


def funnel(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split: recall of the teacher's best K over the number of candidates passed on, by scenario and K."""
    groups = []
    for split, tables in funnel_tables(report):
        cards: Cards = []
        for title, passed, by_row in tables:
            drawn = [_recall(i, passed, [at["recall"] for at in row]) for i, row in enumerate(by_row)]
            alt = f"recall on {split} of {title} among the candidates passed on, over their number, one line a row"
            svg = plots.lines(drawn, alt, "candidates passed on", "recall", y_limits=(0.0, 1.02))
            cards.append((title, Markup(svg)))
        groups.append((split, cards))
    return groups


def _recall(series: int, passed: Sequence[int], figures: Sequence[Mapping[str, Any]]) -> Line:
    intervals = [f["interval"] or (f["mean"], f["mean"]) for f in figures]
    return Line(series, passed, [f["mean"] for f in figures], dots=True, band=intervals)


def funnel_tables(report: Mapping[str, Any]) -> Sequence[tuple[str, list[tuple[str, list[int], list[list[Any]]]]]]:
    """By split: of each scenario and K the title, the numbers N passed on, and by row of the table the figures at them.

    A split whose requests have too few candidates to lose any is left out.
    """
    found = []
    for split, about in report["funnel"].items():
        tables = []
        for scenario in about["scenarios"]:
            by_row = [row["funnel"][split][scenario] for row in report["rows"]]
            for k in dict.fromkeys(at["best"] for at in by_row[0]):
                of_k = [[at for at in row if at["best"] == k] for row in by_row]
                tables.append((f"the best {k}, {scenario}", [at["passed"] for at in of_k[0]], of_k))
        if tables:
            found.append((split, tables))
    return found


# ---- gates -----------------------------------------------------------------------------------------------------------


def gates(report: Mapping[str, Any]) -> Sequence[Group]:
    """By split: the mean share of each expert by task and scenario, for each row with gates and each of its mixtures.

    Of the first seed: the experts of two seeds have nothing to do with one another.
    """
    groups = []
    for split in report["splits"]:
        cards = [card for row in report["rows"] for card in _gate_cards(report, row, split)]
        if cards:
            groups.append((split, cards))
    return groups


def _gate_cards(report: Mapping[str, Any], row: Mapping[str, Any], split: str) -> Cards:
    names, cards = row["runs"][0], []
    for mixture in report["runs"][names[0]]["gates"][split]:
        of_runs = [report["runs"][name]["gates"][split][mixture] for name in names]
        of_scenario = {scenario: found for of_run in of_runs for scenario, found in of_run["scenarios"].items()}
        shown = [(s, of_scenario[s]["tasks"]) for s in report["scenarios"] if of_scenario[s]["rows"]]
        lines = [(task, s, tasks[task]["load"]) for task in (shown[0][1] if shown else ()) for s, tasks in shown]
        labels = [f"{task}, {s}" if len(shown) > 1 else task for task, s, _ in lines]
        if not lines:
            continue
        alt = f"mean share of each expert of the {MIXTURES[mixture]} of {row['name']} on {split}, by task and scenario"
        picture = Markup(plots.heat_map([load for _, _, load in lines], labels, of_runs[0]["experts"], alt))
        runs = Markup(", ").join(Markup('<a href="#run-{0}"><code>{0}</code></a>').format(name) for name in names)
        cards.append((Markup("{}: {} of {}").format(row["name"], MIXTURES[mixture], runs), picture))
    return cards
