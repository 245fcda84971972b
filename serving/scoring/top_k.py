"""The exact top k of scores. Pure functions for use inside one jit.

Letters in names: B queries, T tasks, N ads, k results, M blocks of L scores.

Only the k blocks with the largest maxima are searched: see `top_k`. Who computes scores block by block hands the maxima
in, and the scores are not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from serving.scoring.device_corpus import BLOCK

ROW_BLOCK = 32  # where the scores of an ad stand together, each of a block is read from a line of its own


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TopK:
    """The best ads of each query, best first; ties stand in order of position.

    Attributes:
      positions_Bk: int32 positions of the ads.
      utility_Bk: float32 utilities; -inf where fewer than k ads are eligible: drop those.
      probabilities_TBk: float32 probability of each task.
    """

    positions_Bk: Array
    utility_Bk: Array
    probabilities_TBk: Array


def top_k(scores_BN: Array, k: int, block: int = BLOCK) -> tuple[Array, Array]:
    """The min(k, N) largest scores of each row, and their int32 positions, best first.

    Equal to a stable sort by descending score: equal scores stand in order of position. NaN counts as -inf, -0 as 0.

    An element outside the k blocks with the largest maxima (the earlier block first among equals) has k elements before
    it, one in each of those blocks, so only these blocks need be searched.
    """
    k = min(k, scores_BN.shape[1])
    scores_BN = ordered(scores_BN)
    if not _blocks_pay(scores_BN.shape[1], k, block):
        return lax.top_k(scores_BN, k)
    spare = -scores_BN.shape[1] % block
    scores_BN = jnp.pad(scores_BN, ((0, 0), (0, spare)), constant_values=-jnp.inf)
    take = partial(_take_blocks, scores_BN.reshape(scores_BN.shape[0], -1, block))
    return _top_k_of_blocks(block_maxima(scores_BN, block), k, block, take)


def best_of_columns(scores_BN: Array, maxima_BM: Array, k: int) -> tuple[Array, Array]:
    """The k largest scores and their positions, `[B, k]`, by the maxima of all blocks."""
    batch, n = scores_BN.shape
    if not _blocks_pay(n, k, BLOCK):
        return lax.top_k(scores_BN, k)
    return _top_k_of_blocks(maxima_BM, k, BLOCK, partial(_take_blocks, scores_BN.reshape(batch, -1, BLOCK)))


def best_of_rows(scores_NB: Array, maxima_BM: Array, k: int) -> tuple[Array, Array]:
    """As `best_of_columns`, of scores that stand in columns."""
    n, batch = scores_NB.shape
    if not _blocks_pay(n, k, ROW_BLOCK):
        return lax.top_k(scores_NB.T, k)
    blocks_MLB = scores_NB.reshape(-1, ROW_BLOCK, batch)

    def take(chosen_Bk: Array) -> Array:
        return jax.vmap(lambda blocks_ML, chosen_k: blocks_ML[chosen_k], in_axes=(2, 0))(blocks_MLB, chosen_Bk)

    return _top_k_of_blocks(maxima_BM, k, ROW_BLOCK, take)


def one_of(which: Array | int, choices: Sequence[Callable[[], TopK]], k: int) -> TopK:
    """What the function at the place `which` gives, filled up to `k` results: the others do not run."""

    def filled(best: Callable[[], TopK]) -> TopK:
        x = best()
        spare = (0, k - x.utility_Bk.shape[1])
        return TopK(
            jnp.pad(x.positions_Bk, ((0, 0), spare)),
            jnp.pad(x.utility_Bk, ((0, 0), spare), constant_values=-jnp.inf),
            jnp.pad(x.probabilities_TBk, ((0, 0), (0, 0), spare)),
        )

    return lax.switch(which, [partial(filled, best) for best in choices])


def ordered(scores: Array) -> Array:
    """`lax.top_k` orders by sign and bits: NaN above +inf, and -0 below 0. This makes it the order of the numbers."""
    return jnp.where(scores == 0, jnp.zeros_like(scores), jnp.where(jnp.isnan(scores), -jnp.inf, scores))


def block_maxima(scores_BN: Array, block: int) -> Array:
    return jnp.max(scores_BN.reshape(scores_BN.shape[0], -1, block), axis=2)


def _blocks_pay(n: int, k: int, block: int) -> bool:
    """Whether the maxima and the k blocks together are well below the n scores that a flat top k reads."""
    return 2 * (-(-n // block) + k * block) <= n and k <= n // block


def _top_k_of_blocks(maxima_BM: Array, k: int, block: int, take: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The best k by the maxima of all blocks; `take` gives the scores `[B, k, block]` of some."""
    maxima_Bk, blocks_Bk = lax.top_k(maxima_BM, k)
    blocks_Bk = jnp.sort(blocks_Bk, axis=1)  # so that a lower place among the gathered scores means a lower position
    gathered = take(blocks_Bk).reshape(maxima_BM.shape[0], -1)
    # No score below the k-th maximum can be among the best k. Without them the selection, a heap on a CPU, is half the
    # work. `min`, not the last column: a slice of a top k makes XLA sort the whole row.
    gathered = jnp.where(gathered >= jnp.min(maxima_Bk, axis=1, keepdims=True), gathered, -jnp.inf)
    values_Bk, places_Bk = lax.top_k(gathered, k)
    positions_Bk = jnp.take_along_axis(blocks_Bk, places_Bk // block, axis=1) * block + places_Bk % block
    return values_Bk, positions_Bk


def _take_blocks(blocks_BML: Array, chosen_Bk: Array) -> Array:
    return jnp.take_along_axis(blocks_BML, chosen_Bk[:, :, None], axis=1)
