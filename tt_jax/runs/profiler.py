"""A profiler trace of some steps of a run, for xprof, TensorBoard or Perfetto."""

from __future__ import annotations

from pathlib import Path

import jax


class StepProfile:
    """Traces the steps `start` to `stop` (exclusive) of `config.profile`; does nothing where that is empty."""

    def __init__(self, steps: str, directory: Path) -> None:
        start, _, stop = steps.partition(":")
        self._start, self._stop = (int(start), int(stop)) if steps else (-1, -1)
        self._directory = directory
        self._running = False

    def before(self, step: int) -> None:
        """Called with the number of steps done, before the next one."""
        if step == self._start:
            self._directory.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif step >= self._stop:
            self.close()

    def close(self) -> None:
        """Ends a trace under way and writes it."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
