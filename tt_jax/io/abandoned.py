"""Silence about reads and writes that a library abandons once one of them has failed.

Orbax and TensorStore raise the first failure, which is all that a user needs. They also log it from their threads, and
what they had begun complains once it is collected, which nobody can catch.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_LOGGERS = ("absl", "asyncio")  # Orbax's, and that of the loops it runs
_CLOSED_LOOP = "Event loop is closed"  # TensorStore's callback into a loop that has ended with the failure


@contextmanager
def quiet_about_abandoned() -> Iterator[None]:
    """Inside, the complaints of abandoned reads and writes are dropped; every other one is made as before.

    After a failure they stay dropped: what was abandoned complains when it is collected, which may be at exit.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if _CLOSED_LOOP not in str(unraisable.exc_value):
            before(unraisable)

    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_is_of_others)
            undo.callback(logging.getLogger(name).removeFilter, _is_of_others)
        sys.unraisablehook = hook
        undo.callback(setattr, sys, "unraisablehook", before)
        try:
            yield
        except BaseException:
            undo.pop_all()
            raise


def _is_of_others(record: logging.LogRecord) -> bool:
    return "orbax" not in f"{record.pathname} {record.getMessage()}"
