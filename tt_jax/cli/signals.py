"""SIGTERM ends a process from its first moment on, also as PID 1 of a container: there the kernel drops a signal that
has no handler, and a handler in Python alone would wait for a compilation that holds the main thread."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any


def end_at_once(codes: Mapping[signal.Signals, int]) -> None:
    """Has each of these signals end the process at once with its exit code, for as long as no other handler is set.

    What the process was writing stays as a kill would leave it: all that is published is there whole or not at all.
    """

    def handle(number: int, _frame: Any) -> None:
        os._exit(codes[signal.Signals(number)])

    def watch() -> None:
        while number := os.read(read, 1):
            if number[0] in codes and signal.getsignal(number[0]) is handle:
                handle(number[0], None)

    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # written by the C part of every handler, whoever is busy
    for number in codes:
        signal.signal(number, handle)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, codes)
