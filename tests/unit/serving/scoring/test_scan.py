"""Scoring and ranking of all ads and of lists against NumPy: ties, masks, sizes around block and part, bf16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serving.index.quantized import stored
from serving.scoring import device_corpus as corpus_module
from serving.scoring import scan as module
from serving.scoring.device_corpus import BLOCK, DeviceCorpus
from serving.scoring.scan import score_and_top_k, score_candidates
from serving.scoring.top_k import TopK
from tests.support.reference_top_k import reference_top_k
from tt_jax.calibration.maps import Curve, Curves
from tt_jax.utility import Utility

TASKS = ("click", "long_view")


def random_ads(rng: np.random.Generator, n: int, dim: int = 8) -> dict[str, np.ndarray]:
    """Small whole numbers, exact in bfloat16 and in any order of summation: logits tie often, and exactly."""
    return {
        "queries": rng.integers(-1, 2, (len(TASKS), 3, dim)).astype(np.float32),
        "ads": rng.integers(-1, 2, (n, len(TASKS), dim)).astype(np.float32),
        "bids": rng.integers(1, 4, n).astype(np.float32),
        "valid": rng.random(n) < 0.7,
        "biases": np.array([-1.0, 0.5], np.float32),
    }


def reference_probabilities(d: dict[str, np.ndarray]) -> np.ndarray:
    """[T, B, N] in float64."""
    logits = np.einsum("tbd,ntd->tbn", d["queries"].astype(np.float64), d["ads"].astype(np.float64))
    return 1 / (1 + np.exp(-(logits + d["biases"][:, None, None])))


def corpus_of(d: dict[str, np.ndarray], utility: Utility, dtype: jnp.dtype) -> DeviceCorpus:
    scanned = tuple(TASKS.index(t) for t in utility.names)
    return DeviceCorpus.pack(
        jnp.asarray(d["ads"], dtype), jnp.asarray(d["bids"]), jnp.asarray(d["valid"]), scanned=scanned
    )


def scan(
    d: dict[str, np.ndarray], expression: str, k: int, dtype: jnp.dtype = jnp.float32, curves: Curves | None = None
) -> TopK:
    utility = Utility.parse(expression, TASKS[: d["ads"].shape[1]])
    corpus = corpus_of(d, utility, dtype)
    call = jax.jit(score_and_top_k, static_argnames=("utility", "ks"), donate_argnames="scratch")
    dirty = jnp.full_like(corpus.scratch(d["queries"].shape[1]), jnp.nan)
    args = jnp.asarray(d["queries"]), corpus, jnp.asarray(d["biases"]), utility, (k,)
    _, scratch = call(*args, dirty, curves)
    result, _ = call(*args, scratch, curves)
    return result


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts, the last one smaller."""
    monkeypatch.setattr(corpus_module, "PART", 2 * BLOCK)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(970, 3), (130, 100)])
def test_scan_ranks_every_ad(n: int, k: int, dtype: jnp.dtype, queries: int) -> None:
    d = random_ads(np.random.default_rng(n), n)
    d["queries"] = d["queries"][:, :queries]
    p = reference_probabilities(d)
    got = scan(d, "bid * click + 0.25 * long_view", k, dtype)
    utility = np.where(d["valid"], d["bids"] * p[0] + 0.25 * p[1], -np.inf)
    want, _ = reference_top_k(utility, k)
    np.testing.assert_allclose(got.utility_Bk, want, rtol=1e-5)
    eligible = np.isfinite(want)
    positions = np.where(eligible, np.asarray(got.positions_Bk), 0)
    np.testing.assert_allclose(
        np.take_along_axis(utility, positions, axis=1)[eligible], np.asarray(got.utility_Bk)[eligible], rtol=1e-5
    )
    for t in range(len(TASKS)):
        chosen = np.take_along_axis(p[t], positions, axis=1)
        np.testing.assert_allclose(np.asarray(got.probabilities_TBk)[t][eligible], chosen[eligible], rtol=1e-5)
    assert all(len(set(row)) == k for row in np.asarray(got.positions_Bk).tolist())


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("tasks", [1, 2])  # one task is read in rows, but for one query
@pytest.mark.parametrize("queries", [1, 3])
def test_one_program_gives_any_of_its_numbers_of_results(queries: int, tasks: int) -> None:
    """1 by blocks, 100 and more than there are ads by a flat top k; each as a program of its own gives it."""
    d = random_ads(np.random.default_rng(5), 970)
    d |= {"queries": d["queries"][:tasks, :queries], "ads": d["ads"][:, :tasks], "biases": d["biases"][:tasks]}
    utility, ks = Utility.parse("bid * click", TASKS[:tasks]), (1, 100, 2000)
    corpus = corpus_of(d, utility, jnp.float32)
    call = jax.jit(score_and_top_k, static_argnames=("utility", "ks"), donate_argnames="scratch")
    scratch = corpus.scratch(queries)
    for which, k in enumerate(ks):
        args = jnp.asarray(d["queries"]), corpus, jnp.asarray(d["biases"]), utility, ks, scratch, None
        found, scratch = call(*args, jnp.int32(which))
        want, size = scan(d, "bid * click", k), min(k, len(corpus.valid_N))
        assert found.utility_Bk.shape[1] == len(corpus.valid_N)
        assert np.isneginf(found.utility_Bk[:, size:]).all()
        for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(got[..., :size], expected)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("queries", [1, 3])
def test_scan_breaks_ties_by_position(queries: int) -> None:
    d = random_ads(np.random.default_rng(7), 970)
    d["queries"] = d["queries"][:, :queries]
    logits = np.einsum("bd,nd->bn", d["queries"][0], d["ads"][:, 0])
    for expression, ranked in (("click", logits), ("bid", np.broadcast_to(d["bids"], logits.shape))):
        _, want = reference_top_k(np.where(d["valid"], ranked, -np.inf), 3)
        np.testing.assert_array_equal(scan(d, expression, 3).positions_Bk, want)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("queries", [1, 2, 8, 32])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("tasks", [1, 2])  # one task in float32 is read in rows
def test_equal_ads_tie_wherever_they_stand(tasks: int, dtype: jnp.dtype, queries: int) -> None:
    """To the last bit, of numbers that are rounded, so that they stand in order of position."""
    rng = np.random.default_rng(13)
    d = random_ads(rng, 970, 64)
    which = rng.integers(0, 7, 970)
    d["ads"] = np.asarray(jnp.asarray(rng.standard_normal((7, tasks, 64))[which] / 8, dtype), np.float32)
    d["queries"] = np.asarray(jnp.asarray(rng.standard_normal((tasks, queries, 64)), dtype), np.float32)
    d["biases"] = d["biases"][:tasks]
    d["bids"] = np.full(970, 0.3, np.float32)
    utility = np.where(d["valid"], reference_probabilities(d)[0], -np.inf)
    _, want = reference_top_k(utility, 300)
    np.testing.assert_array_equal(scan(d, "bid * click", 300, dtype).positions_Bk, want)
    np.testing.assert_array_equal(scan(d, "bid * click", 10, dtype).positions_Bk, want[:, :10])


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(("n", "k"), [(970, 100), (50, 50)])
def test_int8_is_ranked_by_numbers_times_scale(n: int, k: int, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, of which the last one begins within the one before it. Ads that are equal tie wherever they stand."""
    monkeypatch.setattr(module, "INT8_PART", 3 * BLOCK)
    rng = np.random.default_rng(17)
    d = random_ads(rng, n, 64)
    d["queries"] = rng.standard_normal((2, queries, 64)).astype(np.float32)
    rows = np.asarray(stored(jnp.asarray(rng.standard_normal((n // 2, 2, 64)) / 8, jnp.float32), np.dtype(np.int8)))
    rows = np.concatenate([rows, rows])[rng.permutation(n)]
    d |= {"bids": np.full(n, 0.5, np.float32)}
    numbers, scales = rows[..., :-4].astype(np.float32), np.ascontiguousarray(rows[..., -4:]).view(np.float32)
    p = np.round(reference_probabilities(d | {"ads": numbers * scales}), 9)  # rounded: equal ads tie here too
    utility = np.where(d["valid"], 0.5 * p[0] + 0.25 * p[1], -np.inf)
    want, positions = reference_top_k(utility, k)
    got = scan(d | {"ads": rows}, "bid * click + 0.25 * long_view", k, jnp.int8)
    np.testing.assert_allclose(got.utility_Bk, want, rtol=2e-6)
    eligible = np.isfinite(want)
    np.testing.assert_array_equal(np.asarray(got.positions_Bk)[eligible], positions[eligible])
    chosen = np.take_along_axis(p, np.broadcast_to(positions, (2, *positions.shape)), axis=2)
    np.testing.assert_allclose(np.asarray(got.probabilities_TBk)[:, eligible], chosen[:, eligible], rtol=1e-5)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("queries", [1, 3])
def test_a_calibrated_task_is_ranked_by_the_maps_of_the_queries(queries: int) -> None:
    """One task, in rows or columns: each query has a map of its own, by which other ads may win where bids differ."""
    d = random_ads(np.random.default_rng(21), 970)
    d |= {"queries": d["queries"][:1, :queries], "ads": d["ads"][:, :1], "biases": d["biases"][:1]}
    knots = Curve(knots=(-3.0, -1.0, 0.5, 4.0), values=(-2.0, -1.9, 1.0, 1.1))
    maps = Curves.of([[knots], [Curve(0.5, 0.25)]]).at(jnp.arange(queries, dtype=jnp.int32) % 2)
    z = np.einsum("bd,nd->bn", d["queries"][0].astype(np.float64), d["ads"][:, 0]) + d["biases"][0]
    inner = np.interp(z, knots.knots, knots.values)
    bent = inner + np.minimum(z - knots.knots[0], 0) + np.maximum(z - knots.knots[-1], 0)
    z = np.where((np.arange(queries) % 2 == 0)[:, None], bent, 0.5 * z + 0.25)
    utility = np.where(d["valid"], d["bids"] / (1 + np.exp(-z)), -np.inf)
    want, _ = reference_top_k(utility, 5)
    got = scan(d, "bid * click", 5, curves=maps)
    np.testing.assert_allclose(got.utility_Bk, want, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(utility, np.asarray(got.positions_Bk), axis=1), want, rtol=1e-5)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_scan_of_tiny_and_of_huge_numbers(size: float, queries: int) -> None:
    """Logits that all but vanish, and ones whose probabilities are 0 and 1."""
    d = random_ads(np.random.default_rng(14), 970)
    d["queries"] = d["queries"][:, :queries]
    d["ads"] *= np.float32(size)
    with np.errstate(over="ignore"):
        p = reference_probabilities(d)[0]
    utility = np.where(d["valid"], d["bids"] * p, -np.inf).astype(np.float32)  # float64 tells tiny logits apart
    want, positions = reference_top_k(utility, 20)
    got = scan(d, "bid * click", 20)
    np.testing.assert_array_equal(got.positions_Bk, positions)
    np.testing.assert_allclose(got.utility_Bk, want, rtol=2e-6)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("queries", [1, 3])
def test_infinite_utilities(queries: int) -> None:
    """Of an ad that may be returned one is the best there is; of any other it counts for nothing."""
    d = random_ads(np.random.default_rng(15), 970)
    d["queries"] = d["queries"][:, :queries]
    d["bids"][[5, 700]] = np.inf
    d["bids"][[6, 701]] = -np.inf
    d["valid"][[5, 6, 700]] = [True, True, False]
    got = scan(d, "bid * click", 970)
    assert (np.asarray(got.positions_Bk)[:, 0] == 5).all()
    assert np.isposinf(np.asarray(got.utility_Bk)[:, 0]).all()
    eligible = d["valid"] & np.isfinite(d["bids"])
    assert (np.isfinite(np.asarray(got.utility_Bk)).sum(axis=1) == eligible.sum()).all()


def test_float32_products_are_float32() -> None:
    rng = np.random.default_rng(11)
    d = random_ads(rng, 500, 64)
    d["queries"] = rng.standard_normal((2, 3, 64)).astype(np.float32)
    d["ads"] = rng.standard_normal((500, 2, 64)).astype(np.float32) / 8
    d["valid"][:] = True
    want, positions = reference_top_k(reference_probabilities(d)[0], 5)
    got = scan(d, "click", 5)
    np.testing.assert_array_equal(got.positions_Bk, positions)
    np.testing.assert_allclose(got.utility_Bk, want, rtol=2e-6)
    np.testing.assert_allclose(got.probabilities_TBk[0], got.utility_Bk, rtol=2e-6)


def test_ineligible_ads_rank_last_as_minus_infinity() -> None:
    d = random_ads(np.random.default_rng(5), 200)
    d["valid"][:] = False
    d["valid"][[17, 150]] = True
    got = scan(d, "bid * click", 10)
    assert np.isneginf(np.asarray(got.utility_Bk)[:, 2:]).all()
    assert all(set(row[:2]) == {17, 150} for row in np.asarray(got.positions_Bk).tolist())
    d["valid"][:] = False
    assert np.isneginf(np.asarray(scan(d, "bid * click", 10).utility_Bk)).all()


def test_undefined_utility_is_never_chosen_before_a_defined_one() -> None:
    d = random_ads(np.random.default_rng(6), 200)
    d["valid"][:] = True
    d["bids"][:] = np.where(np.arange(200) % 50 == 0, 1.0, -1.0)
    got = scan(d, "log(bid) + click", 6)
    assert all(set(row[:4]) == {0, 50, 100, 150} for row in np.asarray(got.positions_Bk).tolist())
    assert np.isneginf(np.asarray(got.utility_Bk)[:, 4:]).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("k", [4, 50])
def test_candidates(k: int, dtype: jnp.dtype) -> None:
    rng = np.random.default_rng(9)
    d = random_ads(rng, 300)
    candidates = np.stack([rng.permutation(300)[:40] for _ in range(3)])
    candidates[0, 5:] = -1  # a short list, filled up
    candidates[1] = -1  # an empty one
    candidates[2, 3] = 10_000  # beyond the corpus, padding included
    utility = Utility.parse("bid * click", TASKS)
    got = jax.jit(score_candidates, static_argnames=("utility", "k"))(
        jnp.asarray(d["queries"]), corpus_of(d, utility, dtype), jnp.asarray(d["biases"]), utility, k,
        jnp.asarray(candidates, jnp.int32),
    )  # fmt: skip
    p = reference_probabilities(d)
    known = (candidates >= 0) & (candidates < 300)
    at = np.where(known, candidates, 0)
    u = np.where(known & d["valid"][at], d["bids"][at] * np.take_along_axis(p[0], at, axis=1), -np.inf)
    want, places = reference_top_k(np.round(u, 9), k)  # rounded: the same logit and bid must tie in the reference too
    np.testing.assert_allclose(got.utility_Bk, want, rtol=1e-5)
    positions, eligible = np.take_along_axis(candidates, places, axis=1), np.isfinite(want)
    np.testing.assert_array_equal(np.asarray(got.positions_Bk)[eligible], positions[eligible])
    for t in range(len(TASKS)):
        chosen = np.take_along_axis(p[t], np.where(eligible, positions, 0), axis=1)
        np.testing.assert_allclose(np.asarray(got.probabilities_TBk)[t][eligible], chosen[eligible], rtol=1e-5)


def test_candidates_and_scan_agree() -> None:
    d = random_ads(np.random.default_rng(12), 200)
    utility = Utility.parse("bid * click + long_view", TASKS)
    everything = jnp.broadcast_to(jnp.arange(200, dtype=jnp.int32), (3, 200))
    listed = score_candidates(
        jnp.asarray(d["queries"]), corpus_of(d, utility, jnp.float32), jnp.asarray(d["biases"]), utility, 20, everything
    )
    scanned = scan(d, "bid * click + long_view", 20)
    np.testing.assert_allclose(listed.utility_Bk, scanned.utility_Bk, rtol=1e-6)
    np.testing.assert_array_equal(listed.positions_Bk, scanned.positions_Bk)
