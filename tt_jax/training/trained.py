"""A trained model read back from its working directory."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from tt_jax.calibration import Calibration, CalibrationError
from tt_jax.fingerprint import fingerprint
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.training.calibrate import CALIBRATION, read_calibration
from tt_jax.training.checkpoint import Checkpoints
from tt_jax.training.setup import make_model
from tt_jax.training.step import init_state
from tt_jax.training.workdir import Record, read_record


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
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: init_state(model, record.config, total_steps=1))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    with closing(Checkpoints(workdir)) as checkpoints:
        found = checkpoints.restore_best(abstract)
    trained = Trained(record, model, found.state.params, found.state.tables, int(found.state.step), found.run["report"])
    calibration = read_calibration(workdir, record.schema) if calibrated else None
    if calibration is None:
        return trained
    if calibration.model != trained.fingerprint:
        raise CalibrationError(
            f"{workdir / CALIBRATION}: fitted to the model {calibration.model}, but the run's best is now "
            f"{trained.fingerprint}; run `tt-jax calibrate` again, or remove the file"
        )
    return dataclasses.replace(trained, calibration=calibration)
