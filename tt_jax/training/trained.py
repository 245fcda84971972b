"""A trained model read back from its working directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from tt_jax.bundle.fingerprint import fingerprint
from tt_jax.calibration.calibrate import CALIBRATION, read_calibration
from tt_jax.calibration.maps import Calibration, CalibrationError
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.runs.checkpoints import CheckpointError, Checkpoints, Restored
from tt_jax.runs.record import Record, read_record
from tt_jax.training.setup import make_model
from tt_jax.training.step import TrainState, init_state


@dataclass(frozen=True)
class Trained:
    """The model of a run at its best step.

    Attributes:
      record: what the run used.
      model, params, tables: the model and its weights, on one device.
      step: of the checkpoint.
      report: evaluation of that step; None if it was never evaluated.
      calibration: of these weights; None if they have none.
    """

    record: Record
    model: TwoTower
    params: Params
    tables: Params
    step: int
    report: dict[str, Any] | None
    calibration: Calibration | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies schema, model, weights and calibration; the bundle made of them has the same."""
        return fingerprint(self.record.schema, self.record.config, self.params, self.tables, self.calibration)


def load_trained(workdir: Path, calibrated: bool = True) -> Trained:
    """The best checkpoint of a run, and its calibration unless that is not wanted.

    Raises `ConfigError` or `CheckpointError` where there is none, `CalibrationError` where it is one of other weights.
    """
    record = read_record(workdir)
    model = make_model(record.config, record.schema)
    with closing(Checkpoints(workdir)) as checkpoints:
        found = checkpoints.restore_best(_abstract(model, record))
    trained = _trained(record, model, found)
    calibration = read_calibration(workdir, record.schema) if calibrated else None
    if calibration is None:
        return trained
    if calibration.model != trained.fingerprint:
        raise CalibrationError(
            f"{workdir / CALIBRATION}: fitted to the model {calibration.model}, but the run's best is now "
            f"{trained.fingerprint}; run `tt-jax calibrate` again, or remove the file"
        )
    return dataclasses.replace(trained, calibration=calibration)


def load_saved(workdir: Path) -> Iterator[Trained]:
    """Every checkpoint of a run, newest first, each read when its turn comes; without calibration.

    Those that a live run has removed by then are left out.

    Raises `ConfigError` where there is no run, `CheckpointError` for a checkpoint that cannot be read.
    """
    record = read_record(workdir)
    model = make_model(record.config, record.schema)
    abstract = _abstract(model, record)
    with closing(Checkpoints(workdir)) as checkpoints:
        for step in reversed(checkpoints.steps()):
            try:
                found = checkpoints.restore(abstract, step)
            except CheckpointError:
                if checkpoints.is_gone(step):
                    continue
                raise
            yield _trained(record, model, found)


def _abstract(model: TwoTower, record: Record) -> TrainState:
    """Shapes of the state, on one device."""
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: init_state(model, record.config, total_steps=1))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)


def _trained(record: Record, model: TwoTower, found: Restored) -> Trained:
    state, step = found.state, int(found.state.step)
    report = found.run["report"] if found.run["best_step"] in (None, step) else None  # else it is of another step
    return Trained(record, model, state.params, state.tables, step, report)
