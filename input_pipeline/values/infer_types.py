"""Types of text columns that nothing else types, from all cells of a file."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.values.parse_text import NO_NUMBER

_WHOLE = r"^-?[0-9]+$"
_NOT_A_NUMBER = r"^[+]|^-?0[0-9xX]"  # as `+1`, `007`: written otherwise than a number is, so that they are names
_FEW = 1000  # cells
_TRUTH = pa.array(["true", "false", "True", "False", "TRUE", "FALSE"])


def types_of_texts(batches: Iterable[pa.RecordBatch], missing: tuple[str, ...]) -> dict[str, pa.DataType]:
    """The type of each column of some batches of text, of all their cells but the missing ones.

    int64 if all are whole numbers as a number is written; uint64 if only that holds them; float64 if they are numbers;
    bool if they are true or false; null if there is none; else string: digits with a zero in front, 20 digits and more.
    A column of numbers that float64 would round, whole ones of 2^53 and more beside fractions, is of strings too.
    """
    columns: dict[str, _Cells] = {}
    for batch in batches:
        for name, texts in zip(batch.schema.names, batch.columns, strict=True):
            columns.setdefault(name, _Cells(missing)).add(texts)
        if columns and all(cells.is_text for cells in columns.values()):
            break
    return {name: cells.type for name, cells in columns.items()}


class _Cells:
    """What the cells of a column are, so far."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        self._missing = pa.array([*NO_NUMBER, *missing])
        self.is_text = False
        self._any = self._truth = self._fraction = self._negative = self._large = self._unsigned = False

    def add(self, cells: pa.Array) -> None:
        """Adds cells, string or binary `[n]`; most text shows that it is text in the first few."""
        for some in (cells.slice(0, _FEW), cells.slice(_FEW)):
            if not self.is_text and len(some):
                self._add_cells(some)

    def _add_cells(self, cells: pa.Array) -> None:
        try:
            texts = cells.cast(pa.string())
        except pa.ArrowInvalid:  # not UTF-8: reported where it is read
            self.is_text = True
            return
        if self._any and not self._truth and not self._fraction and (numbers := _cast(texts, pa.int64())) is not None:
            self.is_text = not self._add_numbers(numbers) or _has_odd_numbers(texts)
            return
        texts = pc.utf8_trim_whitespace(texts)
        kept = texts.filter(pc.invert(pc.fill_null(pc.is_in(texts, self._missing), True)))
        kept = kept.drop_null()
        if len(kept):
            self.is_text = not self._add(kept)
            self._any = True

    def _add(self, texts: pa.Array) -> bool:
        """Whether all cells may still be numbers, or all be true or false."""
        if self._truth or not self._any:
            truth = pc.all(pc.is_in(texts, _TRUTH)).as_py()
            if truth or self._truth:
                self._truth = truth
                return truth
        whole = texts
        if self._fraction or _cast(texts, pa.int64()) is None:
            if _cast(texts, pa.float64()) is None:
                return False
            whole = texts.filter(pc.invert(pc.match_substring(texts, ".")))
            whole = whole.filter(pc.match_substring_regex(whole, _WHOLE))
            self._fraction |= len(whole) < len(texts)
        return (not len(whole) or self._add_whole(whole)) and not _has_odd_numbers(texts)

    def _add_numbers(self, numbers: pa.Array) -> bool:
        """Of whole numbers of 64 bits."""
        ends = pc.min_max(numbers).as_py()
        if ends["min"] is not None:
            self._negative |= ends["min"] < 0
            self._large |= max(ends["max"], -ends["min"]) >= 2**53
        return not (self._fraction and self._large)

    def _add_whole(self, texts: pa.Array) -> bool:
        numbers = _cast(texts, pa.int64())
        if numbers is not None:
            return self._add_numbers(numbers)
        self._unsigned = self._large = True
        return _cast(texts, pa.uint64()) is not None and not self._fraction

    @property
    def type(self) -> pa.DataType:
        if self.is_text or (self._unsigned and self._negative) or (self._fraction and self._large):
            return pa.string()
        if not self._any:
            return pa.null()
        if self._truth:
            return pa.bool_()
        if self._fraction:
            return pa.float64()
        return pa.uint64() if self._unsigned else pa.int64()


def _has_odd_numbers(texts: pa.Array) -> bool:
    """Whether some of the numbers are written otherwise than a number is."""
    maybe = pc.or_(pc.starts_with(texts, "0"), pc.or_(pc.starts_with(texts, "-0"), pc.starts_with(texts, "+")))
    return pc.any(pc.match_substring_regex(texts.filter(maybe), _NOT_A_NUMBER)).as_py() or False


def _cast(texts: pa.Array, to: pa.DataType) -> pa.Array | None:
    try:
        return texts.cast(to)
    except pa.ArrowInvalid:
        return None
