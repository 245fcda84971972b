"""Lines on stderr beside the rows of a reading: each once in a process; the driver prints those of workers."""

from __future__ import annotations

import sys

_lines: dict[str, None] = {}


def report(line: str) -> None:
    """Prints a line, unless this process has."""
    if line not in _lines:
        _lines[line] = None
        print(line, file=sys.stderr)


def reported() -> list[str]:
    """All lines so far."""
    return list(_lines)
