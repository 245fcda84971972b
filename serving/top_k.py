"""Scores of all ads, or of a list of them, and the exact top k. Pure functions for use inside one jit.

Letters in names: B queries, T tasks, N ads, D embedding width, C ads of one part or candidates of one query, k results.

How it is made fast. Ads are scored in parts that fit a cache: dot, sigmoid, utility and block maxima of one part
are done before the next part is read, so memory sees each ad vector once and each score once. Several queries of one
float32 task are one product with all rows instead, written where the scores will be: its operands are read in order,
unpacked. The top k then need only the k blocks with the largest maxima. The scores live in a buffer that the caller
hands in and gets back: the page faults of a fresh one (128 MB for 32 queries over 10^6 ads) cost a CPU as much as the
products do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from serving.corpus import BLOCK, Corpus
from tt_jax.calibration import Curves
from tt_jax.utility import Utility

Bend = Callable[[Array, int | None], Array]
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
    scores_BN = _ordered(scores_BN)
    if not _blocks_pay(scores_BN.shape[1], k, block):
        return lax.top_k(scores_BN, k)
    spare = -scores_BN.shape[1] % block
    scores_BN = jnp.pad(scores_BN, ((0, 0), (0, spare)), constant_values=-jnp.inf)
    take = partial(_take_blocks, scores_BN.reshape(scores_BN.shape[0], -1, block))
    return _top_k_of_blocks(_block_maxima(scores_BN, block), k, block, take)


def score_and_top_k(
    queries_TBD: Array,
    corpus: Corpus,
    biases_T: Array,
    utility: Utility,
    k: int,
    scratch: Array,
    curves: Curves | None = None,
) -> tuple[TopK, Array]:
    """Scores every ad for every query: the best min(k, N), with N counting the padding of `Corpus.pack`.

    Args:
      queries_TBD: float32 query embeddings; rounded to the dtype of the ads for the products (summed in float32).
      corpus: the ads; `corpus.columns` must hold the tasks that the utility uses.
      biases_T: float32 bias of each task's logit.
      utility: what to rank by, over all T tasks; a NaN utility counts as -inf.
      k: results per query.
      scratch: from `corpus.scratch(B)` or from the last call. Donate it to the jit.
      curves: calibration `[B, T]` of the queries' logits; None = none.

    Returns:
      The best ads, and the scratch buffer.
    """
    k = min(k, corpus.valid_N.shape[0])
    queries_TBD, biases_TB, bend = _calibrated(queries_TBD, biases_T, curves)
    scan = _best_by_rows if corpus.reads_rows(queries_TBD.shape[1]) else _best_by_columns
    utility_Bk, positions_Bk, scratch = scan(queries_TBD, corpus, biases_TB, bend, utility, k, scratch)
    probabilities_TBk = _probabilities_at(queries_TBD, corpus, biases_TB, positions_Bk, bend)
    return TopK(positions_Bk, utility_Bk, probabilities_TBk), scratch


def score_candidates(
    queries_TBD: Array,
    corpus: Corpus,
    biases_T: Array,
    utility: Utility,
    k: int,
    candidates_BC: Array,
    curves: Curves | None = None,
) -> TopK:
    """Scores a list of ads for each query: the best min(k, C). Equal utilities stand in order of the list.

    An ad listed twice is returned twice: the caller removes duplicates.

    Args:
      queries_TBD, corpus, biases_T, utility, k, curves: as for `score_and_top_k`, but `corpus.columns` is not read.
      candidates_BC: int32 positions of the ads; one outside 0..N-1, such as -1, is padding.
    """
    utility_BC, probabilities_TBC = score_positions(queries_TBD, corpus, biases_T, utility, candidates_BC, curves)
    inside_BC = (candidates_BC >= 0) & (candidates_BC < corpus.valid_N.shape[0])
    valid_BC = corpus.valid_N[candidates_BC] & inside_BC
    utility_Bk, chosen_Bk = top_k(_eligible(utility_BC, valid_BC, candidates_BC.shape[0]), k)
    return TopK(
        positions_Bk=jnp.take_along_axis(candidates_BC, chosen_Bk, axis=1),
        utility_Bk=utility_Bk,
        probabilities_TBk=jnp.take_along_axis(probabilities_TBC, chosen_Bk[None], axis=2),
    )


def score_positions(
    queries_TBD: Array,
    corpus: Corpus,
    biases_T: Array,
    utility: Utility,
    positions_BC: Array,
    curves: Curves | None = None,
) -> tuple[Array, Array]:
    """Utilities [B, C] and probabilities [T, B, C] of the ads at these positions, valid or not.

    Of no meaning for a position outside 0..N-1. `corpus.columns` is not read.
    """
    queries_TBD, biases_TB, bend = _calibrated(queries_TBD, biases_T, curves)
    probabilities_TBC = _probabilities_at(queries_TBD, corpus, biases_TB, positions_BC, bend)
    utility_BC = utility(dict(zip(utility.tasks, probabilities_TBC, strict=True)), corpus.bids_N[positions_BC])
    return utility_BC, probabilities_TBC


def _calibrated(queries_TBD: Array, biases_T: Array, curves: Curves | None) -> tuple[Array, Array, Bend]:
    """Queries and biases `[T, B]` with the affine part folded in, and what is left to do to the logits.

    It takes the logits `[B, C]` of a task, or `[B, C, T]` of all.
    """
    if curves is None:
        biases_TB = jnp.broadcast_to(biases_T[:, None], queries_TBD.shape[:2])
        return queries_TBD, biases_TB, lambda logits, t: logits
    queries_TBD, biases_TB = curves.fold(queries_TBD, biases_T)
    return queries_TBD, biases_TB, lambda z, t: (curves.per_ad() if t is None else curves.head(t)).bend(z)


def _best_by_columns(
    queries_TBD: Array, corpus: Corpus, biases_TB: Array, bend: Bend, utility: Utility, k: int, scratch_BN: Array
) -> tuple[Array, Array, Array]:
    """Utilities and positions [B, k] of the best ads, and the scratch buffer."""
    batch, n = scratch_BN.shape
    maxima, chain_B1 = [], jnp.zeros((batch, 1), jnp.float32)
    for part, ads in enumerate(corpus.parts()):
        logits = {t: _product(queries_TBD[t] + chain_B1, columns[part]) for t, columns in corpus.columns.items()}
        probabilities = {
            utility.tasks[t]: jax.nn.sigmoid(bend(x_BC + biases_TB[t][:, None], t)) for t, x_BC in logits.items()
        }
        utility_BC = _eligible(utility(probabilities, corpus.bids_N[ads]), corpus.valid_N[ads], batch)
        scratch_BN = lax.dynamic_update_slice(scratch_BN, utility_BC, (0, ads.start))
        maxima.append(_block_maxima(scratch_BN[:, ads], BLOCK))  # read back, else XLA stores the utilities twice
        # Always 0, but the compiler cannot know: else it schedules the products of all parts first, and their results
        # (T x B x N) go through memory instead of the cache. It drops an optimization_barrier too early to help.
        chain_B1 = jnp.minimum(jnp.abs(maxima[-1][:, :1]), 0)
    if _blocks_pay(n, k, BLOCK):
        take = partial(_take_blocks, scratch_BN.reshape(batch, -1, BLOCK))
        return *_top_k_of_blocks(jnp.concatenate(maxima, axis=1), k, BLOCK, take), scratch_BN
    return *lax.top_k(scratch_BN, k), scratch_BN


def _best_by_rows(
    queries_TBD: Array, corpus: Corpus, biases_TB: Array, bend: Bend, utility: Utility, k: int, scratch_NB: Array
) -> tuple[Array, Array, Array]:
    """As `_best_by_columns`, of one float32 task. XLA puts the product, then the scores into the buffer."""
    n, batch = scratch_NB.shape
    rows_ND = corpus.rows_NTD.reshape(n, -1)
    logits_NB = jnp.matmul(rows_ND, queries_TBD[0].T, precision="highest") + biases_TB[0]
    probability_NB = jax.nn.sigmoid(bend(logits_NB.T, 0).T)
    # Added, not selected: for a selection XLA makes a branch around the sigmoid, 5 times as slow as vectors of them.
    out_N = jnp.where(corpus.valid_N, jnp.float32(0), -jnp.inf)
    scores_NB = utility({utility.tasks[0]: probability_NB}, corpus.bids_N[:, None]) + out_N[:, None]  # -0 becomes 0
    scores_NB = jnp.broadcast_to(jnp.where(jnp.isnan(scores_NB), -jnp.inf, scores_NB), (n, batch))
    scratch_NB = lax.dynamic_update_slice(scratch_NB, scores_NB, (0, 0))
    if not _blocks_pay(n, k, ROW_BLOCK):
        return *lax.top_k(scratch_NB.T, k), scratch_NB
    blocks_MLB = scratch_NB.reshape(-1, ROW_BLOCK, batch)

    def take(chosen_Bk: Array) -> Array:
        return jax.vmap(lambda blocks_ML, chosen_k: blocks_ML[chosen_k], in_axes=(2, 0))(blocks_MLB, chosen_Bk)

    return *_top_k_of_blocks(jnp.max(blocks_MLB, axis=1).T, k, ROW_BLOCK, take), scratch_NB


def _product(queries_BD: Array, columns_DC: Array) -> Array:
    """Inner products [B, C], summed in float32."""
    batch = queries_BD.shape[0]
    queries_BD = queries_BD.astype(columns_DC.dtype)
    if batch == 1 and columns_DC.dtype == jnp.bfloat16:
        # A CPU multiplies a lone bfloat16 vector by writing all the ads out as float32 first: slower than two vectors.
        queries_BD = jnp.pad(queries_BD, ((0, 1), (0, 0)))
    # "highest": a GPU would otherwise round float32 to TF32.
    return jnp.matmul(queries_BD, columns_DC, precision="highest", preferred_element_type=jnp.float32)[:batch]


def _probabilities_at(queries_TBD: Array, corpus: Corpus, biases_TB: Array, positions_BC: Array, bend: Bend) -> Array:
    """Probabilities [T, B, C] of the ads at these positions; of no meaning outside 0..N-1."""
    n, tasks, dim = corpus.rows_NTD.shape
    rows_BCF = corpus.rows_NTD.reshape(n, tasks * dim).at[positions_BC].get(mode="clip")
    # One product for all tasks, with zeros where tasks differ: a batched one would first transpose what was gathered.
    queries_BFT = jnp.einsum("tbd,tu->btdu", queries_TBD, jnp.eye(tasks, dtype=jnp.float32), precision="highest")
    logits_BCT = jnp.matmul(
        rows_BCF,
        queries_BFT.reshape(-1, tasks * dim, tasks).astype(rows_BCF.dtype),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
    return jax.nn.sigmoid(jnp.moveaxis(bend(logits_BCT + biases_TB.T[:, None, :], None), 2, 0))


def _eligible(utility: Array, valid: Array, batch: int) -> Array:
    """Utilities [B, C] as they are ranked; a utility of the bid alone comes without a B axis."""
    return jnp.broadcast_to(_ordered(jnp.where(valid, utility, -jnp.inf)), (batch, valid.shape[-1]))


def _ordered(scores: Array) -> Array:
    """`lax.top_k` orders by sign and bits: NaN above +inf, and -0 below 0. This makes it the order of the numbers."""
    return jnp.where(scores == 0, jnp.zeros_like(scores), jnp.where(jnp.isnan(scores), -jnp.inf, scores))


def _block_maxima(scores_BN: Array, block: int) -> Array:
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
