"""What is compiled: functions of encoded queries or ads, and the few fixed shapes that arrays are padded to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from serving.eligibility.ad_attributes import AdAttributes
from serving.eligibility.condition_encoder import ConditionEncoder
from serving.eligibility.conditions import NO_AD, ConditionArrays
from serving.eligibility.device_attributes import WORD, AttributeChange
from serving.index.quantized import stored
from serving.scoring.device_corpus import DeviceCorpus
from serving.scoring.sharding import (
    WHOLE,
    corpus_specs,
    on_mesh,
    score_and_top_k,
    score_candidates,
    score_positions,
    scratch_spec,
    split,
    updated,
)
from serving.scoring.top_k import TopK, one_of
from tt_jax.calibration.maps import Curves
from tt_jax.models.scenario import query_scenarios
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import Schema
from tt_jax.utility import Utility

QUERIES = (1, 8, 32)
EMBEDDED = (64, 1024)  # changed ads at a time
UPDATED = 64  # fewest positions of an update; times 4, 16, ...


class State(NamedTuple):
    """The arrays that programs work on, a pytree: weights of the model, ads, calibration."""

    params: Any
    tables: Any
    corpus: DeviceCorpus
    curves: Curves | None


def state_specs(state: State) -> Any:
    """How its arrays are split over devices."""
    return State(WHOLE, WHOLE, corpus_specs(state.corpus), WHOLE)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Shape:
    """What a program takes and gives.

    Attributes:
      kind: `all` ranks all ads, `candidates` the ads of a list, `score` scores the ads of a list; `embed` makes vectors
        of ads, `update` changes ads, `gates` gives those of the query tower.
      queries: number of queries; of ads that are embedded, or whose vectors change.
      size: results of `all`, else length of the lists, in both cases the most that a program gives or takes; number of
        ads whose bid, eligibility or attributes change.
      words: of an update, of 32 ads each, in which a bit of a small set or a flag changes.
    """

    kind: Literal["all", "candidates", "score", "embed", "update", "gates"]
    queries: int
    size: int
    words: int = 0


def ad_vectors(model: TwoTower, dtype: np.dtype, params: Any, tables: Any, ids: Array, floats: Array) -> Array:
    """Vectors as they are stored in that dtype, of n encoded ads: ids int32 `[n, S]`, floats float32 `[n, F]`."""
    return stored(model.embed(params, tables, "ad", ids, floats), dtype)


def query_gates(model: TwoTower, params: Any, tables: Any, ids: Array, floats: Array) -> Array | None:
    """What each head takes from each expert of the query tower, `[T, E, B]`; None for kinds without gates."""
    return model.tower_gates(params, tables, "query", ids, floats)


def best(
    model: TwoTower, utility: Utility, ks: tuple[int, ...],
    state: State, ids: Array, floats: Array, conditions: ConditionArrays, which: Array, scratch: Array,
) -> tuple[TopK, Array]:  # fmt: skip
    """The best `ks[which]` of all ads for each of B encoded queries, and the scratch buffer.

    ids int32 `[B, S]`, floats float32 `[B, F]`, which int32 `[]`, scratch as of `DeviceCorpus.scratch_shape`.
    """
    queries, curves = _embed_queries(model, state, ids, floats)
    return score_and_top_k(queries, state.corpus, state.params["bias"], utility, ks, scratch, curves, which, conditions)


def best_candidates(
    model: TwoTower, utility: Utility, k: int, sizes: tuple[int, ...],
    state: State, ids: Array, floats: Array, conditions: ConditionArrays, which: Array, lists: Array,
) -> TopK:  # fmt: skip
    """The best k of the ads at the first `sizes[which]` positions of each query's list, int32 `[B, C]`."""
    queries, curves = _embed_queries(model, state, ids, floats)

    def best_of(size: int) -> TopK:
        ads = state.corpus, state.params["bias"], utility, k, lists[:, :size]
        return score_candidates(queries, *ads, curves, conditions)

    return one_of(which, [partial(best_of, size) for size in sizes], min(k, max(sizes)))


def scores(
    model: TwoTower, utility: Utility,
    state: State, ids: Array, floats: Array, conditions: ConditionArrays, lists: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Utilities `[B, C]` and probabilities `[T, B, C]` of the ads at the positions of each query's list `[B, C]`."""
    queries, curves = _embed_queries(model, state, ids, floats)
    return score_positions(queries, state.corpus, state.params["bias"], utility, lists, curves, conditions)


def _embed_queries(model: TwoTower, state: State, ids: Array, floats: Array) -> tuple[Array, Curves | None]:
    """Vectors `[T, B, D]` of the queries, and their maps `[B, T]` of probabilities, by the scenario that each tells."""
    queries = jnp.moveaxis(model.embed(state.params, state.tables, "query", ids, floats), 1, 0)
    return queries, state.curves and state.curves.at(query_scenarios(model.schema, ids))


def lower(
    shape: Shape,
    model: TwoTower,
    utility: Utility,
    ks: tuple[int, ...],
    lengths: tuple[int, ...],
    state: State,
    mesh: Mesh,
) -> Any:
    """What XLA is to compile for a shape. Of the state only shapes, dtypes and shardings matter.

    `ks`, `lengths`: numbers of results, and lengths of lists, that calls can ask for, up to the shape's size.
    """
    b, corpus = shape.queries, state.corpus
    if shape.kind == "update":
        return _lower_update(model.schema, corpus, shape, mesh)
    layout = model.schema.layout["ad" if shape.kind == "embed" else "query"]
    ids = jax.ShapeDtypeStruct((b, layout.id_slots), jnp.int32)
    floats = jax.ShapeDtypeStruct((b, layout.float_width), jnp.float32)
    if shape.kind == "embed":
        return jax.jit(partial(ad_vectors, model, corpus.rows_NTD.dtype)).lower(state.params, state.tables, ids, floats)
    if shape.kind == "gates":
        return jax.jit(partial(query_gates, model)).lower(state.params, state.tables, ids, floats)
    which, of_state = jax.ShapeDtypeStruct((), jnp.int32), state_specs(state)
    conditions = _shapes(ConditionEncoder(model.schema).none(1).padded(b))
    if shape.kind == "all":
        of_scratch = scratch_spec(corpus, b)
        scratch = jax.ShapeDtypeStruct(corpus.scratch_shape(b), jnp.float32, sharding=on_mesh(mesh, of_scratch))
        run = split(
            partial(best, model, utility, ks),
            mesh,
            (of_state, WHOLE, WHOLE, WHOLE, WHOLE, of_scratch),
            (WHOLE, of_scratch),
        )
        return jax.jit(run, donate_argnums=5).lower(state, ids, floats, conditions, which, scratch)
    lists = jax.ShapeDtypeStruct((b, shape.size), jnp.int32)
    if shape.kind == "candidates":
        sizes = tuple(length for length in lengths if length <= shape.size)
        run = partial(best_candidates, model, utility, ks[-1], sizes)
        run = split(run, mesh, (of_state, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE), WHOLE)
        return jax.jit(run).lower(state, ids, floats, conditions, which, lists)
    run = split(partial(scores, model, utility), mesh, (of_state, WHOLE, WHOLE, WHOLE, WHOLE), WHOLE)
    return jax.jit(run).lower(state, ids, floats, conditions, lists)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _lower_update(schema: Schema, corpus: DeviceCorpus, shape: Shape, mesh: Mesh) -> Any:
    specs, put, marked = corpus_specs(corpus), shape.queries, shape.size
    vectors = jax.ShapeDtypeStruct((put, *corpus.rows_NTD.shape[1:]), corpus.rows_NTD.dtype)
    at = [jax.ShapeDtypeStruct((n,), jnp.int32) for n in (put, marked)]
    bids, valid = (jax.ShapeDtypeStruct((marked,), dtype) for dtype in (jnp.float32, jnp.bool_))
    change = _shapes(attribute_change(AdAttributes.empty(schema.attributes, WORD), np.zeros(0, np.int32), shape, 0))
    run = split(partial(updated, schema.attributes), mesh, (specs, *(WHOLE,) * 6), specs)
    return jax.jit(run, donate_argnums=0).lower(corpus, at[0], vectors, at[1], bids, valid, change)


def attribute_change(attributes: AdAttributes, marked: np.ndarray, shape: Shape, places: int) -> AttributeChange | None:
    """What an update of that shape does to the attributes of ads at positions `marked`, of all of which some are given.

    `places`: for ads, on all devices. None of a schema without attributes.
    """
    if not attributes.schema:
        return None
    bits = {a.name for a in attributes.schema if a.is_bits or a.kind == "flag"}
    words = np.unique(marked // WORD)[: shape.words]
    of_words = (words[:, None] * WORD + np.arange(WORD)).reshape(-1)
    columns_M, columns_32U = dict[str, Any](), dict[str, Any]()
    for name, column in attributes.padded(max(places, len(next(iter(attributes.columns.values()))))).columns.items():
        if name not in bits:
            columns_M[name] = _filled(column[marked], shape.size)
        else:
            columns_32U[name] = _filled(column[of_words], shape.words * WORD)
    return AttributeChange(columns_M, _filled(words.astype(np.int32), shape.words, places // WORD), columns_32U)


def _filled(x: np.ndarray, n: int, value: int = 0) -> np.ndarray:
    return np.pad(x, ((0, n - len(x)), *((0, 0),) * (x.ndim - 1)), constant_values=value)


def at_least(sizes: tuple[int, ...], wanted: int) -> int:
    """The smallest size that holds it; the largest where none does."""
    return next((size for size in sizes if size >= wanted), sizes[-1])


def update_shape(put: int, marked: int, words: int = 0) -> Shape:
    """Of an update of at least that many vectors, other numbers of ads, and words of bits."""
    return Shape("update", _power(put), _power(marked), _power(words))


def _power(wanted: int) -> int:
    """0, or the smallest `UPDATED` * 4^i that holds it."""
    size = UPDATED if wanted else 0
    while size < wanted:
        size *= 4
    return size


def change_shapes(schema: Schema) -> tuple[Shape, ...]:
    """What changes of a few ads need."""
    bits = any(a.is_bits or a.kind == "flag" for a in schema.attributes)
    with_bits = (update_shape(0, 1, 1), update_shape(1, 1, 1)) if bits else (update_shape(1, 1),)
    return (Shape("embed", EMBEDDED[0], 0), update_shape(0, 1), *with_bits)


def pad_lists(positions: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Lists of positions as int32 `[queries, size]` of a shape, filled up with `NO_AD`."""
    lists = np.full((shape.queries, shape.size), NO_AD, np.int32)
    for row, places in zip(lists, positions, strict=False):
        row[: len(places)] = places
    return lists
