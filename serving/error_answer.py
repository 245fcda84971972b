"""What a client is told when its request fails: one line of bounded length."""

from __future__ import annotations

from msgspec import Struct

LONGEST_VALUE = 80  # characters of a value in an error


LONGEST_MESSAGE = 600  # of an error


class ErrorAnswer(Struct):
    """Answer with a 4xx or 5xx status."""

    error: str


def shorten(text: str) -> str:
    """The start of a long text."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def one_line(message: str) -> str:
    """An error as one line of bounded length that any client can decode; of a long one, both ends are kept."""
    line = " ".join(message.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[: LONGEST_MESSAGE - 200]} ... {line[-200:]}"
