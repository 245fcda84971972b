"""What the readers share: chunks, bad rows, and rows of Python values as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from input_pipeline.notices import tell
from input_pipeline.readers.files import ReadError
from input_pipeline.readers.labels import Comparison
from tt_jax.schema import Schema

CHUNK_ROWS = 8192  # rows of a chunk of Python values
_TOLD = 10  # files that are not read
Types = Mapping[str, pa.DataType]


@dataclass(frozen=True)
class Chunk:
    """Rows of one split, joined with what the schema wants to know of them.

    Attributes:
      split: `train`, `eval`, `test`, ...
      file: where the rows come from, for messages.
      first_row: number of the first row within that file.
      table: the rows.
      rows: numbers of the rows, counted from `first_row`; None where they are consecutive.
    """

    split: str
    file: str
    first_row: int
    table: pa.Table
    rows: np.ndarray | None = None

    def row_number(self, index: int) -> int:
        """Number in the file of row `index` of the table."""
        return self.first_row + (index if self.rows is None else int(self.rows[index]))


class Errors:
    """What becomes of a bad row, or of a file that cannot be read: here, it ends the reading.

    `input_pipeline.quarantine` keeps bad rows aside instead, `SkipUnknown` leaves out files.
    """

    def skip(self, source: str, files: Mapping[str, str]) -> None:
        """Called with the files of a directory or pattern that are not read, and why. May raise."""
        raise ReadError(f"{source}: {skipped_files(files)}; move them away, or leave them out by --skip-unknown")

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        """Called with a row that cannot be used, its number in the file, and what is known of it. May raise."""
        self._fail(file, row, reason)

    def _fail(self, file: str, row: int, reason: str) -> NoReturn:
        raise ReadError(f"{file}: row {row}: {reason}")


STRICT = Errors()


class SkipUnknown(Errors):
    """Leaves out the files of a directory that cannot be read, and says so; bad rows are for another one."""

    def __init__(self, errors: Errors = STRICT) -> None:
        """`errors`: what becomes of bad rows."""
        self._errors = errors

    def skip(self, source: str, files: Mapping[str, str]) -> None:
        """Tells of them."""
        tell(f"{source}: left out: {skipped_files(files)}")

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        """As the other one."""
        self._errors.reject(file, row, reason, values)


def skipped_files(files: Mapping[str, str]) -> str:
    """How many they are, and the first of them with their reasons."""
    told = [f"{name} ({reason})" for name, reason in list(files.items())[:_TOLD]]
    more = f", and {len(files) - _TOLD:,} more" if len(files) > _TOLD else ""
    return f"{len(files):,} file{'s' if len(files) > 1 else ''} cannot be read: {', '.join(told)}{more}"


def arrow_types(schema: Schema) -> dict[str, pa.DataType]:
    """What the schema's features, labels and weights are read as from text, by column.

    Scenario, keys and what a label looks for by `=` or `!=` are left open, as they are in the schema: numbers or text.
    """
    ids = {"int": pa.int64(), "string": pa.string()}
    types: dict[str, pa.DataType] = {}
    for task in schema.tasks:
        for name in filter(None, (task.label, task.mask, task.weight_column)):
            types[name] = pa.float64()
            if (compared := Comparison.of(name)) is not None and compared.is_ordered:
                types[compared.column] = pa.float64()
    for feature in schema.features:
        if feature.kind == "numeric":
            types[feature.name] = pa.float64()
        elif feature.kind == "dense":
            types[feature.name] = pa.list_(pa.float64())
        else:
            one = ids[feature.dtype]
            types[feature.name] = one if feature.kind == "categorical" else pa.list_(one)
    return types


def tables_of(
    file: str, rows: Iterable[tuple[int, dict[str, Any]]], types: Types, errors: Errors
) -> Iterator[tuple[int, pa.Table]]:
    """Numbered rows of Python values as `(first row, table)`; a table ends where a number is left out.

    A key that a row lacks is null; a column is there from the first chunk on in which any row has it.
    """
    names: dict[str, None] = {}
    held: list[dict[str, Any]] = []
    first = 0
    for number, row in rows:
        if held and (number != first + len(held) or len(held) == CHUNK_ROWS):
            yield from _checked(file, first, held, names, types, errors)
            held = []
        if not held:
            first = number
        held.append(row)
        names.update(dict.fromkeys(row))
    if held:
        yield from _checked(file, first, held, names, types, errors)


def _checked(
    file: str, first: int, rows: list[dict[str, Any]], names: Iterable[str], types: Types, errors: Errors
) -> Iterator[tuple[int, pa.Table]]:
    columns, bad = {}, {}
    for name in names:
        values = [row.get(name) for row in rows]
        columns[name], wrong = column_of(values, types.get(name))
        bad |= {i: f"column {name!r}: {reason}" for i, reason in wrong.items() if i not in bad}
    for i in sorted(bad):
        errors.reject(file, first + i, bad[i], rows[i])
    yield from without(first, pa.table(columns), sorted(bad))


def without(first: int, table: pa.Table, bad: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """The table in pieces between bad rows, each with the number of its first row."""
    start = 0
    for i in [*bad, table.num_rows]:
        if i > start or not table.num_rows:
            yield first + start, table.slice(start, i - start)
        start = i + 1


def column_of(values: list[Any], type_: pa.DataType | None) -> tuple[pa.Array, dict[int, str]]:
    """Python values as an array, null where one does not fit; and why, by position."""
    try:
        return pa.array(values, type_), {}
    except (pa.ArrowException, OverflowError):
        pass
    if type_ is None:
        type_ = next((t for t in map(_type_of, values) if t is not None), pa.null())
        if pa.types.is_integer(type_) and any(isinstance(v, float) for v in values):
            type_ = pa.float64()
    wrong = {i: f"expected {type_}, got {v!r}" for i, v in enumerate(values) if not _fits(v, type_)}
    return pa.array([None if i in wrong else v for i, v in enumerate(values)], type_), wrong


def _type_of(value: Any) -> pa.DataType | None:
    if value is None:
        return None
    try:
        return pa.array([value]).type
    except (pa.ArrowException, OverflowError):
        return None


def _fits(value: Any, type_: pa.DataType) -> bool:
    try:
        pa.array([value], type_)
    except (pa.ArrowException, OverflowError):
        return False
    return True
