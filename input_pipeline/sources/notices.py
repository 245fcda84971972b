"""What a reading tells beside its rows, a line on stderr: each once in a process, those of workers by the driver."""

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
