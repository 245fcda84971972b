"""Names, globs, directories and fsspec URLs to files of known format, and a file to a stream of its bytes."""

from __future__ import annotations

import glob
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_COMPRESSED = ("csv", "tsv", "jsonl", "ndjson", "tfrecord")
_NAME = re.compile(r"\.(\w+)(?:-\d+-of-\d+)?(\.gz|\.zst)?$")  # TFDS numbers its shards after the suffix


class ReadError(ValueError):
    """A source that cannot be read. The message begins with the file."""


@dataclass(frozen=True)
class Source:
    """One file: its name as it is told to people, its format, the file system of a remote one, its compression."""

    name: str
    format: str
    remote: Any = None  # fsspec file system
    compression: str | None = None

    @contextmanager
    def open(self) -> Iterator[pa.NativeFile]:
        """The file's bytes, decompressed."""
        if self.remote is None:
            with pa.input_stream(self.name, compression=self.compression) as stream:
                yield stream
            return
        with (
            self.remote.open(self.name, "rb") as handle,
            pa.input_stream(handle, compression=self.compression) as stream,
        ):
            yield stream

    @contextmanager
    def seekable(self) -> Iterator[Any]:
        """The file for a reader that jumps about in it: its path, or an open remote file."""
        if self.remote is None:
            yield self.name
            return
        with self.remote.open(self.name, "rb") as handle:
            yield handle

    @contextmanager
    def local(self) -> Iterator[str]:
        """The path of the file, of a copy if it is remote."""
        if self.remote is None:
            yield self.name
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = str(Path(folder) / "copy")
            self.remote.get_file(self.name, copy)
            yield copy

    @contextmanager
    def named_errors(self, kind: str, row: int) -> Iterator[None]:
        """Turns errors of a library, which do not name the file, into a `ReadError`."""
        try:
            yield
        except ReadError:
            raise
        except (pa.ArrowException, OSError, EOFError, RuntimeError, ValueError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise ReadError(f"{self.name}: not readable as {kind} from row {row} on: {reason}") from e


def list_sources(text: str, formats: Sequence[str]) -> list[Source]:
    """The data files of a file name, glob, directory or URL, sorted. Raises `ReadError` if there are none."""
    remote, names, is_directory = _remote_names(text) if "://" in text else _local_names(text)
    suffixes = ", ".join(f".{name}" for name in formats)
    found = [(name, _source(name, formats, remote)) for name in sorted(names)]
    if is_directory:
        sources = [source for _, source in found if source is not None]
        if not sources:
            raise ReadError(f"{text}: the directory holds no {suffixes} file")
        return sources
    if not found:
        raise ReadError(f"{text}: no such file, and no file matches it as a pattern")
    for name, source in found:
        if source is None:
            raise ReadError(f"{name}: unknown format, expected a name that ends in {suffixes}")
    return [source for _, source in found if source is not None]


def first_below(source: str | Path, *names: str) -> str | None:
    """The first of these files that is in a directory, or below a URL; None without any. Raises `ReadError`."""
    paths = [f"{str(source).rstrip('/')}/{name}" for name in names]
    if "://" not in str(source):
        return next((path for path in paths if Path(path).is_file()), None)
    try:
        system, _ = fsspec.core.url_to_fs(str(source))
        return next((path for path in paths if system.isfile(path)), None)
    except (OSError, ImportError, ValueError) as e:
        raise ReadError(f"{source}: cannot be listed: {e}") from e


def _source(name: str, formats: Sequence[str], remote: Any) -> Source | None:
    match = _NAME.search(name)
    if match is None or match[1] not in formats or (match[2] and match[1] not in _COMPRESSED):
        return None
    return Source(name, match[1], remote, _COMPRESSIONS.get(match[2]))


def _local_names(text: str) -> tuple[None, list[str], bool]:
    path = Path(text)
    if path.is_dir():
        inside = ((p, p.relative_to(path).parts) for p in path.rglob("*") if p.is_file())
        return None, [str(p) for p, parts in inside if not _hidden(parts)], True
    if path.is_file():
        return None, [text], False
    return None, [name for name in glob.glob(text, recursive=True) if Path(name).is_file()], False


def _remote_names(url: str) -> tuple[Any, list[str], bool]:
    try:
        system, path = fsspec.core.url_to_fs(url)
        if system.isdir(path):
            found, depth = system.find(path), len(path.strip("/").split("/")) if path.strip("/") else 0
            kept = [p for p in found if not _hidden(p.strip("/").split("/")[depth:])]
            return system, [system.unstrip_protocol(p) for p in kept], True
        names = [path] if system.isfile(path) else [p for p in system.glob(path) if system.isfile(p)]
        return system, [system.unstrip_protocol(p) for p in names], False
    except (OSError, ImportError, ValueError) as e:
        raise ReadError(f"{url}: cannot be listed: {e}") from e


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) for part in parts)


def partitions(names: Sequence[str]) -> dict[str, dict[str, str | int]]:
    """The `key=value` folders of each file's path."""
    found: dict[str, dict[str, str | int]] = {}
    for name in names:
        pairs = (part.partition("=") for part in name.split("/")[:-1])
        found[name] = {key: value for key, equals, value in pairs if equals}
    for key in {k for values in found.values() for k in values}:
        having = [values for values in found.values() if key in values]
        if all(_is_int(values[key]) for values in having):
            for values in having:
                values[key] = int(values[key])
    return found


def _is_int(value: str | int) -> bool:
    text = str(value)
    return text == str(int(text)) if text.removeprefix("-").isdecimal() else False
