"""A trained model read back from its working directory."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from tt_jax.fingerprint import fingerprint
from tt_jax.models.two_tower import Params, TwoTower
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
    """

    record: Record
    model: TwoTower
    params: Params
    tables: Params
    step: int
    report: dict[str, Any] | None

    @property
    def fingerprint(self) -> str:
        """Identifies schema, model and weights; the bundle made of them has the same."""
        return fingerprint(self.record.schema, self.record.config, self.params, self.tables)


def load_trained(workdir: Path) -> Trained:
    """The best checkpoint of a run. Raises `ConfigError` or `CheckpointError` where there is none."""
    record = read_record(workdir)
    model = make_model(record.config, record.schema)
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: init_state(model, record.config, total_steps=1))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    with closing(Checkpoints(workdir)) as checkpoints:
        found = checkpoints.restore_best(abstract)
    return Trained(record, model, found.state.params, found.state.tables, int(found.state.step), found.run["report"])
