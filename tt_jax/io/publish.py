"""Directories that exist completely or not at all, and whose every byte is checked before use.

A published directory is written under a hidden name beside its place, synced to disk and renamed. Bundles and indexes
have a `manifest.json` with size and SHA-256 of every other file and a digest of itself, so one changed, missing or
added byte is found. It is a flat frozen dataclass with a field `files: tuple[FileEntry, ...]`, as canonical JSON.

Every stored thing tells its `format` and `format_version`, by which a later version reads or refuses it: `Format`.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import reprlib
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from tt_jax.io.disk_full import DiskFullError, writing
from tt_jax.io.strict_json import dataclass_from_dict, parse_json
from tt_jax.io.verify import FileEntry, sha256_of_all, verify_files

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16 * 2**20


class PublishError(ValueError):
    """A directory that cannot be published where it was asked for."""


@dataclass(frozen=True)
class Format:
    """A kind of stored thing.

    Attributes:
      name: of the kind.
      reads: its versions that are read, ascending; the last one is written.
    """

    name: str
    reads: tuple[int, ...]

    @property
    def stamp(self) -> dict[str, Any]:
        """What a thing that is written tells of itself: `format` and `format_version`."""
        return {"format": self.name, "format_version": self.reads[-1]}

    def problem(self, fields: Any) -> str:
        """Why a thing with these fields is not read, on one line; "" if it is. One that tells no version is of 1."""
        if not isinstance(fields, dict):
            return ""  # what reads the fields says so
        name, version = fields.get("format", self.name), fields.get("format_version", 1)
        if name == self.name and version in self.reads:
            return ""
        reads = " or ".join(map(str, self.reads))
        return f"expected {self.name!r} version {reads}, found {reprlib.repr(name)} version {reprlib.repr(version)}"


class PublishedManifest(Protocol):
    """What the manifest of a published directory has at least."""

    FORMAT: ClassVar[Format]

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every other file."""
        ...


M = TypeVar("M", bound=PublishedManifest)


@contextmanager
def published_directory(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty directory that becomes `out` when the block ends, and is removed if the block raises.

    It is `.<name>.partial` beside `out`, which no reader looks at. What a killed run left there goes when the next one
    starts. Raises `PublishError` if `out` exists or another run is writing it, `DiskFullError` for lack of space.
    """
    out = Path(out)
    partial = out.with_name(f".{out.name}.partial")
    require_absent(out)
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)  # the system drops a lock with its process: a killed run leaves nothing locked
    try:
        _lock(lock, partial, out)
        try:
            for path in partial.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            with writing(out):
                yield partial
                sync_tree(partial)
            require_absent(out)
            os.rename(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(out.parent)
    finally:
        os.close(lock)


def _lock(lock: int, partial: Path, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), partial.stat()):
            raise FileNotFoundError  # what was opened has been published or removed since, and made anew
    except (BlockingIOError, FileNotFoundError):
        raise PublishError(f"{out}: another run is writing it, in {partial}") from None


def require_absent(out: Path) -> None:
    """Raises `PublishError` if there is something at `out`."""
    if out.exists() or out.is_symlink():
        raise PublishError(f"{out}: already exists; remove it, or choose another name")


def sync(path: Path) -> None:
    """Has a file, or the names in a directory, on disk when it returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with writing(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """Has a directory and everything below it on disk when it returns."""
    for path in [*directory.rglob("*"), directory]:
        sync(path)


def write_json(path: Path, data: Any) -> None:
    """Writes a file that is there whole or not at all, over the one that may be there. Raises OSError, naming it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            temporary.write_text(json.dumps(data, indent=1) + "\n")
            sync(temporary)
            temporary.replace(path)
    except DiskFullError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {e}") from e


def write_digested(path: Path, fields: dict[str, Any], known: Format) -> None:
    """As `write_json`, with the version and a digest, which `read_digested` checks."""
    stamped = {**known.stamp, **fields}
    write_json(path, {**stamped, "digest": _digest(stamped)})


def read_digested(path: Path, known: Format, error: type[ValueError]) -> Any:
    """What `write_digested` wrote, without version and digest, neither of which the first version wrote.

    Raises `error`, naming the file, where it is not JSON, was changed, or is of a version that is not read.
    """
    fields = parse_json(path.read_bytes(), str(path), error)
    if not isinstance(fields, dict):
        return fields
    if problem := known.problem(fields):  # first: another version may have another digest
        raise error(f"{path}: {problem}")
    if "digest" in fields and fields.pop("digest") != _digest(fields):
        raise error(f"{path}: its digest is not that of its content; it was changed after it was written")
    return {key: value for key, value in fields.items() if key not in known.stamp}


def describe_files(directory: Path, but: Collection[str] = ()) -> tuple[FileEntry, ...]:
    """Every file below the directory but its manifest and those of `but`, by path.

    Raises `PublishError` on anything but plain files.
    """
    paths = [path for path in _walk(directory, PublishError) if path not in but]
    hashes = sha256_of_all([directory / path for path in paths])
    return tuple(FileEntry(p, (directory / p).stat().st_size, h) for p, h in zip(paths, hashes, strict=True))


def write_manifest(directory: Path, manifest: Any) -> None:
    """Writes a manifest dataclass into the directory."""
    (directory / MANIFEST).write_bytes(_canonical(dataclasses.asdict(manifest)))


def manifest_fields(directory: Path, error: type[ValueError]) -> tuple[Any, bool]:
    """The parsed JSON of the manifest of a published directory without its digest, and whether it is as written.

    Raises `error`, naming the file and what is wrong with it.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise error(f"{directory}: expected a directory with a {MANIFEST}, found none")
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise error(f"{path}: expected at most {_MAX_MANIFEST_BYTES} bytes, got {path.stat().st_size}")
    data = path.read_bytes()
    fields = parse_json(data, f"{path}: manifest", error)
    if not isinstance(fields, dict):
        return fields, False
    fields.pop("digest", None)
    return fields, _canonical(fields) == data


def read_published(directory: Path, manifest_type: type[M], error: type[ValueError]) -> M:
    """The manifest of a published directory, once all files have been found to be as it says.

    Raises `error`, naming the file and what is wrong with it, or the version if it is not one that is read.
    """
    path = directory / MANIFEST
    fields, as_written = manifest_fields(directory, error)
    if problem := manifest_type.FORMAT.problem(fields):  # first: another version may have another digest
        raise error(f"{path}: {problem}")
    manifest = dataclass_from_dict(manifest_type, fields, f"{path}: manifest", error, complete=True)
    if not as_written:
        raise error(f"{path}: its digest is not that of its content; it was changed after it was written")
    found = set(_walk(directory, error))
    for name in sorted(found ^ {entry.path for entry in manifest.files}):
        raise error(f"{directory / name}: {'not in the manifest' if name in found else 'missing'}")
    verify_files(directory, manifest.files, error)
    return manifest


def _canonical(fields: dict[str, Any]) -> bytes:
    """The only bytes that may hold these fields, their digest included."""
    whole = {**fields, "digest": _digest(fields)}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _digest(fields: dict[str, Any]) -> str:
    body = json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(body.encode()).hexdigest()


def _walk(directory: Path, error: type[ValueError]) -> list[str]:
    """Relative paths of the files below, the manifest left out. Links are refused: what they lead to is not ours."""
    paths = []
    for path in directory.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise error(f"{path}: expected a plain file or a directory")
        if path.is_file() and path != directory / MANIFEST:
            paths.append(path.relative_to(directory).as_posix())
    return sorted(paths)
