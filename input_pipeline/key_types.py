"""Keys and scenario have no type in a schema; but one column has one type in all files, or equal ids would differ."""

from __future__ import annotations

import pyarrow as pa

from input_pipeline.readers import Chunk
from tt_jax.columns import looks_int
from tt_jax.schema import Schema, SchemaError


class KeyTypes:
    """Remembers whether each key column holds whole numbers, and the file that was first to show it."""

    def __init__(self, schema: Schema) -> None:
        self._names = (schema.scenario, *schema.key_columns)
        self._seen: dict[str, tuple[str, str]] = {}

    def check(self, chunk: Chunk) -> None:
        """Raises `SchemaError` naming file, column and first value where a column's type is another than before."""
        for name in self._names:
            if name not in chunk.table.column_names or not chunk.table.num_rows:
                continue
            column = chunk.table.column(name)
            if pa.types.is_null(column.type) or column.null_count == len(column):
                continue
            kind = "integers" if looks_int(column) else "strings or other values"
            expected, file = self._seen.setdefault(name, (kind, chunk.file))
            if kind != expected:
                value = column.drop_null()[0].as_py()
                raise SchemaError(
                    f"{chunk.file}: column {name!r}: expected {expected}, as in {file}, got {kind}: {value!r}"
                )
