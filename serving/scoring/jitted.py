"""The fixed shapes that are compiled: which there are, arrays padded to them, and what is compiled for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from serving.scoring.calls import ad_vectors, best, best_candidates, query_gates, scores
from serving.scoring.device_corpus import DeviceCorpus
from tt_jax.calibration.maps import Curves
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import PAD_ID
from tt_jax.utility import Utility

QUERIES = (1, 8, 32)
NO_AD = -1
EMBEDDED = (64, 1024)  # changed ads at a time
UPDATED = 64  # fewest positions of an update; times 4, 16, ...

State = tuple[
    Any, Any, DeviceCorpus, Curves | None
]  # parameters, tables, ads, calibration: first arguments of a program


@dataclass(frozen=True)
class Shape:
    """What a program takes and gives.

    Attributes:
      kind: `all` ranks all ads, `candidates` the ads of a list, `score` scores the ads of a list; `embed` makes vectors
        of ads, `update` changes ads, `gates` gives those of the query tower.
      queries: number of queries; of ads that are embedded, or whose vectors change.
      size: results of `all`, else length of the lists, in both cases the most that a program gives or takes; number of
        ads whose bid or eligibility changes.
    """

    kind: Literal["all", "candidates", "score", "embed", "update", "gates"]
    queries: int
    size: int


def lower(
    shape: Shape, model: TwoTower, utility: Utility, ks: tuple[int, ...], lengths: tuple[int, ...], state: State
) -> Any:
    """What XLA is to compile for a shape. Of the state only shapes and dtypes matter.

    `ks`, `lengths`: numbers of results, and lengths of lists, that calls can ask for, up to the shape's size.
    """
    b, corpus = shape.queries, state[2]
    if shape.kind == "update":
        return _lower_update(corpus, b, shape.size)
    layout = model.schema.layout["ad" if shape.kind == "embed" else "query"]
    ids = jax.ShapeDtypeStruct((b, layout.id_slots), jnp.int32)
    floats = jax.ShapeDtypeStruct((b, layout.float_width), jnp.float32)
    if shape.kind == "embed":
        return jax.jit(partial(ad_vectors, model, corpus.rows_NTD.dtype)).lower(*state[:2], ids, floats)
    if shape.kind == "gates":
        return jax.jit(partial(query_gates, model)).lower(*state[:2], ids, floats)
    which = jax.ShapeDtypeStruct((), jnp.int32)
    if shape.kind == "all":
        scratch = jax.ShapeDtypeStruct(corpus.scratch_shape(b), jnp.float32)
        run = jax.jit(partial(best, model, utility, ks), donate_argnums=7)
        return run.lower(*state, ids, floats, which, scratch)
    lists = jax.ShapeDtypeStruct((b, shape.size), jnp.int32)
    if shape.kind == "candidates":
        sizes = tuple(length for length in lengths if length <= shape.size)
        run = jax.jit(partial(best_candidates, model, utility, ks[-1], sizes))
        return run.lower(*state, ids, floats, which, lists)
    return jax.jit(partial(scores, model, utility)).lower(*state, ids, floats, lists)


def _lower_update(corpus: DeviceCorpus, put: int, marked: int) -> Any:
    vectors = jax.ShapeDtypeStruct((put, *corpus.rows_NTD.shape[1:]), corpus.rows_NTD.dtype)
    at = [jax.ShapeDtypeStruct((n,), jnp.int32) for n in (put, marked)]
    bids, valid = (jax.ShapeDtypeStruct((marked,), dtype) for dtype in (jnp.float32, jnp.bool_))
    return jax.jit(DeviceCorpus.updated, donate_argnums=0).lower(corpus, at[0], vectors, at[1], bids, valid)


def at_least(sizes: tuple[int, ...], wanted: int) -> int:
    """The smallest size that holds it; the largest where none does."""
    return next((size for size in sizes if size >= wanted), sizes[-1])


def update_shape(put: int, marked: int) -> Shape:
    """Of an update of at least that many vectors, and bids or eligibilities."""
    return Shape("update", _power(put), _power(marked))


def _power(wanted: int) -> int:
    """0, or the smallest `UPDATED` * 4^i that holds it."""
    size = UPDATED if wanted else 0
    while size < wanted:
        size *= 4
    return size


CHANGES = (Shape("embed", EMBEDDED[0], 0), update_shape(0, 1), update_shape(1, 1))


def pad(ids: np.ndarray, floats: np.ndarray, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """`ids` int32 `[n, S]` and `floats` float32 `[n, F]` with empty rows up to that many queries."""
    if len(ids) == queries:
        return ids, floats
    spare = ((0, queries - len(ids)), (0, 0))
    return np.pad(ids, spare, constant_values=PAD_ID), np.pad(floats, spare)


def pad_lists(positions: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Lists of positions as int32 `[queries, size]` of a shape, filled up with `NO_AD`."""
    lists = np.full((shape.queries, shape.size), NO_AD, np.int32)
    for row, places in zip(lists, positions, strict=False):
        row[: len(places)] = places
    return lists
