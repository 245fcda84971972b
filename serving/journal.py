"""Changes of ads that last: each set of them is a delta in a directory, complete on disk before it is answered.

A record is named by its place in the sequence of its index, `000000000001` is the first. It is published by rename, so
a process killed at any moment leaves the records of all that was answered, and none that is half written. They are
replayed at the start, after the deltas. A journal belongs to one index and, at a time, to one process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from serving.changes import IndexVersion
from serving.delta import Delta, DeltaError
from tt_jax.publish import sync

_DIGITS = 12  # so that names sort
_held: dict[tuple[int, int], int] = {}  # device and inode of a journal -> descriptor with its lock, until the end


def read_journal(directory: Path, applied: Collection[IndexVersion]) -> list[Delta]:
    """The records in order, without those that lead to versions `applied` already, which may be deltas too.

    Makes the directory, and keeps other processes from it as long as this one lives. Raises `DeltaError` naming a
    record that is not as it was written, or a directory that another process holds, and OSError.
    """
    if not directory.exists():
        directory.mkdir(parents=True)
        sync(directory.parent)
    _hold(directory)
    return [delta for delta in Delta.load_all(directory) if delta.after not in applied]


def record(directory: Path, delta: Delta) -> Path:
    """Writes a change, which lasts once this returns. Returns its place; it is not there if this raises.

    Raises `DeltaError` if a record has this place, and OSError.
    """
    path = directory / f"{delta.after.sequence:0{_DIGITS}}"
    if path.exists():
        raise DeltaError(
            f"{path}: there is such a record, which is not served; nothing can be changed before a restart"
        )
    try:
        delta.save(path)
    except OSError:
        if path.exists():  # renamed, but perhaps not on disk
            withdraw(path)
        raise
    return path


def withdraw(path: Path) -> None:
    """Removes the last record, of a change that was not made after all."""
    hidden = path.with_name(f".{path.name}.withdrawn")
    path.rename(hidden)  # at once; its files may go one by one
    sync(path.parent)
    shutil.rmtree(hidden)


def _hold(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) in _held:
        os.close(descriptor)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it with the process
    except BlockingIOError:
        os.close(descriptor)
        raise DeltaError(f"{directory}: another process has this journal") from None
    _held[status.st_dev, status.st_ino] = descriptor
