"""JSON lines: an object a line, plain or compressed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa

from input_pipeline.readers.files import Source
from input_pipeline.readers.rows import Errors, Types, tables_of
from input_pipeline.readers.text_format import TextFormat

_SHOWN = 200  # characters of a bad line


def tables(source: Source, types: Types, errors: Errors, _text: TextFormat) -> Iterator[tuple[int, pa.Table]]:
    """The rows; a row's number is that of its line, from 0. Empty lines are passed over."""
    return tables_of(source.name, _rows(source, errors), types, errors)


def _rows(source: Source, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with source.open() as stream, io.BufferedReader(stream) as lines:  # pyright: ignore[reportArgumentType]
        number = 0
        while True:
            with source.named_errors("JSON lines", number):
                line = lines.readline()
            if not line:
                return
            if line.strip():
                try:
                    row = decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as e:
                    text = line.decode("utf-8", "replace").rstrip()
                    errors.reject(source.name, number, f"not a JSON object: {e}: {text[:_SHOWN]!r}", text)
                else:
                    yield number, row
            number += 1
