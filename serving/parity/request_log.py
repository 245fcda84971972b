"""A sample of the answered requests as JSON lines, a line a query, for `tt-jax parity` to replay.

The event loop only draws and queues; a thread encodes and writes. What the thread cannot keep up with is dropped and
counted. A file that is full becomes `FILE.1`, that one `FILE.2`, and so on. Raw features are personal data: files are
readable by their owner only.
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter

from serving.batching.batcher import Ranked
from serving.batching.request import Work
from serving.eligibility.conditions import Condition
from serving.index.ad_columns import AdId
from serving.log_events import log_event
from serving.scorer import ScoredAd
from tt_jax.io.publish import Format

WAITING = 256  # answers between the event loop and the thread: some 10 MB of 100 ads each
KEPT = 4  # full files beside the one that is written
CLOSING_S = 5.0
FORMAT = Format("tt-jax request log", (1, 2, 3, 4))  # 1 did not tell the model; 3: conditions; 4: id, explore
_TAIL = 2**16


class RequestLogError(ValueError):
    """A log, or settings of one, that cannot be used. The message names file and line, or the setting."""


class LoggedQuery(Struct, forbid_unknown_fields=True):
    """A line: a query as it came, and what was answered, by which pair.

    `time`: UTC, ISO 8601, of the answer. `model`: see `serving.routing`; "" = not told. `format_version`: see `FORMAT`.
    `context`, `where`, `exclude`: of the request; see `serving.eligibility.conditions`.
    `request`: its id, as the header `x-request-id` of the answer told it; of several queries, `ID/0`, `ID/1` ...
    `explore`: of the request, with the number of the query; see `serving.scoring.explore`. {} = it did not explore.
    """

    time: str
    bundle: str
    index: str
    k: int
    query: dict[str, Any]
    candidates: list[AdId] | None
    ads: list[ScoredAd]
    format_version: int = FORMAT.reads[-1]
    model: str = ""
    context: dict[str, Any] = {}
    where: dict[str, Any] = {}
    exclude: list[AdId] = []
    request: str = ""
    explore: dict[str, Any] = {}


class _Version(Struct):
    format_version: int = 1


@dataclass(frozen=True)
class LogSettings:
    """Where and how much to log. Raises `RequestLogError` naming what is wrong.

    Attributes:
      path: of the file that is written; its directory must exist.
      fraction: of the answered requests, above 0 and at most 1.
      max_bytes: of a file, before it is put aside.
    """

    path: Path
    fraction: float = 0.01
    max_bytes: int = 100 * 2**20

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise RequestLogError(f"log-fraction: expected a number above 0 and at most 1, got {self.fraction}")
        if self.max_bytes < 1:
            raise RequestLogError(f"log-max-mb: expected a size > 0, got {self.max_bytes} bytes")


class RequestLog:
    """Writes the log of one service. Only one process may write a file.

    Raises OSError if the file cannot be opened, `RequestLogError` if another process writes it.
    """

    def __init__(self, settings: LogSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._file = _open(settings.path)
        what = "Requests drawn for the log, by what became of them."
        counter = Counter("tt_jax_logged_requests", what, ("result",), registry=registry)
        self._written, self._dropped, self._failed = map(counter.labels, ("written", "dropped", "failed"))
        self._random = random.Random()
        self._waiting: queue.Queue[tuple[float, Work, Ranked, str] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="request log", daemon=True)
        self._thread.start()

    def offer(self, work: Work, ranked: Ranked, request: str = "") -> None:
        """Draws, and queues an answered request that was drawn. Never waits."""
        if self._random.random() >= self._settings.fraction:
            return
        try:
            self._waiting.put_nowait((time.time(), work, ranked, request))
        except queue.Full:
            self._dropped.inc()

    def close(self) -> None:
        """Writes what is queued and ends the thread; does not wait for a disk that hangs. Idempotent."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSING_S)
        self._thread.join(CLOSING_S)
        if not self._thread.is_alive() and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write_all(self) -> None:
        healthy = True
        while (item := self._waiting.get()) is not None:
            try:
                self._write(b"".join(_lines(*item)))
                self._written.inc()
                healthy = True
            except Exception as e:  # whatever it was, the next one may do
                self._failed.inc()
                if healthy:  # told once, until it works again
                    reason = f"{self._settings.path}: requests cannot be logged: {e}"
                    log_event("request_log", logging.ERROR, outcome="failed", reason=reason)
                healthy = False

    def _write(self, data: bytes) -> None:
        """Appends the data, or nothing of it."""
        size = os.fstat(self._file).st_size
        if size and size + len(data) > self._settings.max_bytes:
            self._rotate()
            size = 0
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def _rotate(self) -> None:
        path = self._settings.path
        for n in range(KEPT, 0, -1):
            full = path if n == 1 else path.with_name(f"{path.name}.{n - 1}")
            if full.exists():
                full.replace(path.with_name(f"{path.name}.{n}"))
        fresh = _open(path)
        os.close(self._file)
        self._file = fresh


def read_log(path: Path) -> Iterator[tuple[int, LoggedQuery]]:
    """Line numbers, from 1, and lines of a log. A last line without its end is still being written, and left out.

    Raises `RequestLogError` naming file and line of what is no record, OSError if there is no such file.
    """
    decoder, version = msgspec.json.Decoder(LoggedQuery), msgspec.json.Decoder(_Version)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                if problem := FORMAT.problem({"format_version": version.decode(line).format_version}):
                    raise RequestLogError(f"{path}, line {number}: {problem}")
                yield number, decoder.decode(line)
            except RequestLogError:
                raise
            except (ValueError, RecursionError) as e:  # UnicodeDecodeError is one too
                raise RequestLogError(f"{path}, line {number}: not a logged query: {e}") from None


def _lines(at: float, work: Work, ranked: Ranked, request: str) -> Iterator[bytes]:
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
    for i, (query, ads) in enumerate(zip(work.queries, ranked.json, strict=True)):
        candidates = None if work.candidates is None else work.candidates[i]
        known: Any = msgspec.Raw(ads)  # JSON already
        said = Condition() if work.conditions is None else work.conditions[i]
        told: Any = {"context": dict(said.context), "where": dict(said.where), "exclude": list(said.exclude)}
        told["request"] = f"{request}/{i}" if request and len(work.queries) > 1 else request
        if work.explore:
            told["explore"] = asdict(work.explore) | {"query": i}
        answer = (ranked.bundle, ranked.index, work.k, query, candidates, known)
        logged = LoggedQuery(moment, *answer, model=work.model, **told)
        yield msgspec.json.encode(logged) + b"\n"


def _open(path: Path) -> int:
    """The file, to append whole lines to: what a killed process left of its last one is cut off."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as e:
        raise OSError(f"{path}: requests cannot be logged there: {e.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RequestLogError(f"{path}: another process logs its requests there") from None
    os.ftruncate(file, _whole_lines(file))
    return file


def _whole_lines(file: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _TAIL)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
