"""A label as a task names it: a column, or a comparison of one: `clicked=1`, `event!=skip`, `rating>=4`."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.sources.source import ReadError

_OPERATOR = re.compile(r">=|<=|!=|>|<|=")
_ORDERED = {">=": pc.greater_equal, "<=": pc.less_equal, ">": pc.greater, "<": pc.less}
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Comparison:
    """`column operator value`: 1 where it holds, 0 where it does not, missing where the column is missing."""

    column: str
    operator: str
    value: str

    @staticmethod
    def of(label: str, columns: Collection[str] = ()) -> Comparison | None:
        """What a label compares; None if it is one of the columns, or has no operator.

        The column ends at the first operator that has one of `columns` before it, else at the first one. Spaces may
        stand on both sides of the operator.
        """
        operators = [] if label in columns else list(_OPERATOR.finditer(label))
        made = [Comparison._at(label, operator) for operator in operators]
        return next((c for c in made if c.column in columns), made[0] if made else None)

    @staticmethod
    def _at(label: str, operator: re.Match[str]) -> Comparison:
        column, value = label[: operator.start()], label[operator.end() :]
        if column != column.rstrip():
            column, value = column.rstrip(), value.lstrip()
        return Comparison(column, operator[0], value)

    @property
    def is_ordered(self) -> bool:
        """Whether the column has to be of numbers."""
        return self.operator in _ORDERED

    def holds(self, column: pa.Array, file: str) -> pa.Array:
        """bool [n] of values [n]; null where the value is null, NaN or the empty text.

        Of `=` and `!=` numbers are compared as numbers, also those written as text (`1`, `1.0`); true and false, in
        any case, are 1 and 0; all else as text. Raises `ReadError` if `<` and the like are given no number, or text.
        """
        what = f"{file}: label {self.column + self.operator + self.value!r}"
        if not self.value:
            raise ReadError(f"{what}: expected a value after {self.operator}")
        if self.is_ordered:
            limit = _number(self.value)
            if limit is None:
                raise ReadError(f"{what}: expected a number after {self.operator}, got {self.value!r}")
            return _ORDERED[self.operator](_numbers(column, what), float(limit))
        return self._equal(column) if self.operator == "=" else pc.invert(self._equal(column))

    def _equal(self, column: pa.Array) -> pa.Array:
        texts = _no_nan(column).cast(pa.string()).dictionary_encode()
        wanted = _number(self.value)
        equal = [
            None if text == "" else text == self.value or (wanted is not None and _number(text) == wanted)
            for text in texts.dictionary.to_pylist()
        ]
        return pa.array(equal, pa.bool_()).take(texts.indices)


def _number(text: str) -> int | float | None:
    """A whole number keeps all its digits."""
    if _NUMBER.fullmatch(text) is None:
        return _TRUTH.get(text.strip().lower())
    return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)


def _numbers(column: pa.Array, what: str) -> pa.Array:
    """As float64: no limit that is written for a label is so large that rounding takes a number past it."""
    column = _no_nan(column)
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.if_else(pc.equal(column, ""), None, pc.utf8_trim_whitespace(column))
        return pc.cast(column, pa.float64(), safe=not pa.types.is_integer(column.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise ReadError(f"{what}: expected numbers, got {column.type}: {str(e).splitlines()[0]}") from None


def _no_nan(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column
