"""Changes of ads that last: each set of them is a delta in a directory, complete on disk before it is answered.

    JOURNAL/journal.json                         the version of this layout
    JOURNAL/<index_id>/000000000129              `Delta`: a record, named by its place in the sequence of its index
    JOURNAL/<index_id>/compacted-000000000128    `Compacted`: all of that index up to there, as one

An index has its own folder, so that a journal serves every index, and one that comes back finds its records. What
appears is published by rename, and what a compaction makes needless goes after it: a process killed at any moment
leaves all that was answered, and nothing that is half written. The records are replayed at the start, after the
deltas. One process at a time has a journal.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from serving.index.ad_table import AdTable
from serving.index.change_set import ChangeSet
from serving.index.compaction import Compacted, between, compact, net
from serving.index.delta import Delta, DeltaError, DeltaManifest
from tt_jax.io.publish import Format, read_published, sync, write_json
from tt_jax.io.strict_json import parse_json

_DIGITS = 12  # so that names sort
_REMOVED, _PARTIAL = ".removed", ".partial"  # ends of hidden names: ours, and that of `published_directory`
_RECORD, _INDEX = re.compile(r"(compacted-)?\d{12}"), re.compile(r"[0-9a-f]{64}")
LAYOUT = "journal.json"
FORMAT = Format("tt-jax journal", (1, 2))  # 1 had no folders, and then no layout file
_held: dict[tuple[int, int], int] = {}  # device and inode of a journal -> descriptor with its lock, until the end
_files = threading.RLock()  # one thread at a time reads or removes what is there


@dataclass(frozen=True)
class Records:
    """What a journal has of one index: `compacted`, and the `deltas` after it, in their order."""

    compacted: Compacted | None
    deltas: list[Delta]


def read_journal(directory: Path, index_id: str) -> Records:
    """The records of an index.

    Makes the directory, and keeps other processes from it as long as this one lives. Records of a version of tt-jax
    that had no folders are moved into that of their index. Raises `DeltaError` naming a record that is not as it was
    written, a layout of a version that is not read, or a directory that another process holds, and OSError.
    """
    if not directory.exists():
        directory.mkdir(parents=True)
        sync(directory.parent)
    _hold(directory)
    with _files:
        _require_layout(directory)
        _sort_into_folders(directory)
        if not (directory / LAYOUT).exists():
            write_json(directory / LAYOUT, FORMAT.stamp)
            sync(directory)
        return _read(_folder(directory, index_id))


def peek(directory: Path, index_id: str) -> Records:
    """As `read_journal`, of a journal that another process may have. Raises also if that one compacts it meanwhile."""
    with _files:
        _require_layout(directory)
        return _read(_folder(directory, index_id))


def record(directory: Path, delta: Delta) -> Path:
    """Writes a change, which lasts once this returns. Returns its place; it is not there if this raises.

    Raises `DeltaError` if a record has this place, and OSError.
    """
    folder = _folder(directory, delta.after.index_id)
    path = folder / f"{delta.after.sequence:0{_DIGITS}}"
    if not folder.exists():
        folder.mkdir()
        sync(directory)
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
    _remove([path])


def net_of(directory: Path, deltas: Path | None, ads: AdTable) -> ChangeSet | None:
    """The net of all changes of the index up to the version of these ads; None if there are none.

    Raises as `compact_records`.
    """
    with _files:
        records = _read(_folder(directory, ads.version.index_id), ads.version.sequence)
    way = between(records.compacted, [*records.deltas, *_load_all(deltas)], ads.version)
    sets = [] if records.compacted is None else [records.compacted.changes]
    sets += [delta.changes for delta in way]
    return net(sets) if sets else None


def compact_records(directory: Path, deltas: Path | None, ads: AdTable, at_least: int) -> int:
    """Compacts the records that lead to the version of these ads if there are that many; how many it compacted.

    Removes what an earlier compaction was to remove. `deltas`: the directory of those that came before the journal.
    Raises `DeltaError` naming a record that is not as it was written, or `PublishError`, and OSError; the records are
    as they were then.
    """
    folder = _folder(directory, ads.version.index_id)
    with _files:
        newest, records = _names(folder)
        records = [path for path in records if int(path.name) <= ads.version.sequence]
        if len(records) >= at_least:
            stored = _read(folder, ads.version.sequence)
            made = compact(stored.compacted, [*stored.deltas, *_load_all(deltas)], ads)
            made.save(newest := folder / f"compacted-{made.version.sequence:0{_DIGITS}}")
        if newest:
            _remove(_needless(folder, newest))
        return len(records) if len(records) >= at_least else 0


def others(directory: Path, index_id: str) -> dict[str, int]:
    """Other indexes that have records -> sets of changes that these lead to; the last changed index first."""
    sequences: dict[str, int] = {}
    for folder in _folders(directory):
        if folder.name != index_id:
            records = [path.name for path in folder.iterdir() if _RECORD.fullmatch(path.name)]
            sequences |= {folder.name: max(map(_sequence, records))} if records else {}
    return sequences


def prune(directory: Path, index_id: str, keep: int) -> list[str]:
    """Removes the records of all indexes but this one and the `keep` others that changed last; the indexes removed.

    Raises OSError.
    """
    with _files:
        old = [folder for folder in _folders(directory) if folder.name != index_id][keep:]
        _remove([*old, *directory.glob(f".*{_REMOVED}")])
    return [folder.name for folder in old]


def _folder(directory: Path, index_id: str) -> Path:
    if not _INDEX.fullmatch(index_id):
        raise DeltaError(f"{directory}: a journal has records of an index_id of 64 digits, got {index_id[:80]!r}")
    return directory / index_id


def _folders(directory: Path) -> list[Path]:
    """Of all indexes, the last changed first."""
    folders = [path for path in directory.iterdir() if _INDEX.fullmatch(path.name)]
    return sorted(folders, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _sequence(name: str) -> int:
    return int(name[-_DIGITS:])


def _names(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest compacted record, and the records after it in their order. Hidden names do not count.

    Raises `DeltaError` for any other name.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    for path in paths:
        if not _RECORD.fullmatch(path.name):
            raise DeltaError(f"{path}: expected a record of the journal, such as {'1'.zfill(_DIGITS)}")
    newest = max((path for path in paths if not path.name.isdigit()), default=None)
    last = _sequence(newest.name) if newest else 0
    return newest, [path for path in paths if path.name.isdigit() and int(path.name) > last]


def _needless(folder: Path, newest: Path) -> list[Path]:
    """What the newest compacted record makes needless, and what a killed process was writing or removing."""
    left = [path for path in folder.glob(".*") if path.name.endswith((_REMOVED, _PARTIAL))]
    paths = [path for path in folder.iterdir() if not path.name.startswith(".") and path != newest]
    known = {path: path.name for path in paths} | {path: path.name.split(".")[1] for path in left}
    return [path for path, name in known.items() if _sequence(name) <= _sequence(newest.name)]


def _read(folder: Path, last: int | None = None) -> Records:
    """Raises `DeltaError`. `last`: the sequence of the last record that is wanted."""
    newest, paths = _names(folder)
    compacted = newest and Compacted.load(newest)
    deltas = [Delta.load(path) for path in paths if last is None or int(path.name) <= last]
    versions = {delta.path: delta.after for delta in deltas} | ({newest: compacted.version} if compacted else {})
    for path, version in versions.items():
        if path and (version.index_id, version.sequence) != (folder.name, _sequence(path.name)):
            raise DeltaError(f"{path}: it leads to {version}, which its place does not say")
    return Records(compacted, deltas)


def _require_layout(directory: Path) -> None:
    """Raises `DeltaError` for a version that is not read. A layout without a file is of the first."""
    path = directory / LAYOUT
    if path.exists() and (problem := FORMAT.problem(parse_json(path.read_bytes(), str(path), DeltaError))):
        raise DeltaError(f"{path}: {problem}")


def _load_all(deltas: Path | None) -> list[Delta]:
    return [] if deltas is None else Delta.load_all(deltas)


def _sort_into_folders(directory: Path) -> None:
    """Moves records that are in the directory itself, one by one; a kill leaves the rest for the next start."""
    for path in sorted(path for path in directory.iterdir() if _RECORD.fullmatch(path.name)):
        folder = _folder(directory, read_published(path, DeltaManifest, DeltaError).index_id)
        if (folder / path.name).exists():
            raise DeltaError(f"{path}: expected no record of this place in {folder} too")
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
        sync(folder)
        sync(directory)


def _remove(paths: list[Path]) -> None:
    """Directories of one folder, each from one moment to the next; what a kill leaves of one has a hidden name."""
    hidden = [path if path.name.startswith(".") else path.with_name(f".{path.name}{_REMOVED}") for path in paths]
    for path, away in zip(paths, hidden, strict=True):
        if path != away:
            shutil.rmtree(away, ignore_errors=True)  # of a killed process
            path.rename(away)
    for path in {path.parent for path in paths}:
        sync(path)
    for path in hidden:
        shutil.rmtree(path)


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
