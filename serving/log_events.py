"""The operational log: one event a line on stderr, with time, level and name, as text or as JSON.

    2026-11-30T13:27:00.123+00:00 INFO load outcome=done index=3f2a seconds=1.2

Events go through the logger `serving`, so that a process of one's own decides with `logging` where they go.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Format = Literal["text", "json"]
_log = logging.getLogger("serving")
_PLAIN = re.compile(r'[^\s"=\\]+')  # a value that needs no quotes
_EVERY = 1.0  # s between two lines about refusals for the same reason


def log_event(event: str, level: int = logging.INFO, *, error: BaseException | None = None, **fields: Any) -> None:
    """Logs an event. Fields that are None are left out. For any thread.

    `error`: a fault of ours, whose traceback is logged too.
    """
    if _log.isEnabledFor(level):
        known = {name: value for name, value in fields.items() if value is not None}
        text = " ".join((event, *(f"{name}={_shown(value)}" for name, value in known.items())))
        _log.log(level, "%s", text, exc_info=error, extra={"event": event, "fields": known})


class RefusedClients:
    """Logs refused clients: for each reason at most one line in `every` seconds. For one event loop."""

    def __init__(self, every: float = _EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._next: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def log(self, client: Any, reason: str, status: int | None = None) -> None:
        """`client`: of the ASGI scope, or an address of a socket. `reason`: one of a few. `status`: if it got one."""
        now = self._clock()
        if now < self._next.get(reason, now):
            self._held_back[reason] = self._held_back.get(reason, 0) + 1
            return
        self._next[reason] = now + self._every
        more = self._held_back.pop(reason, None)
        log_event("refused", logging.WARNING, client=address(client), reason=reason, status=status, not_logged=more)


log_refused = RefusedClients().log


def address(client: Any) -> str:
    """`host:port` of an ASGI client or of a socket's address, which is a path or empty for some sockets."""
    if not isinstance(client, tuple) or len(client) < 2:
        return str(client or "unknown")
    host, port = client[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def configure(form: Format) -> None:
    """Has this process log to stderr: our events from INFO, libraries from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if form == "text" else _Json())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_dead_thread


def _log_dead_thread(died: threading.ExceptHookArgs) -> None:
    if died.exc_type is not SystemExit:
        name = died.thread.name if died.thread else None
        log_event("thread_died", logging.ERROR, error=died.exc_value, thread=name)


class _Text(logging.Formatter):
    """A line an event; those of a traceback begin like that of their event."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields, traceback = _parts(self, record)
        start = f"{_time(record)} {record.levelname} {event}"
        lines = [" ".join((start, *(f"{name}={_shown(value)}" for name, value in fields.items())))]
        return "\n".join([*lines, *(f"{start} | {line}" for line in traceback.splitlines())])


class _Json(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields, traceback = _parts(self, record)
        line = {"time": _time(record), "level": record.levelname, "event": event, **fields}
        return _json(line | ({"traceback": traceback} if traceback else {}))


def _parts(formatter: logging.Formatter, record: logging.LogRecord) -> tuple[str, Mapping[str, Any], str]:
    """Name, fields and traceback; what a library logs is an event `log`."""
    traceback = formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
    if event := getattr(record, "event", None):
        return event, getattr(record, "fields", {}), traceback
    return "log", {"logger": record.name, "message": record.getMessage()}, traceback


def _time(record: logging.LogRecord) -> str:
    return datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, str | Path) else ""
    return text if _PLAIN.fullmatch(text) and text.isprintable() else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, default=str)  # ASCII: no character of a value can end the line
