"""What in a report deserves a look, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from input_pipeline.sources.text_format import MARKERS

MISSING = 0.5  # share of rows without a value
PSI, KS = 0.25, 0.2
LEAK_AUC = 0.95
COLLIDING = 0.2  # share of the ids of a table
DUPLICATES = 0.01  # share of rows


def findings(report: Mapping[str, Any]) -> list[str]:
    """Lines, the gravest kinds first."""
    return [*_leaks(report), *_labels(report), *report["troubles"], *_columns(report), *_drift(report), *_rest(report)]


def _leaks(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{leak['column']}: alone it has an AUC of {leak['auc']:.3f} for {task}: does it know the answer?"
        for task, columns in report["leaks"].items()
        for leak in columns
        if leak["auc"] > LEAK_AUC
    ]


def _labels(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for split, counts in report["splits"].items():
        if not counts["rows"]:
            lines.append(f"{split}: no rows")
        for task, label in counts["labels"].items():
            if counts["rows"] and label["rate"] in (None, 0.0, 1.0):
                said = "no row has a label" if label["rate"] is None else f"every label is {label['rate']:.0f}"
                lines.append(f"{task}: {said} in {split}")
    return lines


def _columns(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, column in report["columns"].items():
        if column["missing"] > MISSING:
            lines.append(f"{name}: missing in {column['missing']:.1%} of the rows")
        if column.get("distinct", {}).get("count") == 1:
            lines.append(f"{name}: one value only, {column['top'][0]['value']}")
        for top in column.get("top", []) if column["kind"].endswith("text") else []:
            if top["value"] in MARKERS:
                lines.append(
                    f"{name}: {top['share']:.1%} are {top['value']!r}: if it means missing, declare it as such"
                )
        if column.get("numbers", {}).get("infinite"):
            lines.append(f"{name}: {column['numbers']['infinite']:,} infinite numbers")
    return lines


def _drift(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, splits in report["drift"].get("columns", {}).items():
        past = {s: d for s, d in splits.items() if d["psi"] > PSI or (d["ks"] or 0) > KS}
        if past:
            split, worst = max(past.items(), key=lambda item: item[1]["psi"])
            distance = "" if worst["ks"] is None else f", KS {worst['ks']:.2f}"
            lines.append(
                f"{name}: {split} differs from {report['drift']['reference']}: PSI {worst['psi']:.2f}{distance}"
            )
    return lines


def _rest(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{name}: {table['collisions']:.0%} of the ids of its table share a row, of {table['rows']:,};"
        f" {table['rows_for']['rows']:,} rows would make it {table['rows_for']['share']:.0%}"
        for name, table in report["tables"].items()
        if table["collisions"] > COLLIDING
    ]
    duplicates = report["duplicates"]
    if duplicates["share"] > DUPLICATES:
        lines.append(f"{duplicates['share']:.1%} of the rows are duplicates of another")
    return lines
