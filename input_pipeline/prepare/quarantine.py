"""Bad rows kept aside while the good ones are prepared: counted, bounded, each with its place and its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from input_pipeline.readers import Errors
from tt_jax.features.encoder import Encoded, EncodeError, Encoder
from tt_jax.schema import SchemaError

QUARANTINE = "quarantine.jsonl"


class Quarantine(Errors):
    """Collects bad rows in `quarantine.jsonl` of a prepared set: objects of file, row, reason and the row.

    `rejected` counts them. Give the same one to the recipe's `read` and to `prepare`, once.
    """

    def __init__(self, max_errors: int) -> None:
        """`max_errors`: one more bad row ends the run. Raises ValueError if it is negative."""
        if max_errors < 0:
            raise ValueError(f"max_errors: expected a number >= 0, got {max_errors}")
        self.rejected, self._max = 0, max_errors
        self._path: Path | None = None

    def write_to(self, folder: Path) -> None:
        """Says where the file is to be."""
        self._path = folder / QUARANTINE

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        """Keeps the row. Raises `ReadError` if it is one too many, OSError if it cannot be written."""
        if self._path is None:
            raise ValueError("a Quarantine is given to `prepare` before rows are read")
        self.rejected += 1
        if self.rejected > self._max:
            self._fail(file, row, f"{reason} (more than {self._max} bad rows)")
        if isinstance(values, Mapping):
            values = {name: _json_value(value) for name, value in values.items()}
        line = json.dumps({"file": file, "row": row, "reason": reason, "values": values}, default=str)
        try:
            with self._path.open("a") as out:
                out.write(line + "\n")
        except OSError as e:
            raise OSError(f"{self._path}: cannot be written: {e}") from e


def _json_value(value: Any) -> Any:
    """As it is, but for NaN and infinities, which JSON does not have: as text."""
    if isinstance(value, list):
        return [_json_value(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def encode_good(
    encoder: Encoder, table: pa.Table, numbers: np.ndarray, file: str, quarantine: Quarantine
) -> tuple[pa.Table, Encoded]:
    """Encodes the good rows of a table, whose numbers in the file are given; the bad ones go to the quarantine.

    Where a whole column is wrong, all rows are bad. Raises `SchemaError` if it is so in a table without rows.
    """
    while True:
        try:
            return table, encoder.encode({name: table.column(name) for name in table.column_names})
        except EncodeError as e:
            if not table.num_rows:
                raise SchemaError(f"{file}: {e}") from e
            bad = range(table.num_rows) if e.row is None else [e.row]
            for i in bad:
                values = table.slice(i, 1).to_pylist()[0]
                quarantine.reject(file, int(numbers[i]), f"column {e.column!r}: {e.reason}", values)
            kept = np.delete(np.arange(table.num_rows), bad)
            table, numbers = table.take(pa.array(kept, pa.int64())), numbers[kept]
            if not len(kept):
                return table, Encoded({}, {})
