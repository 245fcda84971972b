"""Which scenario an encoded example is of, as far as a tower can tell.

A tower can tell it by a categorical feature with a vocabulary that is named as the schema's scenario column.
"""

from __future__ import annotations

from collections.abc import Collection

import jax.numpy as jnp
import numpy as np
from jax import Array

from tt_jax.schema import UNKNOWN_ID, Schema, Tower


def scenario_column(schema: Schema, tower: Tower = "query") -> tuple[int, np.ndarray] | None:
    """Column of the tower's ids that tells the scenario, and scenario index int32 `[rows of its table]` by id.

    An id of no scenario has the number of scenarios. None if the tower cannot tell.
    """
    for name, column, _ in schema.layout[tower].ids:
        feature = schema.feature(name)
        owner = schema.table_owner(feature)
        if name == schema.scenario and feature.kind == "categorical" and owner.vocabulary:
            of_id = np.full(owner.rows, len(schema.scenarios), np.int32)
            for i, value in enumerate(map(str, owner.vocabulary)):
                if value in schema.scenarios:
                    of_id[i + UNKNOWN_ID + 1] = schema.scenarios.index(value)
            return column, of_id
    return None


def query_scenarios(schema: Schema, query_ids: Array | np.ndarray) -> Array:
    """Scenario index int32 `[B]` of encoded queries `[B, slots]`; the number of scenarios where they tell none."""
    place = scenario_column(schema)
    if place is None:
        return jnp.full(query_ids.shape[:1], len(schema.scenarios), jnp.int32)
    column, of_id = place
    return jnp.asarray(of_id)[jnp.maximum(jnp.asarray(query_ids[:, column]), 0)]


def covered_scenarios(schema: Schema, trained_on: Collection[str], given: str = "") -> tuple[str, ...]:
    """The scenarios that a model answers for: the one that it is `given` as, else those that it was trained on.

    `trained_on`: as in its configuration, where none means all. `given`: a name that is no scenario says nothing.
    """
    return (given,) if given in schema.scenarios else tuple(trained_on) or schema.scenarios
