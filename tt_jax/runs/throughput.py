"""How fast a run is."""

from __future__ import annotations


class Clock:
    """Time spent in training steps, and waiting for input, since the last log and in all."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps = self.all_steps = 0
        self.seconds = self.waited = self.all_seconds = 0.0

    def add(self, seconds: float, waited: float) -> None:
        self.steps += 1
        self.all_steps += 1
        self.seconds += seconds
        self.all_seconds += seconds
        self.waited += waited

    def figures(self) -> dict[str, float | None]:
        """Figures since the last call."""
        found = {
            "examples_per_s": self.steps * self.batch_size / self.seconds if self.seconds else None,
            "input_wait": self.waited / self.seconds if self.seconds else None,
        }
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return found

    def examples_per_s(self) -> float | None:
        return self.all_steps * self.batch_size / self.all_seconds if self.all_seconds else None
