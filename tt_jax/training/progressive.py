"""Progressive validation: every row of a set that a run goes on with is predicted before it is learned.

`WORKDIR/progressive.json` has, for every set, what `tt_jax.metrics.EvalRows.report` says of it with the weights as they
were before, and the same by hour of the log.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from input_pipeline.blocks.prepared_set import Part
from tt_jax.evaluation.predict import Predict, predict_rows
from tt_jax.io.publish import write_json
from tt_jax.io.strict_json import parse_json
from tt_jax.metrics.hours import by_hour
from tt_jax.parallel.processes import is_first
from tt_jax.runs.metrics_log import MetricWriter
from tt_jax.training.setup import Setup
from tt_jax.training.step import TrainState

PROGRESSIVE = "progressive.json"


def validate(setup: Setup, predict: Predict, state: TrainState, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """The figures of the set of a stage, ready for JSON.

    `path`, `splits`, `fingerprint` of the set; `step` of the weights; `overall`, `scenarios` and `rows` as of
    `EvalRows.report`; `hours` as of `by_hour`, empty where the logs have no time. Raises `Interrupted`.
    """
    stage, data, schema = setup.stage, setup.config.data, setup.prepared.schema
    assert stage is not None
    part, weights = Part(setup.prepared, stage.splits), (state.params, state.tables)
    rows = predict_rows(predict, weights, part, data.scenarios, data.eval_batch_size, should_stop)
    of_set = {"path": stage.path, "splits": list(stage.splits), "fingerprint": stage.data, "step": stage.start}
    return {**of_set, **rows.report(), "hours": by_hour(rows) if schema.time else []}


def write(workdir: Path, writer: MetricWriter, found: dict[str, Any]) -> None:
    """Adds the figures to the file, and to the log.

    They stand in the log at the first step that follows, so that a run that is resumed before it writes them once.
    """
    if is_first():
        before = [kept for kept in read(workdir) if kept["step"] < found["step"]]
        write_json(workdir / PROGRESSIVE, [*before, found])
    step = found["step"] + 1
    figures = {f"progressive/{task}/{name}": v for task, of in found["overall"].items() for name, v in of.items()}
    writer.write_scalars(step, {**figures, **_losses(found)})
    for hour in found["hours"]:
        losses = {f"progressive/{task}/logloss": of["logloss"] for task, of in hour["overall"].items()}
        writer.write_line(step, {"hour": hour["hour"], **losses, **_losses(hour)})


def read(workdir: Path) -> list[dict[str, Any]]:
    """What `write` has written so far, a set after another. Raises `ValueError`, naming the file, if it is not that."""
    path = workdir / PROGRESSIVE
    found = parse_json(path.read_bytes(), str(path), ValueError) if path.exists() else []
    if not isinstance(found, list) or not all(isinstance(s, dict) and isinstance(s.get("step"), int) for s in found):
        raise ValueError(f"{path}: expected a list of sets, each with a step")
    return found


def _losses(found: dict[str, Any]) -> dict[str, float | None]:
    """By scenario."""
    return {
        f"progressive/{scenario}/{task}/logloss": of["logloss"]
        for scenario, tasks in found["scenarios"].items()
        for task, of in tasks.items()
    }
