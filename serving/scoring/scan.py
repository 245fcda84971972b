"""Scores of all ads, or of a list of them, and their top k. Pure functions for use inside one jit.

Letters in names: B queries, T tasks, N ads, D embedding width, C ads of one part or candidates of one query, k results.

How it is made fast. Ads are scored in parts that fit a cache: dot, sigmoid, utility and block maxima of one part
are done before the next part is read, so memory sees each ad vector once and each score once. Several queries of one
float32 task are one product with all rows instead, written where the scores will be: its operands are read in order,
unpacked. The top k then need only the k blocks with the largest maxima, and one program serves several k: the scores
cost most, also to compile. They live in a buffer that the caller hands in and gets back: the page faults of a fresh one
(128 MB for 32 queries over 10^6 ads) cost a CPU as much as the products do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from serving.eligibility.conditions import ConditionArrays
from serving.eligibility.device_attributes import WORD, serving_listed, serving_words, unpacked, unpacked_columns
from serving.index.quantized import numbers_and_scales
from serving.scoring.device_corpus import BLOCK, INT8_PART, DeviceCorpus
from serving.scoring.top_k import ROW_BLOCK, TopK, best_of_columns, best_of_rows, block_maxima, one_of, ordered, top_k
from tt_jax.calibration.maps import Curves
from tt_jax.utility import Utility

_AT_ONCE = 256  # excluded ads
Bend = Callable[[Array, int | None], Array]


def score_and_top_k(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    ks: tuple[int, ...],
    scratch: Array,
    curves: Curves | None = None,
    which: Array | int = 0,
    conditions: ConditionArrays | None = None,
) -> tuple[TopK, Array]:
    """Scores every ad for every query: the best min(k, N), with N counting the padding of `DeviceCorpus.pack`.

    Args:
      queries_TBD: float32 query embeddings; rounded to the dtype of the ads for the products (summed in float32).
      corpus: the ads; `corpus.columns` must hold the tasks that the utility uses.
      biases_T: float32 bias of each task's logit.
      utility: what to rank by, over all T tasks; a NaN utility counts as -inf.
      ks: numbers of results per query, of which each call can have another.
      scratch: from `corpus.scratch(B)` or from the last call. Donate it to the jit.
      curves: calibration `[B, T]` of the queries' logits; None = none.
      which: int32, the place in `ks` of the k that is wanted.
      conditions: of B queries, positions of excluded ads outside 0..N-1 being padding; None = none.

    Returns:
      The best ads, as many as the largest k, of utility -inf past the k that is wanted, and the scratch buffer.
    """
    ks = tuple(min(k, corpus.valid_N.shape[0]) for k in ks)
    queries_TBD, biases_TB, bend = _calibrated(queries_TBD, biases_T, curves)
    by_rows = corpus.reads_rows(queries_TBD.shape[1])
    columns = _scores_of_int8 if corpus.rows_NTD.dtype == jnp.int8 else _scores_by_columns
    scan = _scores_by_rows if by_rows else columns
    worth = Worth.of(corpus, utility, conditions)
    scratch, maxima_BM = scan(queries_TBD, corpus, biases_TB, bend, worth, scratch)
    if conditions is not None:
        scratch, maxima_BM = _without(scratch, maxima_BM, conditions, ROW_BLOCK if by_rows else BLOCK, by_rows)

    def best(k: int) -> TopK:
        utility_Bk, positions_Bk = (best_of_rows if by_rows else best_of_columns)(scratch, maxima_BM, k)
        probabilities_TBk = _probabilities_at(queries_TBD, corpus, biases_TB, positions_Bk, bend)
        return TopK(positions_Bk, utility_Bk, probabilities_TBk)

    return one_of(which, [partial(best, k) for k in ks], max(ks)), scratch


def score_candidates(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    k: int,
    candidates_BC: Array,
    curves: Curves | None = None,
    conditions: ConditionArrays | None = None,
) -> TopK:
    """Scores a list of ads for each query: the best min(k, C). Equal utilities stand in order of the list.

    An ad listed twice is returned twice: the caller removes duplicates.

    Args:
      queries_TBD, corpus, biases_T, utility, conditions, curves: as for `score_and_top_k`, but `corpus.columns` is not
        read, and the caller removes excluded ads from the list.
      k: results per query.
      candidates_BC: int32 positions of the ads; one outside 0..N-1, such as -1, is padding.
    """
    scores = score_listed(queries_TBD, corpus, biases_T, utility, candidates_BC, curves, conditions)
    return best_listed(*scores, candidates_BC, k)


def score_listed(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    candidates_BC: Array,
    curves: Curves | None = None,
    conditions: ConditionArrays | None = None,
) -> tuple[Array, Array]:
    """Utilities [B, C] as they are ranked, -inf of what may not be returned, and probabilities [T, B, C]."""
    scores = score_positions(queries_TBD, corpus, biases_T, utility, candidates_BC, curves, conditions)
    utility_BC, probabilities_TBC = scores
    inside_BC = (candidates_BC >= 0) & (candidates_BC < corpus.valid_N.shape[0])
    valid_BC = corpus.valid_N[candidates_BC] & inside_BC
    if corpus.attributes and conditions and conditions.rules:
        valid_BC &= serving_listed(corpus.attributes, conditions.rules, candidates_BC)
    return _eligible(utility_BC, valid_BC, candidates_BC.shape[0]), probabilities_TBC


def best_listed(utility_BC: Array, probabilities_TBC: Array, positions_BC: Array, k: int) -> TopK:
    """The best min(k, C) of a list of ads for each query. Equal utilities stand in order of the list."""
    utility_Bk, chosen_Bk = top_k(utility_BC, k)
    return TopK(
        positions_Bk=jnp.take_along_axis(positions_BC, chosen_Bk, axis=1),
        utility_Bk=utility_Bk,
        probabilities_TBk=jnp.take_along_axis(probabilities_TBC, chosen_Bk[None], axis=2),
    )


def score_positions(
    queries_TBD: Array,
    corpus: DeviceCorpus,
    biases_T: Array,
    utility: Utility,
    positions_BC: Array,
    curves: Curves | None = None,
    conditions: ConditionArrays | None = None,
) -> tuple[Array, Array]:
    """Utilities [B, C] and probabilities [T, B, C] of the ads at these positions, valid or not.

    Of no meaning for a position outside 0..N-1. `corpus.columns` is not read.
    """
    queries_TBD, biases_TB, bend = _calibrated(queries_TBD, biases_T, curves)
    probabilities_TBC = _probabilities_at(queries_TBD, corpus, biases_TB, positions_BC, bend)
    probabilities = dict(zip(utility.tasks, probabilities_TBC, strict=True))
    return Worth.of(corpus, utility, conditions)(probabilities, lambda x_N: x_N[positions_BC]), probabilities_TBC


class Worth(NamedTuple):
    """The utility of ads, with what it needs beside their probabilities, and which of them may serve.

    Attributes:
      utility: the expression.
      bids_N, valid_N: of the ads.
      numbers: of the ads, name -> `[N]`.
      values: of the queries, name -> `[B, 1]`.
      serving_BW: words of the ads that may serve each query; None = all.
    """

    utility: Utility
    bids_N: Array
    valid_N: Array
    numbers: dict[str, Array]
    values: dict[str, Array]
    serving_BW: Array | None

    @staticmethod
    def of(corpus: DeviceCorpus, utility: Utility, conditions: ConditionArrays | None) -> Worth:
        """Of these ads, for the queries of the conditions."""
        own = corpus.attributes.numbers if corpus.attributes else {}
        numbers = {name: own[name] for name in utility.other_names if name in own}
        # The last names of a schema's utility are those of its request values.
        given = [] if conditions is None else [x_B[:, None] for x_B in conditions.values.T]
        named = dict(zip(utility.others[len(utility.others) - len(given) :], given, strict=True))
        rules = conditions and conditions.rules
        serving = serving_words(corpus.attributes, rules) if corpus.attributes and rules else None
        return Worth(utility, corpus.bids_N, corpus.valid_N, numbers, named, serving)

    def __call__(self, probabilities: dict[str, Array], cut: Callable[[Array], Array]) -> Array:
        """The utilities of ads, of whose arrays `cut` takes what is wanted, as it broadcasts with `[B, C]`."""
        others = {name: cut(x_N) for name, x_N in self.numbers.items()} | self.values
        return self.utility(probabilities, cut(self.bids_N), others)

    def may_serve(self, start: Array, size: int) -> Array:
        """bool `[C]`, or `[B, C]`: which of a part of the ads may be returned."""
        valid_C = lax.dynamic_slice(self.valid_N, (start,), (size,))
        if self.serving_BW is None:
            return valid_C
        words = (self.serving_BW.shape[0], size // WORD)
        return valid_C & unpacked(lax.dynamic_slice(self.serving_BW, (jnp.int32(0), start // WORD), words))


def _calibrated(queries_TBD: Array, biases_T: Array, curves: Curves | None) -> tuple[Array, Array, Bend]:
    """Queries and biases `[T, B]` with the affine part folded in, and what is left to do to the logits.

    It takes the logits `[B, C]` of a task, or `[B, C, T]` of all.
    """
    if curves is None:
        biases_TB = jnp.broadcast_to(biases_T[:, None], queries_TBD.shape[:2])
        return queries_TBD, biases_TB, lambda logits, t: logits
    queries_TBD, biases_TB = curves.fold(queries_TBD, biases_T)
    return queries_TBD, biases_TB, lambda z, t: (curves.per_ad() if t is None else curves.head(t)).bend(z)


def _scores_by_columns(
    queries_TBD: Array, corpus: DeviceCorpus, biases_TB: Array, bend: Bend, worth: Worth, scratch_BN: Array
) -> tuple[Array, Array]:
    """Utilities `[B, N]` of all ads, in the scratch buffer, and the maximum of each block of them."""
    batch, zero = scratch_BN.shape[0], jnp.int32(0)
    maxima, chain_B1 = [], jnp.zeros((batch, 1), jnp.float32)
    for part, start in enumerate(corpus.starts):
        columns = {t: parts[part] for t, parts in corpus.columns.items()}
        logits = {t: _product(queries_TBD[t] + chain_B1, columns_DC) for t, columns_DC in columns.items()}
        probabilities = {
            worth.utility.tasks[t]: jax.nn.sigmoid(bend(x_BC + biases_TB[t][:, None], t)) for t, x_BC in logits.items()
        }
        size = corpus.part_size(part)
        values_BC = worth(probabilities, partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size))
        utility_BC = _eligible(values_BC, worth.may_serve(start, size), batch)
        scratch_BN = lax.dynamic_update_slice(scratch_BN, utility_BC, (zero, start))
        # Read back, else XLA stores the utilities twice.
        maxima.append(block_maxima(lax.dynamic_slice(scratch_BN, (zero, start), (batch, size)), BLOCK))
        # Always 0, but the compiler cannot know: else it schedules the products of all parts first, and their results
        # (T x B x N) go through memory instead of the cache. It drops an optimization_barrier too early to help.
        chain_B1 = jnp.minimum(jnp.abs(maxima[-1][:, :1]), 0)
    return scratch_BN, jnp.concatenate(maxima, axis=1)


def _scores_by_rows(
    queries_TBD: Array, corpus: DeviceCorpus, biases_TB: Array, bend: Bend, worth: Worth, scratch_NB: Array
) -> tuple[Array, Array]:
    """As `_scores_by_columns`, of one float32 task, `[N, B]`. XLA puts the product, then the scores into the buffer."""
    n, batch = scratch_NB.shape
    rows_ND = corpus.rows_NTD.reshape(n, -1)
    logits_NB = jnp.matmul(rows_ND, queries_TBD[0].T, precision="highest") + biases_TB[0]
    probability_NB = jax.nn.sigmoid(bend(logits_NB.T, 0).T)
    # Added, not selected: for a selection XLA makes a branch around the sigmoid, 5 times as slow as vectors of them.
    valid_NB = corpus.valid_N[:, None]
    if worth.serving_BW is not None:
        valid_NB = valid_NB & unpacked_columns(worth.serving_BW.T)
    values = {name: x_B1.T for name, x_B1 in worth.values.items()}
    utility_NB = worth._replace(values=values)({worth.utility.tasks[0]: probability_NB}, lambda x_N: x_N[:, None])
    scores_NB = utility_NB + jnp.where(valid_NB, jnp.float32(0), -jnp.inf)  # -0 becomes 0
    scores_NB = jnp.broadcast_to(jnp.where(jnp.isnan(scores_NB), -jnp.inf, scores_NB), (n, batch))
    scratch_NB = lax.dynamic_update_slice(scratch_NB, scores_NB, (0, 0))
    return scratch_NB, jnp.max(scratch_NB.reshape(-1, ROW_BLOCK, batch), axis=1).T


def _scores_of_int8(
    queries_TBD: Array, corpus: DeviceCorpus, biases_TB: Array, bend: Bend, worth: Worth, scratch_BN: Array
) -> tuple[Array, Array]:
    """As `_scores_by_columns`, from the rows: a part of them is made float32, in a cache, and read as often."""
    (batch, n), zero = scratch_BN.shape, jnp.int32(0)
    size = min(INT8_PART, n)
    used = [t for t, name in enumerate(worth.utility.tasks) if name in worth.utility.names]

    def score(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        scratch_BN, maxima_BM = carry
        start = jnp.minimum(i * size, n - size)  # the last part may score some ads again
        rows_CTF = lax.dynamic_slice_in_dim(corpus.rows_NTD, start, size)
        probabilities = {}
        for t in used:
            numbers_CD, scales_C = numbers_and_scales(rows_CTF[:, t])
            logits_BC = jnp.matmul(queries_TBD[t], numbers_CD.T, precision="highest") * scales_C
            probabilities[worth.utility.tasks[t]] = jax.nn.sigmoid(bend(logits_BC + biases_TB[t][:, None], t))
        values_BC = worth(probabilities, partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size))
        utility_BC = _eligible(values_BC, worth.may_serve(start, size), batch)
        maxima_BM = lax.dynamic_update_slice(maxima_BM, block_maxima(utility_BC, BLOCK), (zero, start // BLOCK))
        return lax.dynamic_update_slice(scratch_BN, utility_BC, (zero, start)), maxima_BM

    maxima_BM = jnp.zeros((batch, n // BLOCK), jnp.float32)
    return lax.fori_loop(jnp.int32(0), jnp.int32(-(-n // size)), score, (scratch_BN, maxima_BM))


def _without(
    scores: Array, maxima_BM: Array, conditions: ConditionArrays, block: int, by_rows: bool
) -> tuple[Array, Array]:
    """Scores, `[N, B]` if `by_rows`, and maxima of their blocks, with -inf for the ads that each query excludes.

    Only their blocks are read again: without any, the loop is empty.
    """
    n = scores.shape[0 if by_rows else 1]

    def some(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        scores, maxima_BM = carry
        queries, places = lax.dynamic_slice_in_dim(conditions.excluded, i * _AT_ONCE, _AT_ONCE).T
        places = jnp.where(places < 0, n, places)  # a negative index would count from the end
        blocks = places // block
        if by_rows:
            scores = scores.at[places, queries].set(-jnp.inf, mode="drop")
            of_blocks = scores.reshape(-1, block, scores.shape[1]).at[blocks, :, queries].get(mode="clip")
        else:
            scores = scores.at[queries, places].set(-jnp.inf, mode="drop")
            of_blocks = scores.reshape(scores.shape[0], -1, block).at[queries, blocks].get(mode="clip")
        return scores, maxima_BM.at[queries, blocks].set(jnp.max(of_blocks, axis=1), mode="drop")

    rounds = -(-conditions.excluded_count // _AT_ONCE)
    return lax.fori_loop(0, rounds, some, (scores, maxima_BM))


def _product(queries_BD: Array, columns_DC: Array) -> Array:
    """Inner products [B, C], summed in float32."""
    batch = queries_BD.shape[0]
    queries_BD = queries_BD.astype(columns_DC.dtype)
    if batch == 1 and columns_DC.dtype == jnp.bfloat16:
        # A CPU multiplies a lone bfloat16 vector by writing all the ads out as float32 first: slower than two vectors.
        queries_BD = jnp.pad(queries_BD, ((0, 1), (0, 0)))
    # "highest": a GPU would otherwise round float32 to TF32.
    return jnp.matmul(queries_BD, columns_DC, precision="highest", preferred_element_type=jnp.float32)[:batch]


def _probabilities_at(
    queries_TBD: Array, corpus: DeviceCorpus, biases_TB: Array, positions_BC: Array, bend: Bend
) -> Array:
    """Probabilities [T, B, C] of the ads at these positions; of no meaning outside 0..N-1."""
    # A CPU rounds the rows past a multiple of 8 otherwise: without padding, bits of an ad would depend on its rank.
    listed = positions_BC.shape[1]
    positions_BC = jnp.pad(positions_BC, ((0, 0), (0, -listed % 16)))
    rows_BCF, scales_BCT = corpus.rows_at(positions_BC)
    tasks, _, dim = queries_TBD.shape
    # One product for all tasks, with zeros where tasks differ: a batched one would first transpose what was gathered.
    queries_BFT = jnp.einsum("tbd,tu->btdu", queries_TBD, jnp.eye(tasks, dtype=jnp.float32), precision="highest")
    logits_BCT = jnp.matmul(
        rows_BCF,
        queries_BFT.reshape(-1, tasks * dim, tasks).astype(rows_BCF.dtype),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
    if scales_BCT is not None:
        logits_BCT *= scales_BCT
    logits_BCT = logits_BCT[:, :listed]
    return jax.nn.sigmoid(jnp.moveaxis(bend(logits_BCT + biases_TB.T[:, None, :], None), 2, 0))


def _eligible(utility: Array, valid: Array, batch: int) -> Array:
    """Utilities [B, C] as they are ranked; a utility of the bid alone comes without a B axis."""
    return jnp.broadcast_to(ordered(jnp.where(valid, utility, -jnp.inf)), (batch, valid.shape[-1]))
