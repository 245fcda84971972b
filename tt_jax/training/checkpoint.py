"""Checkpoints by Orbax: state, input position and run facts, written atomically, resumed from the last complete one.

`WORKDIR/checkpoints/STEP/` holds the `TrainState` and a JSON of what else a run needs to go on. Orbax writes into a
temporary name and commits by rename, so a run killed while saving leaves nothing that is taken for a checkpoint.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from tt_jax.distributed import gather, is_first
from tt_jax.training.step import TrainState

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """No usable checkpoint where one is needed."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint read back.

    Attributes:
      state: placed as the state it was asked for.
      run: the JSON that was saved with it.
    """

    state: TrainState
    run: dict[str, Any]


class _KeepLastAndBest(preservation_policy.PreservationPolicy):
    """Keeps the newest checkpoints, and the best one however old."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.best: int | None = None

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        newest = sorted(info.step for info in checkpoints)[-self.last :]
        return [info.step in newest or info.step == self.best for info in checkpoints]


class Checkpoints:
    """The checkpoints of one working directory. Saves in the background; `close` waits for them.

    `keep_last`: newest ones that the run keeps; 0 = only read, and leave alone what a live run is just saving.
    """

    def __init__(self, workdir: Path, keep_last: int = 0) -> None:
        self.path = workdir.absolute() / "checkpoints"
        self._policy = _KeepLastAndBest(keep_last)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._policy, cleanup_tmp_directories=keep_last > 0)
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, run: dict[str, Any], best_step: int | None) -> None:
        """Saves a copy of the state, so that the caller may donate its own; a step saved before is left alone."""
        step = int(state.step)
        self._policy.best = best_step
        if step in self._manager.all_steps():
            return
        copy = jax.tree.map(jnp.copy, state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(_as_dict(copy)), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=args)

    def restore(self, abstract: TrainState, step: int) -> Restored:
        """The checkpoint of a step. `abstract`: shapes, dtypes and shardings of the state wanted."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_as_dict(abstract)), run=ocp.args.JsonRestore())
        found: Any = self._manager.restore(step, args=args)
        return Restored(TrainState(**_from_dict(abstract, found.state)), found.run)

    def restore_last(self, abstract: TrainState) -> Restored | None:
        """The newest checkpoint that can be read; None where there is none at all.

        A damaged one is moved aside, with a line that says so, and the one before it is taken.
        """
        steps = self.steps()
        for step in reversed(steps):
            restored, damage = None, ""
            try:
                restored = self.restore(abstract, step)
            except Exception as e:  # Orbax and TensorStore raise every kind for a damaged file
                damage = _first_line(e)
            damage = max(gather(damage))  # what one of many processes cannot read, none takes
            if restored and not damage:
                self._policy.best = restored.run["best_step"]
                return restored
            aside = self.path.parent / f"damaged-checkpoint-{step}"
            log.warning("checkpoint %s is damaged (%s): moved to %s", self.path / str(step), damage, aside)
            if is_first():
                (self.path / str(step)).rename(aside)
            gather(None)  # the others wait for it
            self._manager.reload()
        if steps:
            raise CheckpointError(f"{self.path}: none of the checkpoints {steps} can be read")
        return None

    def restore_best(self, abstract: TrainState) -> Restored:
        """The checkpoint that early stopping chose, or the newest one where none was chosen."""
        last = self.restore_last(abstract)
        if last is None:
            raise CheckpointError(f"{self.path}: no checkpoint; expected a directory that `tt-jax train` wrote")
        best = last.run["best_step"]
        return last if best is None or best == int(last.state.step) else self.restore(abstract, best)

    def close(self) -> None:
        """Waits for saves under way, and raises if one of them failed."""
        self._manager.wait_until_finished()
        self._manager.close()


def _as_dict(state: TrainState) -> dict[str, Any]:
    found = {name: getattr(state, name) for name in TrainState.__dataclass_fields__}
    if not state.admissions:  # checkpoints without dynamic rows are as before there were any
        del found["admissions"]
    return found


def _from_dict(abstract: TrainState, found: dict[str, Any]) -> dict[str, Any]:
    """Orbax gives back plain containers: put the leaves into the structure of the state asked for."""
    structure = jax.tree.structure(_as_dict(abstract))
    return jax.tree.unflatten(structure, jax.tree.leaves(found))


def _first_line(e: Exception) -> str:
    return f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]
