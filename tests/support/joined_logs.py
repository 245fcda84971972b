"""A log with a side table."""

from __future__ import annotations

from input_pipeline import logs
from tt_jax.schema import Feature, Schema, Task

SCHEMA = Schema(
    "joined",
    (
        Feature("user", "categorical", "query", "int", hash_size=100),
        Feature("ad", "categorical", "ad", "int", hash_size=100),
        Feature("size", "numeric", "ad"),
    ),
    (Task("click", "clicked"),),
    logs.EVERY_ROW,
    ("all",),
    "ad",
)


JOINS = {"ads.csv": "ad"}
