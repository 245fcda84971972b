"""The functions that are compiled: encoded queries or ads through their tower, and on to scores or ranked ads."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from serving.scoring.device_corpus import DeviceCorpus
from serving.scoring.top_k import TopK, one_of, score_and_top_k, score_candidates, score_positions
from tt_jax.calibration.maps import Curves, query_scenarios
from tt_jax.models.two_tower import TwoTower
from tt_jax.utility import Utility


def ad_vectors(model: TwoTower, dtype: np.dtype, params: Any, tables: Any, ids: Array, floats: Array) -> Array:
    """Vectors `[n, T, D]` of encoded ads."""
    return model.embed(params, tables, "ad", ids, floats).astype(dtype)


def query_gates(model: TwoTower, params: Any, tables: Any, ids: Array, floats: Array) -> Array | None:
    """What each head takes from each expert of the query tower, `[T, E, B]`; None for kinds without gates."""
    return model.tower_gates(params, tables, "query", ids, floats)


def _queries(model: TwoTower, params: Any, tables: Any, ids: Array, floats: Array) -> Array:
    return jnp.moveaxis(model.embed(params, tables, "query", ids, floats), 1, 0)


def _of_queries(model: TwoTower, curves: Curves | None, ids: Array) -> Curves | None:
    """The maps `[B, T]` of these queries, by the scenario that each tells."""
    return curves and curves.at(query_scenarios(model.schema, ids))


def best(
    model: TwoTower, utility: Utility, ks: tuple[int, ...], params: Any, tables: Any, corpus: DeviceCorpus,
    curves: Curves | None, ids: Array, floats: Array, which: Array, scratch: Array,
) -> tuple[TopK, Array]:  # fmt: skip
    """The best `ks[which]` of all ads for each query, and the scratch buffer."""
    queries, of_query = _queries(model, params, tables, ids, floats), _of_queries(model, curves, ids)
    return score_and_top_k(queries, corpus, params["bias"], utility, ks, scratch, of_query, which)


def best_candidates(
    model: TwoTower, utility: Utility, k: int, sizes: tuple[int, ...], params: Any, tables: Any, corpus: DeviceCorpus,
    curves: Curves | None, ids: Array, floats: Array, which: Array, lists: Array,
) -> TopK:  # fmt: skip
    """The best k of the ads at the first `sizes[which]` positions of each query's list."""
    queries, of_query = _queries(model, params, tables, ids, floats), _of_queries(model, curves, ids)

    def best_of(size: int) -> TopK:
        return score_candidates(queries, corpus, params["bias"], utility, k, lists[:, :size], of_query)

    return one_of(which, [partial(best_of, size) for size in sizes], min(k, max(sizes)))


def scores(
    model: TwoTower,
    utility: Utility,
    params: Any,
    tables: Any,
    corpus: DeviceCorpus,
    curves: Curves | None,
    ids: Array,
    floats: Array,
    lists: Array,
) -> tuple[Array, Array]:
    """Utilities `[B, C]` and probabilities `[T, B, C]` of the ads at the positions of each query's list."""
    queries, of_query = _queries(model, params, tables, ids, floats), _of_queries(model, curves, ids)
    return score_positions(queries, corpus, params["bias"], utility, lists, of_query)
