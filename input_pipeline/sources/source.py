"""One file of a log: what is known of it, and its bytes as a stream."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from input_pipeline.sources.detect_format import FORMATS


class ReadError(ValueError):
    """A source that cannot be read. The message begins with the file."""


@dataclass(frozen=True)
class Source:
    """One file: its name as messages have it, its format, the file system of a remote one, its compression, and the
    delimiter of its cells if its content tells."""

    name: str
    format: str = ""
    remote: Any = None  # fsspec file system
    compression: str | None = None
    delimiter: str = ""

    @contextmanager
    def open(self) -> Iterator[pa.NativeFile]:
        """The file's bytes, decompressed."""
        if self.remote is None and self.compression != "xz":
            with pa.input_stream(self.name, compression=self.compression) as stream:
                yield stream
            return
        with open(self.name, "rb") if self.remote is None else self.remote.open(self.name, "rb") as handle:
            if self.compression == "xz":  # which Arrow has not
                with pa.PythonFile(lzma.open(handle)) as stream:
                    yield stream
                return
            with pa.input_stream(handle, compression=self.compression) as stream:
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

    def head(self, size: int) -> bytes:
        """The first bytes, decompressed. Raises `ReadError`."""
        with self.named_errors(self.compression or "a file", 0), self.open() as stream:
            return stream.read(size)

    def is_empty(self) -> bool:
        """Whether it is of a format that has no bytes where there are no rows, and has none. Raises `ReadError`."""
        return FORMATS[self.format].streamed and not self.head(1)

    @contextmanager
    def named_errors(self, kind: str, row: int) -> Iterator[None]:
        """Turns errors of a library, which do not name the file, into a `ReadError`."""
        try:
            yield
        except ReadError:
            raise
        except (pa.ArrowException, OSError, EOFError, RuntimeError, ValueError, lzma.LZMAError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise ReadError(f"{self.name}: not readable as {kind} from row {row} on: {reason}") from e
