"""Names, globs, directories and fsspec URLs to files of known format; and what of them is left out, and why."""

from __future__ import annotations

import glob
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from input_pipeline.sources.detect_format import (
    FORMATS,
    HEAD_BYTES,
    JSON_ARRAY,
    by_content,
    by_name,
    compression_of,
    holds_no_data,
    is_copy,
    is_hidden,
)
from input_pipeline.sources.source import ReadError, Source
from tt_jax.io.extras import missing_package

MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_TABLE_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}  # the folder in which a table logs its changes


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
      sources: the files to read, sorted by name.
      skipped: what may hold data and is not read as such, with the reason.
      no_data: names of what holds none: documentation, checksums, hidden files, links to what is there already.
      by_content: files whose names do not tell what they are read as, and as what.
    """

    sources: list[Source]
    skipped: dict[str, str]
    no_data: list[str]
    by_content: list[str]


def list_sources(text: str) -> Listing:
    """The files of a file name, a glob, a directory or a URL. Raises `ReadError` if there is no such thing."""
    remote, names, is_file = _remote_names(text) if "://" in text else _local_names(text)
    names, copies = (names, []) if remote else _real_files(names)
    listing = Listing([], {}, copies, [])
    for name in names:
        base = name.rsplit("/", 1)[-1]
        kind = _TABLE_LOGS.get(base) or ("Iceberg" if base.endswith(".metadata.json") else None)
        if kind:
            listing.skipped[name] = f"of {kind}: the table's files also hold rows that were deleted or replaced"
        elif not is_file and (is_hidden(base) or (by_name(base)[0] is None and holds_no_data(base))):
            listing.no_data.append(name)
        else:
            try:
                listing.sources.append(source := _source(name, remote))
                if by_name(base)[0] is None:
                    between = f" divided by {source.delimiter!r}" if source.delimiter else ""
                    listing.by_content.append(f"{name} as {source.format}{between}")
            except ValueError as e:
                listing.skipped[name] = str(e).removeprefix(f"{name}: ")
    if is_file and listing.skipped:
        raise ReadError(f"{text}: unknown format: {listing.skipped[names[0]]}")
    return listing


def _source(name: str, remote: Any) -> Source:
    """Raises ValueError with the reason for which it cannot be read."""
    if remote is None and not os.path.isfile(name):
        raise ValueError("a link to a file that is not there" if os.path.islink(name) else "not a regular file")
    (format_, compression), delimiter = by_name(name), ""
    if format_ is None and is_copy(name):
        raise ValueError("by its name a backup, or not yet whole")
    if format_ is None and compression is None:
        compression = compression_of(Source(name, remote=remote).head(8))
    if format_ in (None, JSON_ARRAY):
        head = Source(name, remote=remote, compression=compression).head(HEAD_BYTES)
        shown, delimiter = by_content(head, len(head) < HEAD_BYTES)
        if format_ is not None and shown not in ("jsonl", JSON_ARRAY) and head.strip():
            raise ValueError("by its name JSON, by its content not")
        format_ = "jsonl" if format_ is not None and shown != JSON_ARRAY else shown
    if compression and not FORMATS[format_].streamed:
        raise ValueError(f"{format_} inside of {compression}: decompress it")
    return Source(name, format_, remote, compression, delimiter)


def first_below(source: str | Path, *names: str) -> str | None:
    """The first of these files that is in a directory, or below a URL; None without any. Raises `ReadError`."""
    paths = [f"{str(source).rstrip('/')}/{name}" for name in names]
    if "://" not in str(source):
        return next((path for path in paths if Path(path).is_file()), None)
    try:
        system, _ = fsspec.core.url_to_fs(str(source))
        return next((path for path in paths if system.isfile(path)), None)
    except (OSError, ImportError, ValueError) as e:
        raise ReadError(f"{source}: cannot be listed: {missing_package(e) or e}") from e


def _local_names(text: str) -> tuple[None, list[str], bool]:
    """`(None, names, whether it is one file)`."""
    if os.path.isdir(text):
        return None, list(_below(text.rstrip("/") or "/")), False
    if os.path.isfile(text):
        return None, [text], True
    matches = glob.glob(text, recursive=True)
    if not matches:
        raise ReadError(f"{text}: no such file, and no file matches it as a pattern")
    logs = {os.path.join(os.path.dirname(match), name) for match in matches for name in _TABLE_LOGS}
    names = [name for match in matches for name in (_below(match) if os.path.isdir(match) else [match])]
    return None, _visible(_root(text), [*names, *filter(os.path.isdir, logs)]), False


def _root(pattern: str) -> str:
    """The folder that a pattern begins with."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _visible(root: str, names: Iterable[str]) -> list[str]:
    """Names below a folder, sorted, each ended at the first part that is hidden."""
    visible = set()
    for name in names:
        parts = name.removeprefix(root).strip("/").split("/")
        hidden = next((i for i, part in enumerate(parts) if is_hidden(part)), len(parts))
        visible.add(name.removesuffix("".join(f"/{part}" for part in parts[hidden + 1 :])))
    return sorted(visible)


def _below(root: str) -> Iterator[str]:
    """The files below a folder and below its links, each real folder once, links last. A hidden folder is a name."""
    queue, seen = deque([root]), set[str]()
    while queue:
        for folder, folders, files in os.walk(queue.popleft(), onerror=_raise):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            hidden = [name for name in folders if is_hidden(name)]
            folders[:] = [name for name in folders if name not in hidden]
            queue.extend(path for path in (os.path.join(folder, name) for name in folders) if os.path.islink(path))
            yield from (os.path.join(folder, name) for name in (*files, *hidden))


def _raise(error: OSError) -> None:
    raise ReadError(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _real_files(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of different files, sorted, and links to one of them."""
    of_real: dict[str, str] = {}
    ordered = sorted(set(names), key=lambda name: (os.path.islink(name), name))
    copies = [name for name in ordered if of_real.setdefault(os.path.realpath(name), name) != name]
    return sorted(of_real.values()), copies


def _remote_names(url: str) -> tuple[Any, list[str], bool]:
    try:
        system, path = fsspec.core.url_to_fs(url)
        if isinstance(system, LocalFileSystem):
            return _local_names(path)
        if system.isfile(path):
            return system, [system.unstrip_protocol(path)], True
        root, matches = (path, [path]) if system.isdir(path) else (_root(path), system.glob(path))
        if not matches:
            raise ReadError(f"{url}: no such file, and no file matches it as a pattern")
        names = (name for match in matches for name in (system.find(match) if system.isdir(match) else [match]))
        return system, [system.unstrip_protocol(name) for name in _visible(root, names)], False
    except ReadError:
        raise
    except (OSError, ImportError, ValueError) as e:
        raise ReadError(f"{url}: cannot be listed: {missing_package(e) or e}") from e


def partitions(names: Sequence[str]) -> dict[str, dict[str, str | int | None]]:
    """The `key=value` folders of each file's path, percent-encoded characters decoded, None where Hive has no value.

    A key whose values are all whole numbers of 64 bits, as they are printed, has numbers.
    """
    of_file: dict[str, dict[str, str | int | None]] = {}
    for name in names:
        pairs = (part.partition("=") for part in name.split("/")[:-1])
        of_file[name] = {unquote(key): _value(value) for key, equals, value in pairs if equals}
    for key in {k for values in of_file.values() for k in values}:
        having = [values for values in of_file.values() if values.get(key) is not None]
        if all(_is_int(str(values[key])) for values in having):
            for values in having:
                values[key] = int(str(values[key]))
    return of_file


def _value(text: str) -> str | None:
    return None if text == MISSING_PARTITION else unquote(text)


def _is_int(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text == str(int(text)) and -(2**63) <= int(text) < 2**63
