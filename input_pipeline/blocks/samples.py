"""A few raw rows kept beside the encoded ones, as JSON: golden requests of a bundle, and examples for a reader."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tt_jax.schema import TOWERS, Schema

SAMPLES = "samples.json"
PER_SCENARIO = 8


class Samples:
    """Collects the first rows of each scenario."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in schema.scenarios}

    def add(self, scenario: str, table: pa.Table) -> None:
        """Offers rows of one scenario, which have been encoded without an error."""
        kept = self._rows[scenario]
        if len(kept) >= PER_SCENARIO:
            return
        for row in table.slice(0, PER_SCENARIO - len(kept)).to_pylist():
            kept.append(
                {
                    tower: {f.name: json_value(row[f.name]) for f in self._schema.tower_features(tower)}
                    for tower in TOWERS
                }
            )

    def merge(self, later: Samples) -> None:
        """Adds those of a later part of the log."""
        for scenario, kept in self._rows.items():
            kept.extend(later._rows[scenario][: PER_SCENARIO - len(kept)])

    def write(self, folder: Path) -> None:
        """Writes them."""
        (folder / SAMPLES).write_text(json.dumps(self._rows, allow_nan=False) + "\n")


def read_samples(folder: Path, scenarios: Sequence[str]) -> list[dict[str, Any]]:
    """Rows `{"query": {feature: value}, "ad": {feature: value}}` of some scenarios; empty = all."""
    rows: Mapping[str, list[dict[str, Any]]] = json.loads((folder / SAMPLES).read_text())
    return [row for name in scenarios or rows for row in rows[name]]


def json_value(value: Any) -> Any:
    """A value as a request can say it: JSON has no NaN, which is a missing value, and no infinities, for which the
    largest number stands."""
    if isinstance(value, list):
        return [json_value(v) for v in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else math.copysign(sys.float_info.max, value)
