"""Checkpoints by Orbax: state, input position and run facts, written atomically, resumed from the last complete one.

`WORKDIR/checkpoints/STEP/` holds the state of training (any dataclass of arrays with a `step`), a JSON of what else a
run needs to go on, and a manifest with the
hash of every file, which Orbax does not have: it restores flipped bits as other weights. Orbax writes into a temporary
name, which is renamed once the manifest is there, so a run killed while saving leaves nothing that is taken for a
checkpoint.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from tt_jax.io.abandoned import quiet_about_abandoned
from tt_jax.io.disk_full import writing
from tt_jax.io.publish import (
    MANIFEST,
    Format,
    describe_files,
    manifest_fields,
    read_published,
    sync,
    sync_tree,
    write_manifest,
)
from tt_jax.io.strict_json import ABSENT
from tt_jax.io.verify import FileEntry
from tt_jax.parallel.processes import gather, is_first
from tt_jax.runs.finite import not_finite

FORMAT = Format("tt-jax checkpoint", (1, 2))  # 1 had no manifest, and then one that told no version
HASHED = "hashed"  # in the run's JSON: that a manifest belongs to it, which earlier versions did not write
_ASIDE = "damaged-checkpoint-"  # in the run's directory, before the step
log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """No usable checkpoint where one is needed."""


class CheckpointVersionError(CheckpointError):
    """A checkpoint of a version that is not read: it may be sound, so none before it is taken for it."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint read back.

    Attributes:
      state: placed as the state it was asked for.
      run: the JSON that was saved with it.
    """

    state: Any
    run: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is made of, written last: see `tt_jax.io.publish`."""

    FORMAT: ClassVar[Format] = FORMAT
    step: int
    files: tuple[FileEntry, ...]
    format: str = field(default=FORMAT.name, metadata={ABSENT: FORMAT.name})
    format_version: int = field(default=FORMAT.reads[-1], metadata={ABSENT: 1})


class _KeepLastAndBest(preservation_policy.PreservationPolicy):
    """Keeps the newest checkpoints, and the best one however old."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.best: int | None = None

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        newest = sorted(info.step for info in checkpoints)[-self.last :]
        return [info.step in newest or info.step == self.best for info in checkpoints]


class _HashedDirectory(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Where Orbax writes a checkpoint: renamed once a manifest has the hash of every file, and all is on disk."""

    metadata: Any = None

    @classmethod
    def from_final(cls, final_path: Any, *, checkpoint_metadata_store: Any = None, **options: Any) -> _HashedDirectory:
        found: Any = super().from_final(final_path, checkpoint_metadata_store=checkpoint_metadata_store, **options)
        found.metadata = checkpoint_metadata_store
        return found

    async def finalize(self) -> None:
        """By the first process, in a thread, once every process has written its files."""
        if self.metadata is None:  # of an item: the checkpoint's own comes after it
            await super().finalize()
            return
        self.metadata.wait_until_finished()
        folder, place = Path(self.get()), Path(self.get_final())
        write_manifest(folder, Manifest(int(place.name), describe_files(folder)))
        sync_tree(folder)
        folder.rename(place)
        sync(place.parent)


class Checkpoints:
    """The checkpoints of one working directory. Saves in the background; `close` waits for them.

    `keep_last`: newest ones that the run keeps; 0 = only read, and leave alone what a live run saves and removes.
    """

    def __init__(self, workdir: Path, keep_last: int = 0) -> None:
        self.path = workdir.absolute() / "checkpoints"
        self._newest = self.path
        self._writes = keep_last > 0
        self._policy = _KeepLastAndBest(keep_last)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=self._writes,
            create=self._writes,
            temporary_path_class=_HashedDirectory,
            lightweight_initialize=True,  # Orbax's own files may be damaged, as any other
        )
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def last_whole_step(self) -> int:
        """The newest step whose files are as they were written; 0 without one. By the first process."""
        steps = reversed(self.steps())
        folders = ((step, self.path / str(step)) for step in steps)
        return next((step for step, at in folders if not (at / MANIFEST).exists() or not _damage(at)), 0)

    def save(self, state: Any, run: dict[str, Any], best_step: int | None) -> None:
        """Saves a copy of the state, so that the caller may donate its own; a step saved before is left alone."""
        step = int(state.step)
        self._policy.best = best_step
        if step in self._manager.all_steps():
            return
        copy = jax.tree.map(jnp.copy, state)
        items = {"state": ocp.args.StandardSave(_as_dict(copy)), "run": ocp.args.JsonSave({**run, HASHED: True})}
        self._wait()
        self._newest = self.path / str(step)
        with writing(self._newest):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, abstract: Any, step: int) -> Restored:
        """The checkpoint of a step, once every file has been found to be as it was written.

        `abstract`: shapes, dtypes and shardings of the state wanted. All processes must call it. Raises
        `CheckpointError`, in all of them, naming what is damaged, or `CheckpointVersionError`.
        """
        folder = self.path / str(step)
        hashed = (folder / MANIFEST).exists()
        _agree(folder, _other_version(folder) if is_first() and hashed else "", CheckpointVersionError)
        _agree(folder, _damage(folder) if is_first() and hashed else "")
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_as_dict(abstract)), run=ocp.args.JsonRestore())
        found: Any = None
        damage = ""
        try:
            with quiet_about_abandoned():
                found = self._manager.restore(step, args=args)
            if not hashed and found.run.get(HASHED):
                damage = f"{folder / MANIFEST}: missing"
            elif int(found.state["step"]) != step:
                damage = f"it is the checkpoint of step {int(found.state['step'])}, under another name"
            elif names := not_finite(found.state):
                damage = f"NaN or infinite values in {len(names)} of its arrays, as {names[0]}"
        except Exception as e:  # Orbax and TensorStore raise every kind for a damaged file
            damage = _first_line(e)
        _agree(folder, damage)
        if not hashed and is_first():
            log.warning("checkpoint %s: saved by an earlier version: it has no hashes to verify", folder)
        found.run.pop(HASHED, None)
        return Restored(type(abstract)(**_from_dict(abstract, found.state)), found.run)

    def restore_last(self, abstract: Any) -> Restored | None:
        """The newest checkpoint that is not damaged; None where there is none at all.

        A line tells of a damaged one, which a run that saves moves aside, and the one before it is taken. Raises
        `CheckpointError` where all are damaged, or were when they were moved aside, or the newest one is of a version
        that is not read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                restored = self.restore(abstract, step)
            except CheckpointVersionError:
                raise
            except CheckpointError as e:
                if self.is_gone(step):
                    return self.restore_last(abstract)
                self._set_aside(step, e)
            else:
                self._policy.best = restored.run["best_step"]
                return restored
        if steps:
            raise CheckpointError(f"{self.path}: all checkpoints are damaged: {', '.join(map(str, steps))}")
        if self._writes and (aside := sorted(self.path.parent.glob(f"{_ASIDE}*"))):
            names = ", ".join(path.name for path in aside)
            raise CheckpointError(f"{self.path}: all checkpoints were damaged; to train from step 0, remove {names}")
        return None

    def restore_best(self, abstract: Any) -> Restored:
        """The checkpoint that early stopping chose, or the newest one where none was chosen or that one is damaged."""
        last = self.restore_last(abstract)
        if last is None:
            raise CheckpointError(f"{self.path}: no checkpoint; expected a directory that `tt-jax train` wrote")
        best = last.run["best_step"]
        if best is None or best == int(last.state.step):
            return last
        try:
            return self.restore(abstract, best)
        except CheckpointError as e:
            if self.is_gone(best):
                return self.restore_best(abstract)
            log.warning("the best checkpoint is damaged: %s: step %d is taken", e, int(last.state.step))
            return last

    def is_gone(self, step: int) -> bool:
        """Whether a live run has removed a checkpoint since the last look; then looks again."""
        gone = not self._writes and not (self.path / str(step)).exists()
        if gone:
            self._manager.reload()
        return gone

    def _set_aside(self, step: int, damage: CheckpointError) -> None:
        if not self._writes:
            log.warning("a checkpoint is damaged: %s: the one before it is taken", damage)
            return
        aside = self.path.parent / f"{_ASIDE}{step}"
        if is_first():
            while aside.exists():
                aside = aside.with_name(f"{aside.name}-again")
            (self.path / str(step)).rename(aside)
            log.warning("a checkpoint is damaged: %s: moved to %s, and the one before it is taken", damage, aside)
        gather(None)  # the others wait for it
        self._manager.reload()

    def close(self) -> None:
        """Waits for saves under way, and raises if one of them failed."""
        self._wait()
        self._manager.close()

    def _wait(self) -> None:
        """For the save under way."""
        with writing(self._newest):
            self._manager.wait_until_finished()


def _as_dict(state: Any) -> dict[str, Any]:
    """Its fields. An empty one that has a default is left out: checkpoints of before that field have none."""
    found = {f.name: (getattr(state, f.name), f) for f in dataclasses.fields(state)}
    return {k: v for k, (v, f) in found.items() if f.default_factory is dataclasses.MISSING or v}


def _from_dict(abstract: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Orbax gives back plain containers: put the leaves into the structure of the state asked for."""
    structure = jax.tree.structure(_as_dict(abstract))
    return jax.tree.unflatten(structure, jax.tree.leaves(found))


def _damage(folder: Path) -> str:
    try:
        read_published(folder, Manifest, CheckpointError)
    except (CheckpointError, OSError) as e:
        return str(e)
    return ""


def _other_version(folder: Path) -> str:
    try:
        fields, _ = manifest_fields(folder, CheckpointError)
    except (CheckpointError, OSError):  # which `_damage` tells
        return ""
    return FORMAT.problem(fields)


def _agree(folder: Path, damage: str, error: type[CheckpointError] = CheckpointError) -> None:
    """Raises the error in all processes where one has found damage: what one cannot read, none takes."""
    if damage := max(gather(damage)):
        raise error(f"{folder}: cannot be read: {damage}")


def _first_line(e: Exception) -> str:
    return f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]
