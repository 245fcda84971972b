"""One run writes a working directory at a time. A lock that the system drops with its process, however that ends."""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tt_jax.parallel.processes import gather, is_first

LOCK = ".lock"


class WorkdirInUseError(ValueError):
    """Another run writes the working directory. The message says which."""


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds a working directory, which is created if need be. Of many processes of a run the first one holds the lock.

    Raises `WorkdirInUseError`, in all processes, if another run holds it: on this host, or on another one that shares
    the file system, whose locks NFS passes on.
    """
    handle, held = None, ""
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        handle, held = _take(workdir / LOCK)
    try:
        if holder := gather(held)[0]:
            raise WorkdirInUseError(f"{workdir}: a run is writing it: {holder}; wait for it, or use another --workdir")
        yield
    finally:
        if handle is not None:
            (workdir / LOCK).unlink(missing_ok=True)
            os.close(handle)


def _take(path: Path) -> tuple[int | None, str]:
    """The open and locked file, which names this process; or None, and what the file of the holder says."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # NFS locks for writing what is open for writing
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            said = os.read(handle, 1000).decode(errors="replace").strip()
            os.close(handle)
            return None, said or "it has just begun"
        except OSError as e:  # a file system without locks
            raise OSError(e.errno, f"cannot be locked: {e.strerror}", str(path)) from e
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)  # its holder has ended, and taken the file with it
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    os.ftruncate(handle, 0)
    with suppress(OSError):  # a full disk, which what is written next will tell of
        os.write(handle, f"host {socket.gethostname()}, process {os.getpid()}, since {since}\n".encode())
    return handle, ""
