"""Tables for a terminal, to the character."""

from __future__ import annotations

from tt_jax.cli.table import figures_table, text_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["click", "1,234", "0.5"], ["long_click", "7", "-", "(ignored)"]]
    assert text_table(["task", "rows", "AUC"], rows, "lrrl") == [
        "task         rows  AUC",
        "click       1,234  0.5",
        "long_click      7    -  (ignored)",
    ]
    assert text_table([], rows[:1], least=(8,)) == ["click     1,234  0.5"]
    assert text_table([], []) == []


def test_a_table_has_the_ends_of_intervals_below() -> None:
    found = {"rows": 1234, "auc": 0.75, "gauc": None, "intervals": {"auc": [0.7, 0.8], "gauc": None}}
    assert figures_table("all", {"click": found}, ("rows", "auc", "gauc"), digits=2).splitlines() == [
        "all                     rows         auc        gauc",
        "  click                1,234        0.75           -",
        "    from                            0.70",
        "    to                              0.80",
    ]
