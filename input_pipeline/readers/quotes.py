"""Whether the quotes of CSV are well formed: a cell that begins with one ends with one.

Arrow takes a quote that begins a cell for the beginning of a cell in quotes, up to the next quote wherever that is: of
text with quotes of its own it would lose quotes, or take many lines for one cell.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from input_pipeline.sources.source import ReadError, Source

_QUOTE = ord('"')
_SHOWN = 80  # characters of a bad line


class QuoteError(ReadError):
    """A quote within a cell in quotes, or a cell in quotes that does not end, of a file with that delimiter."""

    def __init__(self, message: str, delimiter: str = "") -> None:
        super().__init__(message)
        self.delimiter = delimiter


class CheckedQuotes:
    """The bytes of a file, as a stream for Arrow that looks at every quote. `read` raises `QuoteError`.

    In what is well formed the quotes open and close cells in turn, a doubled one does both. Where one of them does not
    stand at an end of a cell, Python's parser reads the whole file once, as a cell without quotes may hold one.
    """

    closed = False

    def __init__(self, source: Source, stream: pa.NativeFile, delimiter: str) -> None:
        self._source, self._stream, self._delimiter = source, stream, delimiter
        self._at_end = np.isin(np.arange(256), list(b'\r\n"' + delimiter.encode()))  # of a cell
        self._tail, self._inside, self._is_checked = b"\n", 0, False

    def read(self, size: int | None = None) -> bytes:
        """The next bytes."""
        block = self._stream.read(size)
        if not (self._is_checked or self._is_well_formed(block)):
            require_well_formed(self._source, self._delimiter)
            self._is_checked = True
        return block

    def close(self) -> None:
        """Leaves the stream to whoever opened it."""

    def _is_well_formed(self, block: bytes) -> bool:
        """Whether all quotes are, up to the one before the last byte."""
        text = self._tail + (block or b"\n")
        bytes_n = np.frombuffer(text, np.uint8)
        at = np.flatnonzero(bytes_n[1:-1] == _QUOTE) + 1
        opening, closing = at[self._inside :: 2], at[1 - self._inside :: 2]
        self._inside = (self._inside + len(at)) % 2
        self._tail = text[-2:]
        good = self._at_end[bytes_n[opening - 1]].all() and self._at_end[bytes_n[closing + 1]].all()
        return bool(good and (block or not self._inside))


def require_well_formed(source: Source, delimiter: str) -> None:
    """Raises `QuoteError` naming the first row that is not."""
    csv.field_size_limit(sys.maxsize)
    with source.open() as stream, io.TextIOWrapper(io.BufferedReader(stream), "utf-8-sig", "replace", "") as text:  # pyright: ignore[reportArgumentType]
        lines, row = _Lines(text), -1  # of 1 for the names
        try:
            for cells in csv.reader(lines, delimiter=delimiter, strict=True):
                row += bool(cells)
        except csv.Error:
            line = lines.last.strip()
            shown = line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
            where = f"row {row}" if row >= 0 else "the names"
            raise QuoteError(
                f"{source.name}: {where}: expected cells with quotes around them to end with a quote, and quotes "
                f"within to be doubled, got {shown!r} in line {lines.number}; if quotes are part of the text, declare "
                "TextFormat(quotes=False)",
                delimiter,
            ) from None


class _Lines:
    """Lines of text, and the last one that was read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.last, self.number = lines, "", 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.last = next(self._lines)
        self.number += 1
        return self.last
