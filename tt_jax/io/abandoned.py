"""Silence about reads and writes that a library abandons once one of them has failed.

Orbax and TensorStore raise the first failure, which is all that a user needs. They also log it from their threads, and
what they had begun complains once it is collected, which nobody can catch.
"""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOGGERS = ("absl", "asyncio")  # Orbax's, and that of the loops it runs
_CLOSED_LOOP = "Event loop is closed"  # TensorStore's callback into a loop that has ended with the failure


@contextmanager
def quiet_about_abandoned() -> Iterator[None]:
    """Inside, the complaints of abandoned reads and writes are dropped; every other one is made as before."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if _CLOSED_LOOP not in str(unraisable.exc_value):
            before(unraisable)

    def is_other(record: logging.LogRecord) -> bool:
        return record.name == "absl" and "orbax" not in record.pathname

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(is_other)
        sys.unraisablehook = hook
        try:
            yield
        finally:
            if sys.exception():  # what was abandoned complains while it is not heard
                gc.collect()
            sys.unraisablehook = before
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(is_other)
