"""JSON: an object a line, or one array of objects, plain or compressed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pyarrow as pa

from input_pipeline.sources.detect_format import JSON_ARRAY
from input_pipeline.sources.source import Source
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import Errors, Types
from input_pipeline.values.python_rows import tables_of

_SHOWN = 200  # characters of a bad line
_BOM = b"\xef\xbb\xbf"
_SPACED = (b" :", b"\t:", b"\n:", b"\r:")  # a colon that does not follow a key at once
_NOT_FINITE = re.compile(rb"[:,\[]\s*-?(NaN|Infinity)\b")  # as Python writes them
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def tables(source: Source, types: Types, errors: Errors, text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows; a row's number is that of its line or its place in the array, from 0. Empty lines are passed over.

    The text of an array is in memory as a whole.
    """
    texts = _array(source) if source.format == JSON_ARRAY else _lines(source)
    return tables_of(source.name, _rows(source, texts, errors), types, errors, text)


def _lines(source: Source) -> Iterator[bytes]:
    with source.open() as stream, io.BufferedReader(stream) as lines:  # pyright: ignore[reportArgumentType]
        number = 0
        while True:
            with source.named_errors("JSON lines", number):
                line = lines.readline()
            if not line:
                return
            yield line if number else line.removeprefix(_BOM)
            number += 1


def _array(source: Source) -> Iterable[bytes]:
    with source.named_errors("a JSON array", 0), source.open() as stream:
        text = stream.read().removeprefix(_BOM)
        try:
            elements = _elements(text)
        except msgspec.DecodeError:
            if _NOT_FINITE.search(text):
                return [json.dumps(row).encode() for row in _with_not_finite(text, list)]
            raise
    return map(bytes, elements)


def _rows(source: Source, texts: Iterable[bytes], errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(texts):
        if text.strip():
            try:
                row = _object(text)
            except (msgspec.DecodeError, ValueError, RecursionError) as e:
                shown = text.decode("utf-8", "replace").rstrip()
                errors.reject(source.name, number, f"not a JSON object: {e}: {shown[:_SHOWN]!r}", shown)
            else:
                yield number, row


def _object(text: bytes) -> dict[str, Any]:
    """Raises ValueError, also for a key that comes twice, of which the decoder would keep the last one."""
    try:
        row = _decode(text)
    except msgspec.DecodeError:
        if _NOT_FINITE.search(text):
            return _with_not_finite(text, dict)
        raise
    # Keys are as many as colons; or as many as `":` where no space is between. More of these may be within values.
    if text.count(b":") != len(row) and (text.count(b'":') != len(row) or any(colon in text for colon in _SPACED)):
        json.loads(text, object_pairs_hook=_require_different)
    return row


def _with_not_finite(text: bytes, kind: type) -> Any:
    """JSON that Python's parser reads, with NaN and Infinity. Raises ValueError."""
    value = json.loads(text, object_pairs_hook=_require_different)
    if not isinstance(value, kind):
        raise ValueError(f"expected {'an object' if kind is dict else 'an array'}, got {type(value).__name__}")
    return value


def _require_different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for i, n in enumerate(names) if n in names[:i])!r} comes twice")
    return row
