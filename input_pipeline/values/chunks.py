"""Chunks of rows, what becomes of bad rows, and the types that a schema asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from input_pipeline.sources.notices import report
from input_pipeline.sources.source import ReadError
from input_pipeline.values.label_expression import Comparison
from tt_jax.schema import Schema

_SHOWN = 10  # files that are not read
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

    `input_pipeline.prepare.quarantine` keeps bad rows aside instead, `SkipUnknown` leaves out files.
    """

    def skip(self, source: str, files: Mapping[str, str]) -> None:
        """Called with the files of a directory or pattern that are not read, and why. May raise."""
        raise ReadError(f"{source}: {skipped_files(files)}; move them away, or leave them out by --skip-unknown")

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        """Called with a row that cannot be used, its number in the file, and what is known of it. May raise."""
        self._fail(file, row, reason)

    def _fail(self, file: str, row: int, reason: str) -> NoReturn:
        raise ReadError(f"{file}: row {row}: {reason}")


class _Ignored(Errors):
    """A row or file that cannot be read does not count; another reading of the same files reports it."""

    def skip(self, source: str, files: Mapping[str, str]) -> None:
        pass

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        pass


STRICT, IGNORED = Errors(), _Ignored()


class SkipUnknown(Errors):
    """Leaves out the files of a directory that cannot be read, and says so; bad rows are for another one."""

    def __init__(self, errors: Errors = STRICT) -> None:
        """`errors`: what becomes of bad rows."""
        self._errors = errors

    def skip(self, source: str, files: Mapping[str, str]) -> None:
        """Tells of them."""
        report(f"{source}: left out: {skipped_files(files)}")

    def reject(self, file: str, row: int, reason: str, values: Any) -> None:
        """As the other one."""
        self._errors.reject(file, row, reason, values)


def skipped_files(files: Mapping[str, str]) -> str:
    """How many they are, and the first of them with their reasons."""
    shown = [f"{name} ({reason})" for name, reason in list(files.items())[:_SHOWN]]
    more = f", and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    return f"{len(files):,} file{'s' if len(files) > 1 else ''} cannot be read: {', '.join(shown)}{more}"


def arrow_types(schema: Schema) -> dict[str, pa.DataType]:
    """What the schema's scenario, features, labels and weights are read as, by column.

    Keys and what a label looks for by `=` or `!=` are left open, as they are in the schema: numbers or text.
    """
    ids = {"int": pa.int64(), "string": pa.string()}
    types: dict[str, pa.DataType] = {schema.scenario: pa.string()}
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


def without(first: int, table: pa.Table, bad: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """The table in pieces between bad rows, each with the number of its first row."""
    start = 0
    for i in [*bad, table.num_rows]:
        if i > start or not table.num_rows:
            yield first + start, table.slice(start, i - start)
        start = i + 1
