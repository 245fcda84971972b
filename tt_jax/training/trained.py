"""A trained model read back from its working directory, and what is made of it: predictions, a report, a bundle."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from input_pipeline.blocks.block import PreparedError
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.bundle.fingerprint import fingerprint
from tt_jax.bundle.writer import write_bundle
from tt_jax.calibration.calibrate import CALIBRATION, read_calibration
from tt_jax.calibration.maps import Calibration, CalibrationError
from tt_jax.evaluation.full_report import full_report
from tt_jax.evaluation.gate_report import predict_with_gates
from tt_jax.evaluation.predict import make_predict, predict_rows
from tt_jax.metrics.rows import EvalRows
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.runs.checkpoints import CheckpointError, Checkpoints, Restored
from tt_jax.runs.record import Record, read_record
from tt_jax.training.setup import make_model
from tt_jax.training.step import TrainState, init_state

log = logging.getLogger(__name__)


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


def load_trained(workdir: str | Path, calibrated: bool = True) -> Trained:
    """The best checkpoint of a run, and its calibration unless that is not wanted.

    Raises `ConfigError` or `CheckpointError` where there is none, `CalibrationError` where it is one of other weights.
    """
    workdir = Path(workdir)
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


def evaluate(
    trained: Trained, data: str | Path | None = None, split: str | None = None, replicates: int = 0
) -> dict[str, Any]:
    """The full report of a model on a split of a prepared set, ready for JSON.

    Args:
      trained: the model.
      data: what `prepare` wrote; None = the set that the run was trained on.
      split: of it; None = the run's `config.data.eval_split`.
      replicates: of the bootstrap, for 95 % intervals; 0 = none.

    Returns `overall` (task -> metric -> value), `scenarios`, `slices`, `funnel` and more, see
    `tt_jax.evaluation.full_report.full_report`; `gates` of a mixture of experts, see
    `tt_jax.evaluation.gate_report.predict_with_gates`; and the model's `fingerprint`.

    Raises:
      PreparedError: the set cannot be read, or has no such split.
      ValueError: the set has another schema.
    """
    prepared = _open(trained, data)
    rows, gates = predict_with_gates(trained.model, *_arguments(trained, prepared, split))
    trained_on = _trained_on(trained, prepared)
    report = full_report(rows, trained.record.config.utility, trained_on, replicates, trained.calibration)
    return {**report, **({"gates": gates} if gates else {}), "fingerprint": trained.fingerprint}


def predictions(
    trained: Trained, data: str | Path | None = None, split: str | None = None
) -> tuple[PreparedSet, EvalRows]:
    """The prepared set, and for every row of a split the logits, not calibrated, with labels, weights and keys.

    Arguments and errors are those of `evaluate`.
    """
    prepared = _open(trained, data)
    return prepared, predict_rows(make_predict(trained.model), *_arguments(trained, prepared, split))


def export(trained: Trained, out: str | Path, data: str | Path | None = None) -> str:
    """Writes the bundle that services load; returns its fingerprint, 64 hexadecimal digits.

    Args:
      trained: the model.
      out: directory, which appears whole or not at all.
      data: the prepared set to take golden requests from; None = the one that the run was trained on.

    Raises:
      PublishError: `out` exists.
      PreparedError: the set cannot be read.
      ConfigError: the model is a heavy ranker, which has no towers to serve.
    """
    record = trained.record
    return write_bundle(
        Path(out),
        schema=record.schema,
        config=record.config,
        params=trained.params,
        tables=trained.tables,
        calibration=trained.calibration,
        metrics=trained.report or {},
        learned=record.learned(trained.step),
        golden_rows=PreparedSet.open(data or record.config.data.path).samples(record.config.data.scenarios),
    )


def _open(trained: Trained, data: str | Path | None) -> PreparedSet:
    prepared = PreparedSet.open(data or trained.record.config.data.path)
    if prepared.schema != trained.record.schema:
        raise ValueError(f"{prepared.root}: prepared with another schema than the one that the run was trained with")
    return prepared


def _arguments(trained: Trained, prepared: PreparedSet, split: str | None) -> tuple[Any, ...]:
    """Weights, and the rows to predict."""
    data, weights = trained.record.config.data, (trained.params, trained.tables)
    return weights, Part(prepared, (split or data.eval_split,)), data.scenarios, data.eval_batch_size


def _trained_on(trained: Trained, prepared: PreparedSet) -> list[Part] | None:
    """What the run was trained on; None, and a warning, where some of it is gone."""
    parts = []
    try:
        for of in trained.record.learned(trained.step):
            same = prepared.fingerprint == of["fingerprint"]
            parts.append(Part(prepared if same else PreparedSet.open(of["path"]), tuple(of["splits"])))
    except PreparedError as e:
        log.warning("new and known ids are not told apart: %s", e)
        return None
    return parts


def _abstract(model: TwoTower, record: Record) -> TrainState:
    """Shapes of the state, on one device."""
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: init_state(model, record.config, total_steps=1))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)


def _trained(record: Record, model: TwoTower, found: Restored) -> Trained:
    state, step = found.state, int(found.state.step)
    report = found.run["report"] if found.run["best_step"] in (None, step) else None  # else it is of another step
    return Trained(record, model, state.params, state.tables, step, report)
