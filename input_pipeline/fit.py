"""Columns of a log as the schema has them: their types, lists of text, times, labels that compare one."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.readers import ReadError
from input_pipeline.readers.labels import Comparison
from tt_jax.columns import decoded, identity, one_array
from tt_jax.schema import DType, Feature, Schema
from tt_jax.strict_json import nearest

OTHER = "other"  # the scenario, if the schema has it, of every value that it does not name
EVERY_ROW = "every_row"
ROW_NUMBER = "row_number"
SEPARATORS = r"[,;|]"  # of a list written as text, as CSV has it: `1,2`, `a|b` or `['a', 'b']`
_DECORATION = r"[\[\]'\"\s]"


class Fit:
    """Tables as they were read and joined -> the columns that the schema names, as it has them.

    A feature that is an Arrow dictionary stays one. What was made of the dictionary is kept for the next table, for
    that of a joined table is the same one in every chunk of the log.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._made: dict[str, tuple[pa.Array, pa.Array]] = {}  # feature -> a dictionary as it was and as it became

    def table(self, table: pa.Table, file: str, first_row: int, of_column: Mapping[str, str]) -> pa.Table:
        """The columns of some rows of a file. `of_column`: the file that each comes from.

        Raises `ReadError` naming that file and the column.
        """
        schema, named = self._schema, {f.name for f in self._schema.features}
        columns = {f.name: self._feature(f, column_of(table, f.name, file, decode=False), of_column[f.name])
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
                columns.setdefault(name, times(column_of(table, name, file), name, file))
            elif name not in columns:
                columns[name] = _key(column_of(table, name, file), name, file)
        columns[schema.scenario] = _scenario(table, schema, file)
        return pa.table(columns)

    def _feature(self, f: Feature, column: pa.Array, file: str) -> pa.Array:
        if not pa.types.is_dictionary(column.type):
            return _feature(f, column, file)
        before, after = self._made.get(f.name, (None, None))
        if before is None or identity(before) != identity(column.dictionary):
            before, after = column.dictionary, _feature(f, decoded(column.dictionary), file)
            self._made[f.name] = before, after
        return pa.DictionaryArray.from_arrays(column.indices, after, safe=False)


def _feature(f: Feature, column: pa.Array, file: str) -> pa.Array:
    if f.kind == "numeric":
        return cast(column, pa.float64(), f.name, file)
    if f.kind == "dense":
        return column
    if f.kind == "categorical":
        return _ids(column, f.dtype, f.name, file)
    if is_text(column):
        column = split_lists(column)
    return cast(column, pa.list_(pa.int64() if f.dtype == "int" else pa.string()), f.name, file)


def split_lists(column: pa.Array) -> pa.Array:
    """Lists written as text, as lists of text."""
    plain = pc.replace_substring_regex(column.cast(pa.string()), _DECORATION, "")
    return pc.split_pattern_regex(pc.if_else(pc.equal(plain, ""), None, plain), SEPARATORS)


def _ids(column: pa.Array, dtype: DType, name: str, file: str) -> pa.Array:
    if dtype == "string":
        return column if is_text(column) else cast(column, pa.string(), name, file)
    if pa.types.is_floating(column.type):  # whole numbers some of which are missing, as pandas writes them
        column = pc.if_else(pc.is_nan(column), None, column)
    return cast(column, pa.int64(), name, file)


def _key(column: pa.Array, name: str, file: str) -> pa.Array:
    return column if is_text(column) else _ids(column, "int", name, file)


def _label(table: pa.Table, label: str, file: str) -> pa.Array:
    compared = Comparison.of(label, table.column_names)
    if compared is None:
        return cast(column_of(table, label, file), pa.float64(), label, file)
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
    text = cast(column, pa.string(), schema.scenario, file)
    if OTHER not in schema.scenarios:
        return text  # the encoder names the row of a value that is none of them
    return pc.if_else(pc.is_in(text, pa.array(schema.scenarios)), text, OTHER)


def times(column: pa.Array, name: str, file: str) -> pa.Array:
    """A time as int64: Unix milliseconds of dates and of ISO text, numbers as they are."""
    if is_text(column):
        column = cast(column, pa.timestamp("ms"), name, file)
    if pa.types.is_temporal(column.type):
        column = pc.cast(column, pa.timestamp("ms"), safe=False)
    if pa.types.is_floating(column.type):
        column = pc.floor(pc.if_else(pc.is_nan(column), None, column))
    return cast(column, pa.int64(), name, file)


def is_text(column: pa.Array) -> bool:
    """Whether it is of strings, or a dictionary of them."""
    t = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return pa.types.is_string(t) or pa.types.is_large_string(t)


def cast(column: pa.Array, to: pa.DataType, name: str, file: str) -> pa.Array:
    """The column as another type. Raises `ReadError` naming it."""
    try:
        return column if column.type == to else column.cast(to)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        reason = str(e).splitlines()[0]
        raise ReadError(f"{file}: column {name!r}: expected {to}, got {column.type}: {reason}") from None


def column_of(table: pa.Table, name: str, file: str, decode: bool = True) -> pa.Array:
    """The column of that name, also a dictionary as its values unless told otherwise. Raises `ReadError` without it."""
    if name not in table.column_names:
        raise ReadError(f"{file}: no column {name!r}{nearest(name, table.column_names)}")
    column = one_array(table.column(name))
    return decoded(column) if decode else column
