"""What was kept aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.prepare.quarantine import QUARANTINE
from input_pipeline.readers import STRICT, Chunk, Errors, arrow_types, read
from tests.support import tiny

TYPES = arrow_types(tiny.SCHEMA)


def kept_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / QUARANTINE).read_text().splitlines()]


def chunks_of(source: Path, errors: Errors = STRICT) -> Iterator[Chunk]:
    return (Chunk("train", file, row, table) for file, row, table in read(source, TYPES, errors))
