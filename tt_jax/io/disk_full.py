"""A disk that takes no more, told in one line: what cannot be written, why, and what to do, whatever a library says."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REASONS = {  # what the system says -> what to do
    errno.ENOSPC: "; make room, then the same command again",
    errno.EDQUOT: "; make room, then the same command again",
    errno.EFBIG: "",
}


class DiskFullError(OSError):
    """A file that cannot be written for lack of space. The message is whole."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is raised inside for lack of space becomes a `DiskFullError` that names what is written, or the file in it.

    Libraries that write by themselves (Arrow, TensorStore) have errors of their own, and only words in them.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as e:
        number = e.errno if isinstance(e, OSError) else None
        for known, advice in _REASONS.items():
            if number == known or (number is None and os.strerror(known) in str(e)):
                file = e.filename if isinstance(e, OSError) and isinstance(e.filename, str) else path
                said = f"[Errno {known}] {os.strerror(known)}"
                raise DiskFullError(f"{file}: cannot be written: {said}{advice}") from e
        raise
