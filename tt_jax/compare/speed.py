"""Iteration speed: what it takes in training to be as good as the reference ended, read from learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tt_jax.compare.figures import over_seeds
from tt_jax.compare.plan import Row
from tt_jax.compare.predictions import OVERALL
from tt_jax.runs.metrics_log import TRAIN_SECONDS, read_scalars


@dataclass(frozen=True)
class Curve:
    """Log loss on the split that a run was evaluated on while it trained.

    Attributes:
      run: its name.
      examples, seconds: seen, and spent in training steps, up to each evaluation, ascending.
      logloss: at each.
    """

    run: str
    examples: tuple[int, ...]
    seconds: tuple[float, ...]
    logloss: tuple[float, ...]


@dataclass(frozen=True)
class Reached:
    """What it took to come to a loss."""

    examples: float
    seconds: float


Learning = dict[str, dict[str, list[Curve]]]  # by scenario and task the curve of each seed


def read_curves(run: str, folder: Path, batch_size: int, scenario: str, tasks: Sequence[str]) -> dict[str, Curve]:
    """The learning curves of a run, by task: on the rows of a scenario, "" = of all of its scenarios.

    Tasks without a label in that split have none.
    """
    lines = [line for line in read_scalars(folder) if TRAIN_SECONDS in line]
    curves = {}
    for task in tasks:
        key = f"eval/{scenario}/{task}/logloss" if scenario else f"eval/{task}/logloss"
        points = [
            (int(line["step"] or 0) * batch_size, line[TRAIN_SECONDS], loss)
            for line in lines
            if (loss := line.get(key)) is not None
        ]
        if points:
            curves[task] = Curve(run, *zip(*points, strict=True))
    return curves


def reach(curve: Curve, loss: float) -> Reached | None:
    """Where a curve first comes down to a loss, linear between evaluations; None if it never does.

    A curve that is there at its first evaluation took as much as that, or less.
    """
    for i, found in enumerate(curve.logloss):
        if found > loss:
            continue
        if i == 0:
            return Reached(curve.examples[0], curve.seconds[0])
        share = (curve.logloss[i - 1] - loss) / (curve.logloss[i - 1] - found)

        def between(values: Sequence[float], i: int = i, share: float = share) -> float:
            return values[i - 1] + share * (values[i] - values[i - 1])

        return Reached(between(curve.examples), between(curve.seconds))
    return None


def target_loss(curves: Sequence[Curve]) -> float:
    """The quality of the reference: what the worst of its seeds ended with, so that all of them reach it."""
    return max(curve.logloss[-1] for curve in curves)


def row_curves(row: Row, scenarios: Sequence[str], out: Path, tasks: Sequence[str]) -> Learning:
    """By scenario and task the curve of each seed."""
    found: Learning = {scenario: {} for scenario in scenarios}
    for runs in row.seeds:
        for scenario in scenarios:
            run = next(r for r in runs if not r.config.data.scenarios or scenario in r.config.data.scenarios)
            curves = read_curves(run.name, out / "runs" / run.name, run.config.data.batch_size, scenario, tasks)
            for task, curve in curves.items():
                found[scenario].setdefault(task, []).append(curve)
    return found


def to_quality(ours: Learning, reference: Learning, task: str, adds_up: bool) -> dict[str, Any]:
    """What a row took in training until its loss on the eval split was that which the reference ended with.

    By scenario, and `overall`: until that is so in every scenario. There the runs of a row add up (one model a
    scenario, one after the other) or the slowest scenario counts (one model of all). Each is `target` (the loss),
    `seconds` and `examples` over seeds, None if a seed did not reach it; a scenario without a curve is left out.
    """
    found: dict[str, Any] = {}
    by_seed: list[list[Reached | None]] = []
    for scenario, tasks in reference.items():
        if task not in tasks or task not in ours[scenario]:
            continue
        target = target_loss(tasks[task])
        reached = [reach(curve, target) for curve in ours[scenario][task]]
        found[scenario] = {"target": target, **_taken(reached)}
        by_seed.append(reached)
    if by_seed:
        combine = sum if adds_up else max
        found[OVERALL] = _taken([_combined(r, combine) for r in zip(*by_seed, strict=True)])
    return found


def _taken(reached: Sequence[Reached | None]) -> dict[str, Any]:
    return {
        "seconds": over_seeds([r and r.seconds for r in reached]),
        "examples": over_seeds([r and r.examples for r in reached]),
    }


def _combined(reached: Sequence[Reached | None], combine: Any) -> Reached | None:
    known = [r for r in reached if r is not None]
    if len(known) < len(reached):
        return None
    return Reached(combine(r.examples for r in known), combine(r.seconds for r in known))
