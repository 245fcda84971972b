"""Columns of a log as the schema has them: their types, keys, times, labels that compare one."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.readers import ReadError
from input_pipeline.values.cast import cast
from input_pipeline.values.column_names import require_columns
from input_pipeline.values.label_expression import Comparison
from input_pipeline.values.times import times
from tt_jax.features.columns import decoded, one_array
from tt_jax.schema import Schema

OTHER = "other"  # the scenario, if the schema has it, of every value that it does not name
EVERY_ROW = "every_row"
ROW_NUMBER = "row_number"


def schema_columns(schema: Schema, table: pa.Table, file: str, first_row: int) -> pa.Table:
    """The columns that the schema names, of some rows that were read by `arrow_types` of it, and joined.

    A feature that is an Arrow dictionary stays one. Raises `ReadError` naming file and column.
    """
    named = {f.name for f in schema.features}
    columns = {f.name: column_of(table, f.name, file, decode=False)
               for f in schema.features if f.name != schema.scenario}  # fmt: skip
    for task in schema.tasks:
        compared = Comparison.of(task.label, table.column_names)
        if compared is not None and compared.column in named:
            raise ReadError(f"task {task.name!r}: the column {compared.column!r} of its label is also a feature")
        columns[task.label] = _label(table, task.label, file)
        for name in filter(None, (task.mask, task.weight_column)):
            columns[name] = _label(table, name, file)
    for name in schema.key_columns:
        if name == ROW_NUMBER:
            columns[name] = pa.array(np.arange(first_row, first_row + len(table)))
        elif name == schema.time:
            columns.setdefault(name, times(column_of(table, name, file), name, file, first_row))
        elif name not in columns:
            columns[name] = _key(column_of(table, name, file), name, file, first_row)
    columns[schema.scenario] = _scenario(table, schema, file)
    return pa.table(columns)


def _key(column: pa.Array, name: str, file: str, first_row: int) -> pa.Array:
    """Text as it is, whole numbers as int64: of uint64 their bits, so that none is changed to that of another."""
    if is_text(column.type):
        return column
    if pa.types.is_uint64(column.type):
        return column.cast(pa.int64(), safe=False)
    keys, wrong = cast(column, pa.int64())
    for row, reason in wrong.items():
        raise ReadError(f"{file}: row {first_row + row}: column {name!r}: {reason}")
    return keys


def _label(table: pa.Table, label: str, file: str) -> pa.Array:
    compared = Comparison.of(label, table.column_names)
    if compared is None:
        return cast_column(column_of(table, label, file), pa.float64(), label, file)
    return compared.holds(column_of(table, compared.column, file), file).cast(pa.int8())


def _scenario(table: pa.Table, schema: Schema, file: str) -> pa.Array:
    if schema.scenario == EVERY_ROW:
        return pa.repeat(schema.scenarios[0], len(table))
    column = column_of(table, schema.scenario, file, decode=False)
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _names(column.dictionary, schema, file), safe=False)
    return _names(column, schema, file)


def _names(column: pa.Array, schema: Schema, file: str) -> pa.Array:
    """Scenarios as the schema names them."""
    text = cast_column(column, pa.string(), schema.scenario, file)
    if OTHER not in schema.scenarios:
        return text  # the encoder names the row of a value that is none of them
    return pc.if_else(pc.is_in(text, pa.array(schema.scenarios)), text, OTHER)


def is_text(t: pa.DataType) -> bool:
    """Whether it is of strings, or of a dictionary of them."""
    t = t.value_type if pa.types.is_dictionary(t) else t
    return pa.types.is_string(t) or pa.types.is_large_string(t)


def cast_column(column: pa.Array, to: pa.DataType, name: str, file: str) -> pa.Array:
    """The column as another type. Raises `ReadError` naming it."""
    try:
        return column if column.type == to else column.cast(to)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        reason = str(e).splitlines()[0]
        raise ReadError(f"{file}: column {name!r}: expected {to}, got {column.type}: {reason}") from None


def column_of(table: pa.Table, name: str, file: str, decode: bool = True) -> pa.Array:
    """The column of that name, `[n]`; a dictionary as its values, if `decode`. Raises `ReadError` without it."""
    require_columns(file, table, (name,))
    column = one_array(table.column(name))
    return decoded(column) if decode else column
