"""What a run says while it trains: JSON lines, TensorBoard events, the figures of a progress line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tensorboardX import SummaryWriter

from tt_jax.io.disk_full import writing
from tt_jax.io.strict_json import parse_json
from tt_jax.parallel.processes import is_first

_EVENTS_WAITING = 10_000
METRICS_FILE = "metrics.jsonl"
log = logging.getLogger(__name__)
TRAIN_SECONDS = "speed/train_seconds"  # beside the figures of an evaluation: what it took to get there


class MetricWriter:
    """Writes scalars to `WORKDIR/metrics.jsonl` and to TensorBoard events in `WORKDIR/tensorboard`.

    After a resume at `step`, lines of later steps are dropped: they are written again, with the same values. Of many
    processes the first one writes.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._writes = is_first()
        if not self._writes:
            return
        self._path, self._folder = workdir / METRICS_FILE, workdir / "tensorboard"
        with writing(self._path):
            _drop_later_lines(self._path, step)
            self._file: IO[str] = self._path.open("a")
        with writing(self._folder):
            # Its thread ends on a full disk, without a word, and what waits for room in its queue would wait for ever.
            self._events = SummaryWriter(
                str(self._folder), purge_step=step + 1 if step else None, max_queue=_EVENTS_WAITING
            )

    def write_line(self, step: int, values: Mapping[str, float | str | None]) -> None:
        """One line, and no events."""
        if self._writes:
            with writing(self._path):
                self._file.write(json.dumps({"step": step, **values}) + "\n")
                self._file.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """One line, and one event for each number."""
        self.write_line(step, scalars)
        if not self._writes:
            return
        for name, value in scalars.items():
            if value is not None:
                self._events.add_scalar(name, value, step)
        with writing(self._folder):
            self._events.flush()

    def close(self) -> None:
        """Flushes both."""
        if not self._writes:
            return
        with writing(self._path):
            self._file.close()
        with writing(self._folder):
            self._events.close()


def read_scalars(workdir: Path) -> list[dict[str, float | None]]:
    """What a finished run wrote, a dict with `step` a line. Raises `ValueError` naming a line that is not whole."""
    path = workdir / METRICS_FILE
    lines = path.read_bytes().splitlines()
    return [_parse_line(line, f"{path}: line {i}") for i, line in enumerate(lines, 1)]


def _drop_later_lines(path: Path, step: int) -> None:
    """Keeps the whole lines of steps up to `step`. A killed run may have left half a line, the last."""
    if not path.exists():
        return
    kept = []
    for i, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            if _parse_line(line, f"{path}: line {i}")["step"] <= step:
                kept.append(line)
        except ValueError as e:
            log.warning("%s; it is dropped", e)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(b"".join(kept))
    temporary.replace(path)


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    found = parse_json(line, where, ValueError)
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        raise ValueError(f"{where}: expected a JSON object with a step")
    return found


def losses_line(tasks: Mapping[str, Mapping[str, float | None]], speed: Mapping[str, float | None]) -> str:
    """Training losses and speed."""
    losses = " ".join(f"{task} {found['loss']:.4f}" for task, found in tasks.items() if found["loss"] is not None)
    rate, wait = speed["examples_per_s"] or 0.0, speed["input_wait"] or 0.0
    return f"loss: {losses} | {rate:,.0f} examples/s, input wait {wait:.1%}"


def metrics_line(overall: Mapping[str, Mapping[str, float | None]]) -> str:
    """Metrics of an evaluation, by task."""
    parts = []
    for task, found in overall.items():
        shown = [f"{m} {found[m]:.4f}" for m in ("logloss", "auc") if found[m] is not None]
        parts.append(f"{task}: {' '.join(shown) or 'no labels'}")
    return "; ".join(parts)
