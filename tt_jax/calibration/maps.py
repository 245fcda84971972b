"""Calibration of a trained model: per head and scenario a rising map of the logit, in a file bound to the weights.

Temperature and Platt are affine, `scale * logit + shift`: they fold into query vectors and biases, so serving pays
nothing. Isotonic is linear between at most 32 knots and of slope 1 outside them, so ads keep their order.

The scenario of a query is what the query feature of the schema's scenario column says, in training data as in a
request. Where there is no such feature, or it has no known value, the pooled map holds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tt_jax.io.strict_json import dataclass_from_dict, nearest, parse_json
from tt_jax.models.scenario import scenario_column
from tt_jax.schema import Schema

Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")
MAX_KNOTS = 32


class CalibrationError(ValueError):
    """A calibration that must not be used. The message names the key and what is wrong with it."""


@dataclass(frozen=True)
class Curve:
    """The map of one head, for one scenario or pooled: first `scale * logit + shift`, then through the knots, if any.

    Attributes:
      scale, shift: 1 and 0 with knots.
      knots, values: logits and what they become, both rising; empty = none.
      rows, positives: labelled rows that it was fitted to, and the sum of their labels.
      pooled: whether it is the pooled map, because its scenario had too few rows or labels.
    """

    scale: float = 1.0
    shift: float = 0.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    rows: int = 0
    positives: float = 0.0
    pooled: bool = False


@dataclass(frozen=True)
class Calibration:
    """The maps of a model. See `from_json` for what is checked.

    Attributes:
      method: how they were fitted.
      model: fingerprint of the model without calibration.
      split: that they were fitted on.
      tasks: head -> the task whose labels it was fitted to; a head that is not there keeps its logits.
      pooled: head -> map of queries of no known scenario.
      scenarios: scenario -> head -> map; empty where the query tower cannot tell the scenario.
    """

    method: Method
    model: str
    split: str
    tasks: dict[str, str]
    pooled: dict[str, Curve]
    scenarios: dict[str, dict[str, Curve]]

    def to_json(self) -> str:
        """Canonical JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, schema: Schema) -> Calibration:
        """The calibration of `to_json`, for models of a schema. Raises `CalibrationError` naming what does not fit."""
        where = "calibration"
        data = parse_json(text, where, CalibrationError)
        found = dataclass_from_dict(Calibration, data, where, CalibrationError, complete=True)
        _check(found, schema)
        return found

    def curves(self, schema: Schema) -> Curves:
        """All maps as arrays."""
        by_scenario = [self.scenarios.get(name, self.pooled) for name in schema.scenarios]
        return Curves.of([[maps.get(h, Curve()) for h in schema.heads] for maps in (*by_scenario, self.pooled)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Curves:
    """Maps as arrays, of any shape that broadcasts with the logits; K segments between knots, 0 without knots.

    Attributes:
      scale, shift: float32 `[...]`, of the affine part.
      ends: float32 `[2, ...]` or `[0, ...]`: the first knot and the last.
      base: float32 `[...]`, value at the first knot.
      segments: float32 `[3, K, ...]`: where each segment begins, how wide it is, and its slope.
    """

    scale: Array
    shift: Array
    ends: Array
    base: Array
    segments: Array

    @staticmethod
    def of(curves: Sequence[Sequence[Curve]]) -> Curves:
        """`[S + 1, H]`: a row per scenario, the pooled one last."""
        shape = (len(curves), len(curves[0]))
        flat = [c for row in curves for c in row]
        most = max(len(c.knots) for c in flat)

        def array(values: Any, lead: tuple[int, ...] = ()) -> Array:
            found = np.asarray(values, np.float32).reshape(*shape, *lead)
            return jnp.asarray(np.moveaxis(found, (0, 1), (-2, -1)))

        if not most:
            zeros, none = jnp.zeros(shape, jnp.float32), jnp.zeros((0, *shape), jnp.float32)
            scale, shift = array([c.scale for c in flat]), array([c.shift for c in flat])
            return Curves(scale, shift, none, zeros, jnp.zeros((3, 0, *shape), jnp.float32))
        knots = [c.knots or (0.0,) for c in flat]  # one knot at 0, of value 0, is the identity
        values = [c.values or (0.0,) for c in flat]
        return Curves(
            scale=array([c.scale for c in flat]),
            shift=array([c.shift for c in flat]),
            ends=array([(x[0], x[-1]) for x in knots], (2,)),
            base=array([y[0] for y in values]),
            segments=array([_segments(x, y, most - 1) for x, y in zip(knots, values, strict=True)], (3, most - 1)),
        )

    @staticmethod
    def identity(schema: Schema) -> Curves:
        """Maps that change nothing."""
        return Curves.of([[Curve()] * len(schema.heads)] * (len(schema.scenarios) + 1))

    def at(self, scenario_B: Array) -> Curves:
        """The maps `[B, H]` of queries, by `query_scenarios`."""
        return jax.tree.map(lambda x: x[..., scenario_B, :], self)

    def head(self, h: int) -> Curves:
        """`[B, 1]`, of maps `[B, H]`: those of one head, for logits `[B, ads]`."""
        return jax.tree.map(lambda x: x[..., h : h + 1], self)

    def per_ad(self) -> Curves:
        """`[B, 1, H]`, of maps `[B, H]`: for logits `[B, ads, H]`."""
        return jax.tree.map(lambda x: x[..., None, :], self)

    def fold(self, queries_TBD: Array, biases_T: Array) -> tuple[Array, Array]:
        """Query vectors and biases `[T, B]` whose logits have gone through the affine part; of maps `[B, H]`."""
        scale_TB, shift_TB = self.scale.T, self.shift.T
        return queries_TBD * scale_TB[:, :, None], biases_T[:, None] * scale_TB + shift_TB

    def bend(self, logits: Array) -> Array:
        """Logits that have gone through the affine part already, through the knots: nothing, without knots."""
        if not self.ends.shape[0]:
            return logits
        zero = jnp.float32(0.0)
        first, last = self.ends
        bent = self.base + jnp.minimum(logits - first, zero) + jnp.maximum(logits - last, zero)
        # A sum of clipped ramps, not a search: it has no branch and no gather, and fuses with what is around it.
        for start, width, slope in zip(*self.segments, strict=True):
            bent += slope * jnp.minimum(jnp.maximum(logits - start, zero), width)
        return bent

    def apply(self, logits: Array) -> Array:
        """Calibrated logits."""
        return self.bend(logits * self.scale + self.shift)


def _segments(knots: Sequence[float], values: Sequence[float], count: int) -> np.ndarray:
    """`[3, count]`; those past the last knot have no width and no slope."""
    out = np.zeros((3, count))
    x, y = np.array(knots), np.array(values)
    out[:, : x.size - 1] = np.stack([x[:-1], np.diff(x), np.diff(y) / np.diff(x)])
    return out


def _check(c: Calibration, schema: Schema) -> None:
    if c.scenarios and (c.scenarios.keys() != set(schema.scenarios) or scenario_column(schema) is None):
        raise CalibrationError(f"calibration.scenarios: expected those of the schema, got {', '.join(c.scenarios)}")
    for head, task in c.tasks.items():
        if head not in schema.heads:
            raise CalibrationError(f"calibration.tasks: unknown head {head!r}{nearest(head, schema.heads)}")
        if task not in schema.task_names:
            raise CalibrationError(f"calibration.tasks.{head}: unknown task {task!r}{nearest(task, schema.task_names)}")
    for where, maps in (("pooled", c.pooled), *((f"scenarios.{s}", maps) for s, maps in c.scenarios.items())):
        if maps.keys() != c.tasks.keys():
            raise CalibrationError(f"calibration.{where}: expected the heads {', '.join(c.tasks)}")
        for head, curve in maps.items():
            _check_curve(curve, f"calibration.{where}.{head}")


def _check_curve(curve: Curve, where: str) -> None:
    if not (math.isfinite(curve.scale) and curve.scale > 0 and math.isfinite(curve.shift)):
        raise CalibrationError(f"{where}: expected a scale > 0 and a finite shift, got {curve.scale}, {curve.shift}")
    if not len(curve.knots) == len(curve.values) <= MAX_KNOTS:
        counts = f"{len(curve.knots)} and {len(curve.values)}"
        raise CalibrationError(f"{where}: expected as many values as knots, at most {MAX_KNOTS}, got {counts}")
    for name, numbers in (("knots", curve.knots), ("values", curve.values)):
        if not all(map(math.isfinite, numbers)) or any(
            a >= b for a, b in pairwise(np.array(numbers, np.float32).tolist())
        ):
            raise CalibrationError(f"{where}.{name}: expected rising float32 numbers")
