"""Logs for `tt-jax init`, and the verb."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tt_jax.cli.main import main

Columns = dict[str, Any]


def log(rows: int, **more: Any) -> Columns:
    rng = np.random.default_rng(0)
    return {
        "user_id": [f"u{i}" for i in rng.integers(0, 30, rows)],
        "ad_id": rng.integers(0, 40, rows) + 5,
        "ts": 1_700_000_000 + 60 * np.arange(rows),
        "age": rng.integers(18, 80, rows),
        "clicked": (rng.random(rows) < 0.3).astype(int),
        **more,
    }


def write_csv(path: Path, columns: Columns, delimiter: str = ",", names: bool = True) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerows([list(columns)] * names)
        rows.writerows(zip(*columns.values(), strict=True))


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code
