"""Trains the runs of a plan, each once, and keeps what the comparison needs of them.

`OUT/runs/NAME/` is the working directory of a run. `done.json` is written into it last, when the model is trained and
its predictions are stored: a run that has one is not repeated, one that has none goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jax
import numpy as np

from input_pipeline.blocks import PreparedSet
from input_pipeline.pipeline import eval_batches
from tt_jax.compare.plan import CompareError, Plan, Run
from tt_jax.metrics import sigmoid
from tt_jax.publish import write_json
from tt_jax.strict_json import dataclass_from_dict, parse_json
from tt_jax.training.evaluate import INPUT_ARRAYS, make_predict
from tt_jax.training.loop import Result, train
from tt_jax.training.trained import Trained, load_trained

DONE = "done.json"


@dataclass(frozen=True)
class Done:
    """What a finished run says of itself; its predictions are beside it, a file a split.

    Attributes:
      identity: of the run, see `plan.Run`.
      data: fingerprint of its prepared set.
      weights: fingerprint of schema, model and weights of the best checkpoint, which made the predictions.
      step, best_step, total_steps: the last one, that of the best checkpoint, and how many there could have been.
      examples: seen in training.
      train_seconds: spent in training steps.
    """

    identity: str
    data: str
    weights: str
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
        found = read_done(run, folder)
        if found is None:
            say(f"run {i} of {len(plan.runs)}: {run.name}")
            found = _finish(run, plan.splits, prepared, folder)
        if found is None:
            return None
        done[run.name] = found
    return done


def read_done(run: Run, folder: Path) -> Done | None:
    """What a run has said of itself; None if it is not finished. Raises `CompareError` if it is not this run."""
    path = folder / DONE
    if not path.exists():
        return None
    done = dataclass_from_dict(Done, parse_json(path.read_text(), str(path), CompareError), str(path), CompareError)
    if (done.identity, done.data) != (run.identity, run.data):
        raise CompareError(f"{folder}: holds the run {done.identity[:12]}, expected {run.identity[:12]}; remove it")
    return done


def _finish(run: Run, splits: Sequence[str], prepared: PreparedSet, folder: Path) -> Done | None:
    result = train(run.config, folder, name=run.name)
    if result.stopped_by:
        return None
    trained = load_trained(folder)
    weights = trained.fingerprint
    for split in splits:
        _store(folder, split, weights, predict_split(trained, prepared, split))
    done = _describe(run, result, trained, weights)
    write_json(folder / DONE, dataclasses.asdict(done))
    return done


def _describe(run: Run, result: Result, trained: Trained, weights: str) -> Done:
    return Done(
        identity=run.identity,
        data=run.data,
        weights=weights,
        step=result.step,
        best_step=trained.step,
        total_steps=result.total_steps,
        examples=result.step * run.config.data.batch_size,
        train_seconds=result.facts.train_seconds,
    )


def predict_split(trained: Trained, prepared: PreparedSet, split: str) -> np.ndarray:
    """Probabilities float32 `[n, H]` of the rows of the run's scenarios, in stored order."""
    data, predict = trained.record.config.data, make_predict(trained.model)
    found = []
    for batch, rows in eval_batches(prepared, split, data.scenarios, data.eval_batch_size):
        logits_BH = jax.device_get(predict(trained.params, trained.tables, {n: batch[n] for n in INPUT_ARRAYS}))
        found.append(sigmoid(logits_BH[:rows]))
    return np.concatenate(found)


def _store(folder: Path, split: str, weights: str, probabilities: np.ndarray) -> None:
    path = _predictions(folder, split)
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as f:
            np.savez(f, weights=np.array(weights), probabilities=probabilities)
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {e}") from e


def read_predictions(folder: Path, split: str, done: Done) -> np.ndarray:
    """What `predict_split` gave. Raises `CompareError` if it is not there, or of other weights."""
    path = _predictions(folder, split)
    try:
        with np.load(path, allow_pickle=False) as found:
            weights, probabilities = str(found["weights"]), found["probabilities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise CompareError(f"{path}: not the predictions of a run: {e}; remove {folder / DONE} to repeat it") from e
    if weights != done.weights:
        raise CompareError(f"{path}: made by the weights {weights[:12]}, expected {done.weights[:12]}")
    return probabilities


def _predictions(folder: Path, split: str) -> Path:
    return folder / f"predictions-{quote(split, safe='')}.npz"
