"""Keys and scenario have no type in a schema; but one column has one type in all files, or equal ids would differ."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from input_pipeline.readers import Chunk
from tt_jax.features.columns import looks_int
from tt_jax.schema import Schema, SchemaError


class KeyTypes:
    """Remembers whether each key column holds whole numbers, and the file that was first to show it."""

    def __init__(self, schema: Schema) -> None:
        self._names = (schema.scenario, *schema.key_columns)
        self._expected: dict[str, tuple[str, str]] = {}
        self._first: dict[tuple[str, str], tuple[str, Any]] = {}  # of each column and kind: file, value

    def check(self, chunk: Chunk) -> None:
        """Raises `SchemaError` naming file, column and first value where a column's type is another than before."""
        for name in self._names:
            if name not in chunk.table.column_names or not chunk.table.num_rows:
                continue
            column = chunk.table.column(name)
            if pa.types.is_null(column.type) or column.null_count == len(column):
                continue
            kind = "integers" if looks_int(column) else "strings or other values"
            if (name, kind) not in self._first:
                self._add(name, kind, chunk.file, column.drop_null()[0].as_py())

    def merge(self, later: KeyTypes) -> None:
        """Adds what a later part of the log has shown. Raises as `check` would have, had it seen that part."""
        for (name, kind), (file, value) in later._first.items():
            self._add(name, kind, file, value)

    def _add(self, name: str, kind: str, file: str, value: Any) -> None:
        self._first.setdefault((name, kind), (file, value))
        expected, where = self._expected.setdefault(name, (kind, file))
        if kind != expected:
            raise SchemaError(f"{file}: column {name!r}: expected {expected}, as in {where}, got {kind}: {value!r}")
