"""Compiled programs kept in a directory, so that the next start of a service need not compile them again.

JAX reads and writes the files; what is here makes sure that a start finds only those that are as they were when a
start was over. Their content is run, so the directory is as private as the program itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import jax

from serving.log_events import log_event
from tt_jax.io.publish import MANIFEST, Format, describe_files, write_json
from tt_jax.io.strict_json import dataclass_from_dict, parse_json
from tt_jax.io.verify import FileEntry

_MOST_BYTES = 256 * 2**20  # a start needs 2 MB for each size of index


FORMAT = Format("tt-jax compile cache", (1,))


@dataclass(frozen=True)
class _Kept:
    files: tuple[FileEntry, ...]
    format: str = FORMAT.name
    format_version: int = FORMAT.reads[-1]


class CompileCache:
    """`directory`, which is made if it is not there: below it a directory for each kind of processor.

    To be made before anything is compiled. Raises ValueError if others may write to the directory, and OSError.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(directory)
        self._files = directory / _processor()
        self._files.mkdir(mode=0o700, exist_ok=True)
        self._drop_damaged()
        jax.config.update("jax_compilation_cache_dir", str(self._files.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # only whole programs
        self._not_written = False
        logging.getLogger("py.warnings").addFilter(self._is_other)

    def keep(self) -> None:
        """Has the next start trust what is compiled by now. A failure is only logged: it costs only time.

        If JAX could not write a program, what is there of it cannot be told from a whole one: then the next start has
        what this one found.
        """
        try:
            if self._not_written:
                self._drop_damaged()
                self._not_written = False
                return
            self._drop_oldest()
            write_json(self._files / MANIFEST, dataclasses.asdict(_Kept(describe_files(self._files))))
        except (OSError, ValueError) as e:
            log_event("compile_cache", logging.WARNING, outcome="failed", reason=str(e))

    def _is_other(self, record: logging.LogRecord) -> bool:
        """A filter of warnings. That JAX could not write a program comes as one, and does not say where."""
        _, matched, reason = record.getMessage().partition("Error writing persistent compilation cache entry ")
        if matched:
            self._not_written = True
            reason = f"{self._files}: a compiled program is not kept: {reason.splitlines()[0]}"
            log_event("compile_cache", logging.WARNING, outcome="failed", reason=reason)
        return not matched

    def _drop_damaged(self) -> None:
        """JAX writes in place: a kill leaves a part of a file, which it would neither read nor replace."""
        kept = {entry.path: entry for entry in self._listed()}
        for entry in describe_files(self._files):
            if entry != kept.get(entry.path):
                (self._files / entry.path).unlink(missing_ok=True)

    def _listed(self) -> tuple[FileEntry, ...]:
        path = self._files / MANIFEST
        try:
            data = parse_json(path.read_bytes(), str(path), ValueError)
            if problem := FORMAT.problem(data):
                log_event("compile_cache", logging.WARNING, outcome="emptied", reason=f"{path}: {problem}")
                return ()
            return dataclass_from_dict(_Kept, data, str(path), ValueError).files
        except (FileNotFoundError, ValueError):
            return ()

    def _drop_oldest(self) -> None:
        paths = sorted((p for p in self._files.iterdir() if p.name != MANIFEST), key=lambda p: p.stat().st_mtime)
        left = sum(p.stat().st_size for p in paths) - _MOST_BYTES
        for path in paths:
            if left <= 0:
                break
            left -= path.stat().st_size
            path.unlink()


def _require_private(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ValueError(
            f"{directory}: what is in it is run: expected a directory that belongs to user {os.geteuid()} and that no "
            f"one else can write, got one of user {status.st_uid} with mode {status.st_mode & 0o777:o}"
        )


def _processor() -> str:
    """Of programs that are the same to JAX, XLA makes code that runs where it was compiled; JAX's keys may not tell."""
    told = [platform.machine(), platform.processor()]
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
