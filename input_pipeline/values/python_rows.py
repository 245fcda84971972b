"""Rows of Python values as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.cast import column_of_values
from input_pipeline.values.chunks import Errors, Types, without

CHUNK_ROWS = 8192


def tables_of(
    file: str, rows: Iterable[tuple[int, dict[str, Any]]], types: Types, errors: Errors, text: TextFormat
) -> Iterator[tuple[int, pa.Table]]:
    """Numbered rows of Python values as `(first row, table)`; a table ends where a number is left out.

    A key that a row lacks is null; a column is there from the first chunk on in which any row has it.
    """
    names: dict[str, None] = {}
    held: list[dict[str, Any]] = []
    first = 0
    for number, row in rows:
        if held and (number != first + len(held) or len(held) == CHUNK_ROWS):
            yield from _checked(file, first, held, names, types, errors, text)
            held = []
        if not held:
            first = number
        held.append(row)
        names.update(dict.fromkeys(row))
    if held:
        yield from _checked(file, first, held, names, types, errors, text)


def _checked(
    file: str,
    first: int,
    rows: list[dict[str, Any]],
    names: Iterable[str],
    types: Types,
    errors: Errors,
    text: TextFormat,
) -> Iterator[tuple[int, pa.Table]]:
    columns, bad = {}, {}
    for name in names:
        values = [row.get(name) for row in rows]
        columns[name], wrong = column_of_values(values, types.get(name), text, name)
        bad |= {i: f"column {name!r}: {reason}" for i, reason in wrong.items() if i not in bad}
    for i in sorted(bad):
        errors.reject(file, first + i, bad[i], rows[i])
    yield from without(first, pa.table(columns), sorted(bad))
