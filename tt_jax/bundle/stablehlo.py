"""The functions that a bundle carries as StableHLO, and their arguments; `serving/portable.py` is how to call them.

T are the tasks with a head, b queries or ads, n ads:

    query_tower, ad_tower   (params, tables, ids int32 [b, S], floats f32 [b, F]) -> f32 [b, T, D]
    scenarios               (query ids int32 [b, S]) -> int32 [b], of `tt_jax.models.scenario.query_scenarios`
    scorer                  (queries f32 [b, T, D], ads f32 [n, T, D], bias f32 [T], bids f32 [n], valid bool [n],
                             scenarios int32 [b], others f32 [b, n, U], if the utility uses U > 0 numbers of ads and
                             values of requests: in the order of the schema, numbers first)
                            -> positions int32 [b, 100], utility f32 [b, 100] (-inf past the valid ads),
                               probabilities f32 [b, 100, T]; n >= 100: pad with ads that are not valid
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tt_jax.calibration.maps import Calibration, Curves
from tt_jax.models.scenario import query_scenarios
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, Tower
from tt_jax.utility import Utility

SCORER_K = 100


@dataclass(frozen=True)
class Exportable:
    """A function, and the shapes and dtypes of its arguments, symbolic where any size will do."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def stablehlo_functions(model: TwoTower, utility: Utility, calibration: Calibration | None) -> dict[str, Exportable]:
    """All of them, by name. Parameters are arguments, calibration and utility are part of the scorer."""
    (b,) = jax.export.symbolic_shape("b")
    ids = jax.ShapeDtypeStruct((b, model.schema.layout["query"].id_slots), jnp.int32)
    return {
        **{f"{tower}_tower": _tower(model, tower) for tower in TOWERS},
        "scenarios": Exportable(lambda ids: query_scenarios(model.schema, ids), (ids,)),
        "scorer": _scorer(model, utility, calibration),
    }


def _tower(model: TwoTower, tower: Tower) -> Exportable:
    layout = model.schema.layout[tower]
    (b,) = jax.export.symbolic_shape("b")
    ids = jax.ShapeDtypeStruct((b, layout.id_slots), jnp.int32)
    floats = jax.ShapeDtypeStruct((b, layout.float_width), jnp.float32)

    def embed(params: Any, tables: Any, ids: Array, floats: Array) -> Array:
        return model.embed(params, tables, tower, ids, floats)

    return Exportable(embed, (*model.shapes(), ids, floats))


def _scorer(model: TwoTower, utility: Utility, calibration: Calibration | None) -> Exportable:
    tasks, width = len(model.schema.heads), model.config.output_dim
    b, n = jax.export.symbolic_shape("b,n", constraints=[f"n>={SCORER_K}"])
    curves = calibration.curves(model.schema) if calibration else Curves.identity(model.schema)  # small: constants
    pooled = len(model.schema.scenarios)

    def score(
        queries: Array, ads: Array, bias: Array, bids: Array, valid: Array, scenarios: Array, *others: Array
    ) -> tuple[Array, Array, Array]:
        known = (scenarios >= 0) & (scenarios < pooled)
        of_query = curves.at(jnp.where(known, scenarios, pooled)).per_ad()
        logits = jnp.einsum("btd,ntd->bnt", queries, ads, precision="highest") + bias
        probabilities = jax.nn.sigmoid(of_query.apply(logits))
        named = {task: probabilities[:, :, t] for t, task in enumerate(utility.tasks)}
        given = {name: others[0][:, :, i] for i, name in enumerate(utility.other_names)}
        value = jnp.broadcast_to(utility(named, bids, given), probabilities.shape[:2])
        ranked = jnp.where(valid & ~jnp.isnan(value), value, -jnp.inf)
        top, positions = jax.lax.top_k(ranked, SCORER_K)
        return positions, top, jnp.take_along_axis(probabilities, positions[:, :, None], axis=1)

    shapes = ((b, tasks, width), (n, tasks, width), (tasks,), (n,))
    floats = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    valid, scenarios = jax.ShapeDtypeStruct((n,), jnp.bool_), jax.ShapeDtypeStruct((b,), jnp.int32)
    count = len(utility.other_names)
    others = (jax.ShapeDtypeStruct((b, n, count), jnp.float32),) if count else ()
    return Exportable(score, (*floats, valid, scenarios, *others))
