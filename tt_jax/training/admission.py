"""Which ids get the rows of a dynamic table, decided before each step's lookup, on the device.

An id without a row is counted where it occurs, in a hashed array of counters. Once its counter reaches `admit_after`,
it takes a free row of its bucket, or that of the least recently used id if that did not occur for `evict_after` steps.
Of several ids that want a row of one bucket in one step, the one with the largest key gets it; the others ask again
when they occur again. Counters are halved every `evict_after` steps, so that ids count which are frequent now.

All of it is a function of the state and of the set of ids in the batch, however they are spread over devices: every
device decides alike, and a resumed run as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from tt_jax.models.dynamic import FIRST_KEY, FREE, find_rows, keys_name, keys_shape
from tt_jax.models.embedding import Tables
from tt_jax.models.two_tower import Params
from tt_jax.schema import PAD_ID, TOWERS, UNKNOWN_ID, WAYS, Feature
from tt_jax.training.collectives import Exchange
from tt_jax.training.optimizers import Table, segments

COUNTERS = 4  # for each row: ids that share one are admitted a little early


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Admission:
    """What a step knows of a dynamic table besides its keys.

    Attributes:
      last_used: int32 `[buckets, WAYS]`, the step at which a row's id last occurred.
      counters: int32 `[COUNTERS * rows]`, occurrences of ids without a row.
      admitted, evicted: int32 scalars, ids since the first step; their difference is the rows in use.
    """

    last_used: Array
    counters: Array
    admitted: Array
    evicted: Array


class Admitted(NamedTuple):
    """What a step's admissions lead to; `rows` int32 `[M]`: those of the feature that have a new id, filled with -1."""

    keys: Array
    admission: Admission
    rows: Array


class TrainedTables(NamedTuple):
    """Tables with their keys, accumulators by table, and `Admission` by owner of dynamic rows."""

    values: Params
    accumulators: Params
    admissions: Mapping[str, Admission]


def fresh_admission(feature: Feature) -> Admission:
    """Before the first step."""
    shapes = keys_shape(feature), (COUNTERS * feature.dynamic_rows,), (), ()
    return Admission(*(jnp.zeros(shape, jnp.int32) for shape in shapes))  # each its own: a step is donated them


def admit(feature: Feature, keys: Array, admission: Admission, ids_M: Array, step: Array) -> Admitted:
    """Admits ids of one step.

    Args:
      feature: that owns the table.
      keys, admission: of the table, donated by the caller's jit.
      ids_M: int32 `[M]`, what the encoder gave for all slots of all rows of the batch, on all devices.
      step: int32 scalar, steps done before.
    """
    ids, occurrences = _distinct(ids_M)
    rows = find_rows(keys, ids)
    slots = jnp.int32(keys.size)  # one past the end of the flat keys: dropped
    used = jnp.where(rows >= FIRST_KEY, rows - FIRST_KEY, slots)
    last_used = admission.last_used.reshape(-1).at[used].set(step, mode="drop")

    size = jnp.int32(admission.counters.shape[0])
    unknown = (ids >= FIRST_KEY) & (rows == UNKNOWN_ID)
    counter = jnp.where(unknown, ids % size, size)
    counters = _aged(admission.counters, step, feature.evict_after).at[counter].add(occurrences, mode="drop")
    asks = unknown & (counters.at[counter].get(mode="fill", fill_value=0) >= feature.admit_after)

    bucket = ids % jnp.int32(keys.shape[0])
    is_free, age = keys[bucket] == FREE, step - last_used.reshape(keys.shape)[bucket]
    way = jnp.argmax(jnp.where(is_free, jnp.int32(2**31 - 1), age), axis=1).astype(jnp.int32)
    takes_free = is_free.any(axis=1)
    is_old = (age.max(axis=1) >= feature.evict_after) if feature.evict_after else jnp.zeros_like(takes_free)
    slot = jnp.where(asks & (takes_free | is_old), bucket * WAYS + way, slots)

    flat = keys.reshape(-1).at[slot].set(FREE, mode="drop").at[slot].max(ids, mode="drop")
    won = (slot < slots) & (flat.at[slot].get(mode="fill", fill_value=FREE) == ids)
    slot = jnp.where(won, slot, slots)
    after = Admission(
        last_used=last_used.at[slot].set(step, mode="drop").reshape(keys.shape),
        counters=counters.at[jnp.where(won, counter, size)].set(0, mode="drop"),
        admitted=admission.admitted + jnp.sum(won, dtype=jnp.int32),
        evicted=admission.evicted + jnp.sum(won & ~takes_free, dtype=jnp.int32),
    )
    return Admitted(flat.reshape(keys.shape), after, jnp.where(won, slot + FIRST_KEY, jnp.int32(-1)))


def admit_batch(
    tables: Tables, state: TrainedTables, arrays: Mapping[str, Array], step: Array, exchange: Exchange
) -> TrainedTables:
    """The tables of a schema once the ids of a batch have been admitted; as they were if none of them is dynamic.

    A new id's row starts as a copy of the row of unknown values, which is trained by ids like it, without history.
    """
    values, accumulators, admissions = dict(state.values), dict(state.accumulators), dict(state.admissions)
    for owner in tables.dynamic:
        (table, first), keys = tables.place(owner), keys_name(owner.name)
        ids = [arrays[f"{t}_ids"][:, tables.columns(owner, t)].reshape(-1) for t in TOWERS]
        found = admit(owner, values[keys], admissions[owner.name], exchange.everyones(jnp.concatenate(ids)), step)
        rows = jnp.where(found.rows < 0, jnp.int32(tables.shapes[table][0]), found.rows + first)
        started = exchange.start(table, Table(values[table], accumulators[table]), rows, first + UNKNOWN_ID)
        values |= {table: started.values, keys: found.keys}
        accumulators[table], admissions[owner.name] = started.accumulator, found.admission
    return TrainedTables(values, accumulators, admissions)


def row_figures(admissions: Mapping[str, Admission]) -> dict[str, dict[str, int]]:
    """By feature the ids `admitted` and `evicted` since the first step, and the rows `used`."""
    found = {}
    for name, a in admissions.items():
        admitted, evicted = int(a.admitted), int(a.evicted)
        found[name] = {"used": admitted - evicted, "admitted": admitted, "evicted": evicted}
    return found


def rows_line(figures: Mapping[str, Mapping[str, int]]) -> str:
    """`row_figures` as the end of a line of progress; "" without dynamic tables."""
    parts = [f"{name} {n['used']:,} (+{n['admitted']:,} -{n['evicted']:,})" for name, n in figures.items()]
    return f" | rows: {' '.join(parts)}" if parts else ""


def _distinct(ids_M: Array) -> tuple[Array, Array]:
    """Each id once, and how often it occurs; what is left of `[M]` is filled up with empty slots."""
    ascending = jnp.sort(ids_M)
    place = segments(ascending)
    ids = jnp.full_like(ids_M, PAD_ID).at[place].set(ascending, indices_are_sorted=True)
    return ids, jnp.zeros_like(ids_M).at[place].add(1, indices_are_sorted=True)


def _aged(counters: Array, step: Array, every: int) -> Array:
    if not every:
        return counters
    return lax.cond(step % every == 0, lambda c: c // 2, lambda c: c, counters)
