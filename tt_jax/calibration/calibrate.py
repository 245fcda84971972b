"""Fits the calibration of a trained model, applies it, keeps it beside the weights as `WORKDIR/calibration.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tt_jax.calibration import fits
from tt_jax.calibration.maps import Calibration, CalibrationError, Curve, Curves, Method
from tt_jax.io.publish import Format, read_digested, write_digested
from tt_jax.metrics.rows import EvalRows
from tt_jax.models.scenario import scenario_column
from tt_jax.schema import Schema

CALIBRATION = "calibration.json"
FORMAT = Format("tt-jax calibration", (1, 2))  # 1 had no digest
# A scenario with fewer rows, or with fewer of either label, takes the pooled map.
MIN_ROWS, MIN_LABELS = 1000, 50.0
_apply = jax.jit(Curves.apply)


def fit_calibration(rows: EvalRows, method: Method, tasks: Mapping[str, str], split: str, model: str) -> Calibration:
    """The maps of every head of `tasks`, pooled and, where the queries tell the scenario, for each of them.

    Args:
      rows: of the split, with predictions that are not calibrated.
      method: how.
      tasks: head -> the task whose labels, hard or soft, it is fitted to.
      split: name of the split.
      model: fingerprint of the model without calibration.

    Raises `CalibrationError` naming the task that has no labels to fit to.
    """
    schema, everywhere = rows.schema, np.ones(len(rows), bool)
    pooled = {h: _fit(rows, method, h, t, everywhere) for h, t in tasks.items()}
    for head, curve in pooled.items():
        if not (curve.positives > 0 and curve.rows - curve.positives > 0):
            raise CalibrationError(
                f"task {tasks[head]!r} has {curve.rows} labelled rows of the split {split!r}, and {curve.positives:g}"
                f" positives; expected both labels to fit the head {head!r} to"
            )
    scenarios = {}
    if scenario_column(schema) is not None:
        for s, name in enumerate(schema.scenarios):
            part = rows.query_scenario == s
            scenarios[name] = {h: _of_scenario(rows, method, h, t, part, pooled[h]) for h, t in tasks.items()}
    return Calibration(method, model, split, dict(tasks), pooled, scenarios)


def fit_heads(
    rows: EvalRows, method: Method, tasks: Mapping[str, str], split: str, model: str
) -> tuple[Calibration | None, dict[str, str]]:
    """`fit_calibration` of the heads that can be fitted, None if none can, and by head why the others cannot."""
    fitted: list[Calibration] = []
    left_out: dict[str, str] = {}
    for head, task in tasks.items():
        try:
            fitted.append(fit_calibration(rows, method, {head: task}, split, model))
        except CalibrationError as e:
            left_out[head] = str(e)
    if not fitted:
        return None, left_out
    kept = {head: task for c in fitted for head, task in c.tasks.items()}
    pooled = {head: curve for c in fitted for head, curve in c.pooled.items()}
    scenarios = {s: {h: curve for c in fitted for h, curve in c.scenarios[s].items()} for s in fitted[0].scenarios}
    return Calibration(method, model, split, kept, pooled, scenarios), left_out


def calibrated(rows: EvalRows, calibration: Calibration) -> EvalRows:
    """The rows with calibrated predictions. They need a `query_scenario`."""
    assert rows.query_scenario is not None
    return rows.with_logits(calibrated_logits(rows.logits, rows.query_scenario, rows.schema, calibration))


def calibrated_logits(
    logits: np.ndarray, query_scenario: np.ndarray, schema: Schema, calibration: Calibration
) -> np.ndarray:
    """Logits float32 `[N, H]` as the scorer would have them. `query_scenario`: int32 `[N]`, see `query_scenarios`."""
    return np.asarray(_apply(calibration.curves(schema).at(jnp.asarray(query_scenario)), jnp.asarray(logits)))


def own_tasks(schema: Schema, names: tuple[str, ...] = ()) -> dict[str, str]:
    """Head -> task, of these tasks; without names each head's own. Raises `CalibrationError` naming a wrong one."""
    tasks: dict[str, str] = {}
    for name in names or schema.heads:
        if name not in schema.task_names:
            raise CalibrationError(f"unknown task {name!r}; the schema has {', '.join(schema.task_names)}")
        head = schema.heads[schema.head_of_task[schema.task_names.index(name)]]
        if head in tasks:
            raise CalibrationError(f"tasks {tasks[head]!r} and {name!r} are of one head, {head!r}; name one of them")
        tasks[head] = name
    return tasks


def write_calibration(workdir: Path, calibration: Calibration) -> None:
    """Writes the calibration of a run, whole or not at all."""
    write_digested(workdir / CALIBRATION, dataclasses.asdict(calibration), FORMAT)


def read_calibration(workdir: Path, schema: Schema) -> Calibration | None:
    """The calibration of a run; None if it has none. Raises `CalibrationError` naming the file."""
    path = workdir / CALIBRATION
    if not path.exists():
        return None
    fields = read_digested(path, FORMAT, CalibrationError)
    try:
        return Calibration.from_json(json.dumps(fields), schema)
    except ValueError as e:
        raise CalibrationError(f"{path}: {e}") from None


def _of_scenario(rows: EvalRows, method: Method, head: str, task: str, part: np.ndarray, pooled: Curve) -> Curve:
    curve = _fit(rows, method, head, task, part)
    enough = curve.rows >= MIN_ROWS and MIN_LABELS <= curve.positives <= curve.rows - MIN_LABELS
    if enough and curve.scale > 0:
        return curve
    return Curve(pooled.scale, pooled.shift, pooled.knots, pooled.values, curve.rows, curve.positives, pooled=True)


def _fit(rows: EvalRows, method: Method, head: str, task: str, part: np.ndarray) -> Curve:
    t = rows.schema.task_names.index(task)
    y = rows.labels[part, t]
    z, w = rows.logits[part, rows.schema.heads.index(head)], rows.weights[part, t]
    labelled = ~np.isnan(y) & (w > 0)
    z, y, w = z[labelled], y[labelled], w[labelled]
    count, positives = int(y.size), float(y.sum(dtype=np.float64))
    if not 0 < positives < count:
        return Curve(rows=count, positives=positives)
    if method == "isotonic":
        line = fits.fit_isotonic(z, y, w)
        knots, values = (tuple(a.astype(np.float32).tolist()) for a in (line.knots, line.values))
        return Curve(knots=knots, values=values, rows=count, positives=positives)
    fit = fits.fit_temperature if method == "temperature" else fits.fit_platt
    line = fit(z, y, w)
    if line.scale <= 0 and part.all():
        raise CalibrationError(f"task {task!r}: higher logits of {head!r} have fewer positives: nothing to fit")
    return Curve(line.scale, line.shift, rows=count, positives=positives)
