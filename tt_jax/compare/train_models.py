"""Trains the runs of a plan, each once, and keeps what the comparison needs of them.

`OUT/runs/NAME/` is the working directory of a run. `done.json` is written into it last, when the model is trained and
calibrated and its predictions are stored: a run that has one is not repeated, one that has none goes on from its last
checkpoint. One that another version of this file wrote, or that was calibrated otherwise, is evaluated again.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.calibration.calibrate import CALIBRATION, fit_heads, own_tasks, read_calibration, write_calibration
from tt_jax.calibration.maps import Calibration, Method
from tt_jax.compare.plan import NOT_CALIBRATED, CompareError, Plan, Run
from tt_jax.config import Config, parse_weights
from tt_jax.evaluation.gate_report import predict_with_gates
from tt_jax.io.publish import write_json
from tt_jax.io.strict_json import dataclass_from_dict, parse_json
from tt_jax.io.verify import sha256_of
from tt_jax.metrics.rows import EvalRows
from tt_jax.schema import Schema
from tt_jax.training.loop import Result, train
from tt_jax.training.trained import Trained, load_trained

DONE = "done.json"
VERSION = 3  # of what is kept of a run


@dataclass(frozen=True)
class Done:
    """What a finished run says of itself; its predictions are beside it, a file a split.

    Attributes:
      version: see `VERSION`.
      identity: of the run, see `plan.Run`.
      data: fingerprint of its prepared set.
      weights: fingerprint of schema, model and weights of the best checkpoint, which made the predictions.
      fingerprint: of these and the calibration: what a bundle of the run, and all that is made by it, carries.
      method: see `plan.Plan.calibrate`.
      calibration: SHA-256 of its file; "" = there is none.
      not_calibrated: head -> why it could not be.
      gates: split -> diagnostics, see `tt_jax.evaluation.gate_report`; no mixture for a model without gates.
      step, best_step, total_steps: the last one, that of the best checkpoint, and how many there could have been.
      examples: seen in training.
      train_seconds: spent in training steps.
    """

    version: int
    identity: str
    data: str
    weights: str
    fingerprint: str
    method: str
    calibration: str
    not_calibrated: dict[str, str]
    gates: dict[str, Any]
    step: int
    best_step: int
    total_steps: int
    examples: int
    train_seconds: float


def finish_runs(plan: Plan, prepared: PreparedSet, out: Path, say: Callable[[str], None]) -> dict[str, Done] | None:
    """Trains what is not finished yet. By the name of a run what it says of itself; None if a signal stopped it."""
    done = {}
    for i, run in enumerate(plan.runs, 1):
        folder = out / "runs" / run.name
        found = read_done(run, folder, plan.calibrate)
        if found is None:
            again = ", evaluated by another version or calibrated otherwise: again" if (folder / DONE).exists() else ""
            say(f"run {i} of {len(plan.runs)}: {run.name}{again}")
            found = _finish(run, plan, prepared, folder)
        if found is None:
            return None
        done[run.name] = found
    return done


def read_done(run: Run, folder: Path, method: str) -> Done | None:
    """What a run has said of itself; None if it is not finished as this version does it, calibrated by that method.

    Raises `CompareError` if it is not this run.
    """
    path = folder / DONE
    if not path.exists():
        return None
    data = parse_json(path.read_text(), str(path), CompareError)
    if not isinstance(data, dict) or (data.get("version"), data.get("method")) != (VERSION, method):
        return None
    done = dataclass_from_dict(Done, data, str(path), CompareError)
    if (done.identity, done.data) != (run.identity, run.data):
        raise CompareError(f"{folder}: holds the run {done.identity[:12]}, expected {run.identity[:12]}; remove it")
    return done


def _finish(run: Run, plan: Plan, prepared: PreparedSet, folder: Path) -> Done | None:
    result = train(run.config, folder, name=run.name)
    if result.stopped_by:
        return None
    (folder / DONE).unlink(missing_ok=True)  # before what it speaks of changes
    trained, data = load_trained(folder, calibrated=False), run.config.data
    fingerprint = trained.fingerprint

    def predict(split: str) -> tuple[EvalRows, dict[str, Any]]:
        part, weights = Part(prepared, (split,)), (trained.params, trained.tables)
        return predict_with_gates(trained.model, weights, part, data.scenarios, data.eval_batch_size)

    gates = {}
    for split in plan.splits:
        rows, gates[split] = predict(split)
        _store(folder, split, fingerprint, rows.logits)
    calibration, left_out = None, {}
    if plan.calibrate != NOT_CALIBRATED:
        rows, _ = predict(data.eval_split)  # by the same program, which is compiled
        calibration, left_out = _calibrate(trained, rows, plan.calibrate, fingerprint)
    (folder / CALIBRATION).unlink(missing_ok=True)
    if calibration is not None:
        write_calibration(folder, calibration)
    trained = dataclasses.replace(trained, calibration=calibration)
    done = Done(
        version=VERSION,
        identity=run.identity,
        data=run.data,
        weights=fingerprint,
        fingerprint=trained.fingerprint,
        method=plan.calibrate,
        calibration="" if calibration is None else sha256_of(folder / CALIBRATION),
        not_calibrated=left_out,
        gates=gates,
        **_training(result, trained),
    )
    write_json(folder / DONE, dataclasses.asdict(done))
    return done


def _training(result: Result, trained: Trained) -> dict[str, Any]:
    return {
        "step": result.step,
        "best_step": trained.step,
        "total_steps": result.total_steps,
        "examples": result.step * trained.record.config.data.batch_size,
        "train_seconds": result.facts.train_seconds,
    }


def _calibrate(
    trained: Trained, rows: EvalRows, method: Method, weights: str
) -> tuple[Calibration | None, dict[str, str]]:
    """Fits every head on the split that the run's checkpoint was chosen by; no split that it is judged on."""
    config, schema = trained.record.config, trained.record.schema
    return fit_heads(rows, method, fitted_tasks(schema, config), config.data.eval_split, weights)


def fitted_tasks(schema: Schema, config: Config) -> dict[str, str]:
    """Head -> the task that its calibration is fitted to: its own, unless the run learned it by another one only."""
    weights = parse_weights(config.train.task_weights, "train.task_weights")
    learned = [t for t in schema.tasks if weights.get(t.name, t.weight)]
    by_others = {t.head or t.name: t.name for t in reversed(learned)}
    return {**own_tasks(schema), **by_others, **{t.name: t.name for t in learned if not t.head}}


def _store(folder: Path, split: str, weights: str, logits: np.ndarray) -> None:
    path = _predictions(folder, split)
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as f:
            np.savez(f, weights=np.array(weights), logits=logits)
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {e}") from e


def read_predictions(folder: Path, split: str, done: Done) -> np.ndarray:
    """Logits float32 `[n, H]`, not calibrated, of the rows of the run's scenarios, in stored order.

    Raises `CompareError` if they are not there, or of other weights.
    """
    path = _predictions(folder, split)
    try:
        with path.open("rb") as f, np.load(f, allow_pickle=False) as found:
            weights, logits = str(found["weights"]), found["logits"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise CompareError(f"{path}: not the predictions of a run: {e}; remove {folder / DONE} to repeat it") from e
    if weights != done.weights:
        raise CompareError(f"{path}: made by the weights {weights[:12]}, expected {done.weights[:12]}")
    return logits


def read_fitted(folder: Path, done: Done, schema: Schema) -> Calibration | None:
    """The calibration that a run was finished with, None if none. Raises `CompareError` if it has another one now."""
    path = folder / CALIBRATION
    if (sha256_of(path) if path.exists() else "") != done.calibration:
        raise CompareError(f"{path}: not what the run was finished with; remove {folder / DONE} to evaluate it again")
    return read_calibration(folder, schema)


def _predictions(folder: Path, split: str) -> Path:
    return folder / f"predictions-{quote(split, safe='')}.npz"
