"""The scorer against a brute force in NumPy float64, and that nothing compiles once it is warm."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest

from serving.index.ad_index import index_table
from serving.scorer import Encoded, Scorer
from tests.support import tiny
from tests.support.reference_model import Reference
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle
from tt_jax.features.encoder import Encoder

ADS, MAX_K, MAX_CANDIDATES = 1500, 100, 1200


@dataclass(frozen=True)
class Case:
    """A scorer beside the true probabilities `[B, N, T]` and utilities `[B, N]` of its ads."""

    scorer: Scorer
    ads: pa.Table
    ids: list[Any]
    eligible: np.ndarray
    reference: Reference
    utility: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def truth(self, queries: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        encoder = Encoder(self.scorer.schema)
        query = encoder.encode_queries(queries).arrays
        ad = encoder.encode({n: self.ads.column(n) for n in self.ads.column_names}, ("ad",), outcomes=False).arrays
        q_BTD = self.reference.tower("query", query["query_ids"], query["query_floats"])
        a_NTD = self.reference.tower("ad", ad["ad_ids"], ad["ad_floats"])
        probabilities = 1 / (1 + np.exp(-np.einsum("btd,ntd->bnt", q_BTD, a_NTD) - self.reference.params["bias"]))
        return probabilities, self.utility(probabilities, self.ads.column("bid").to_numpy())


def _product(probabilities: np.ndarray, bid: np.ndarray) -> np.ndarray:
    return bid * probabilities[:, :, 0]


def _mixture(probabilities: np.ndarray, bid: np.ndarray) -> np.ndarray:
    return bid * probabilities[:, :, 0] + 0.5 * probabilities[:, :, 2] - 0.1


@pytest.fixture(scope="module")
def case(tiny_bundle: Path) -> Case:
    """Integer ids, warm."""
    bundle, ads = Bundle.load(tiny_bundle), tiny.ads_table(np.random.default_rng(3), ADS)
    scorer = Scorer(bundle, index_table(bundle, ads), max_k=MAX_K, max_candidates=MAX_CANDIDATES)
    reference = Reference(tiny.SCHEMA, tiny.CONFIG.model, bundle.params, bundle.tables)
    return Case(scorer, ads, ads.column("ad_id").to_pylist(), ads.column("eligible").to_numpy(), reference, _product)


NAMED = dataclasses.replace(tiny.SCHEMA, ad_id="name", ad_id_dtype="string")
TIED, FEW = 40, 70


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Few ads with string ids; the last 40 are equal but for their names. A bundle of its own."""
    rng, path = np.random.default_rng(4), tmp_path_factory.mktemp("named") / "bundle"
    params, tables = tiny.weights(5)
    config = dataclasses.replace(tiny.CONFIG, utility="bid * click + 0.5 * teacher - 0.1")
    golden = tiny.golden_rows(rng, 2)
    write_bundle(
        path, schema=NAMED, config=config, params=params, tables=tables, metrics={}, golden_rows=golden,
        platforms=("cpu",),
    )  # fmt: skip
    few = tiny.ads_table(rng, FEW - TIED + 1, eligible=0.5)
    ads = pa.concat_tables([few, *[few.slice(FEW - TIED, 1)] * (TIED - 1)])
    ads = ads.append_column("name", pa.array([f"ad-{v}" for v in rng.permutation(FEW)]))
    eligible = np.array([*ads.column("eligible").to_pylist()[: FEW - TIED], *(rng.random(TIED) < 0.8)])
    ads = ads.set_column(ads.column_names.index("eligible"), "eligible", pa.array(eligible))
    bundle = Bundle.load(path)
    index = index_table(bundle, ads)
    vectors = np.array(index.vectors)
    vectors[FEW - TIED :] = vectors[-1]  # equal to the last bit, whatever a product does with the last rows of a batch
    index = dataclasses.replace(index, vectors=vectors)
    reference = Reference(NAMED, config.model, bundle.params, bundle.tables)
    scorer = Scorer(bundle, index, max_k=100, warm=False)
    return Case(scorer, ads, ads.column("name").to_pylist(), eligible, reference, _mixture)


def _queries(n: int, seed: int = 0) -> list[dict[str, Any]]:
    return tiny.queries(np.random.default_rng(seed), n)


def _check(case: Case, queries: list[dict[str, Any]], k: int, lists: list[list[Any]] | None = None) -> int:
    """Checks `top_k` against the truth; returns how many ties it saw."""
    answers, ties = case.scorer.top_k(queries, k, lists), 0
    probabilities, utility = case.truth(queries)
    place = {ad: i for i, ad in enumerate(case.ids)}
    assert len(answers) == len(queries)
    for b, answer in enumerate(answers):
        order = list(range(len(case.ids))) if lists is None else list(dict.fromkeys(place[ad] for ad in lists[b]))
        allowed = [i for i in order if case.eligible[i]]
        at = [place[ad.id] for ad in answer]
        assert len(set(at)) == len(at) == min(k, len(allowed))
        assert set(at) <= set(allowed)
        scores = np.array([ad.score for ad in answer])
        np.testing.assert_allclose(scores, utility[b, at], rtol=1e-4, atol=1e-5)
        # The right ads: the truth of the best, sorted, is the truth of those returned.
        np.testing.assert_allclose(scores, -np.sort(-utility[b, allowed])[:k], rtol=1e-4, atol=1e-5)
        found = np.array([[ad.probabilities[t] for t in tiny.SCHEMA.task_names] for ad in answer])
        np.testing.assert_allclose(found.reshape(-1, 3), probabilities[b, at], atol=1e-5)
        rank = {ad: r for r, ad in enumerate(order)}
        for (first, x), (second, y) in itertools.pairwise(zip(at, scores, strict=True)):
            assert x >= y
            if x == y:
                ties += 1
                assert rank[first] < rank[second]
    return ties


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 16), (3, 17), (8, MAX_K), (9, 10), (32, 50), (71, 5)])
def test_the_best_of_all_ads(case: Case, n: int, k: int) -> None:
    _check(case, _queries(n, n), k)


@pytest.mark.parametrize("n", [1, 8, 33])
def test_the_best_of_candidates(case: Case, n: int) -> None:
    rng = np.random.default_rng(n)
    sizes = [int(s) for s in rng.choice([0, 1, 5, 60, 1024, 1025, 1200], n)]
    lists = [[case.ids[i] for i in rng.integers(0, ADS, size)] for size in sizes]  # with repetitions
    _check(case, _queries(n, n), 20, lists)
    _check(case, _queries(n, n), MAX_K, lists)


def test_a_list_without_an_eligible_ad_has_no_best(case: Case) -> None:
    ineligible = [ad for ad, ok in zip(case.ids, case.eligible, strict=True) if not ok]
    assert case.scorer.top_k(_queries(3), 5, [ineligible[:20], [], ineligible]) == [[], [], []]
    assert case.scorer.top_k([], 5) == case.scorer.top_k([], 5, []) == []


def test_fewer_than_k_and_ties_in_order_of_position(named: Case) -> None:
    eligible = int(named.eligible.sum())
    assert eligible < 60
    assert _check(named, _queries(9), 100) >= 9 * (named.eligible[FEW - TIED :].sum() - 1) > 100
    _check(named, _queries(2), 10)
    assert (named.scorer.index_size, named.scorer.eligible) == (FEW, eligible)


def test_ties_of_candidates_in_order_of_the_list(named: Case) -> None:
    rng = np.random.default_rng(0)
    lists = [[named.ids[i] for i in rng.permutation(FEW)] for _ in range(3)]
    assert _check(named, _queries(3), 100, lists) > 50
    tied = {named.ids[i] for i in range(FEW - TIED, FEW) if named.eligible[i]}
    first, backwards = (named.scorer.top_k(_queries(1), 100, [ids])[0] for ids in (lists[0], lists[0][::-1]))
    assert [ad.id for ad in first if ad.id in tied] == [ad.id for ad in backwards if ad.id in tied][::-1]


@pytest.mark.parametrize("which", ["case", "named"])
def test_scores_come_in_the_order_given_eligible_or_not(which: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(which)
    rng, queries = np.random.default_rng(6), _queries(4)
    lists = [[int(i) for i in rng.integers(0, len(case.ids), size)] for size in (7, 0, 1, 1100)]
    answers = case.scorer.score(queries, [[case.ids[i] for i in at] for at in lists])
    probabilities, utility = case.truth(queries)
    for b, (answer, at) in enumerate(zip(answers, lists, strict=True)):
        assert [ad.id for ad in answer] == [case.ids[i] for i in at]
        np.testing.assert_allclose([ad.score for ad in answer], utility[b, at], rtol=1e-4, atol=1e-5)
        found = np.array([[ad.probabilities[t] for t in tiny.SCHEMA.task_names] for ad in answer])
        np.testing.assert_allclose(found.reshape(-1, 3), probabilities[b, at], atol=1e-5)
    assert not case.eligible[lists[-1]].all()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_online_equals_offline(tiny_bundle: Path, dtype: Any) -> None:
    """The probabilities of `TwoTower.predict` for the same raw rows: to 1e-5 in float32. In bfloat16 both vectors of a
    dot product are rounded, each number by at most one part in 2^9: the logit moves by 2^-8 of the sum of |q a|."""
    bundle, rng = Bundle.load(tiny_bundle), np.random.default_rng(8)
    ads, queries = tiny.ads_table(rng, 40), _queries(40)
    columns = {name: [q[name] for q in queries] for name in queries[0]}
    raw = {**columns, **{name: ads.column(name) for name in ads.column_names}}
    arrays = Encoder(bundle.schema).encode(raw, outcomes=False).arrays
    model = bundle.model
    offline = jax.nn.sigmoid(jax.jit(model.predict)(bundle.params, bundle.tables, arrays))
    scorer = Scorer(bundle, index_table(bundle, ads, dtype), warm=False)
    answers = scorer.score(queries, [[ad] for ad in ads.column("ad_id").to_pylist()])
    online = np.array([[ad.probabilities[t] for t in bundle.schema.task_names] for (ad,) in answers])
    reference = Reference(bundle.schema, bundle.config.model, bundle.params, bundle.tables)
    sizes = [np.abs(reference.tower(t, arrays[f"{t}_ids"], arrays[f"{t}_floats"])) for t in ("query", "ad")]
    rounding = (sizes[0] * sizes[1]).sum(-1) * 2**-8 / 4 * 1.01 if dtype == "bf16" else 0.0
    difference = np.abs(online - np.asarray(offline))
    assert (difference <= 1e-5 + rounding).all()
    assert dtype == "f32" or difference.max() > 1e-5
    (ranked,) = scorer.top_k(queries[:1], 5)
    (scored,) = scorer.score(queries[:1], [[ad.id for ad in ranked]])
    for a, b in zip(ranked, scored, strict=True):
        assert (a.id, list(a.probabilities)) == (b.id, list(b.probabilities))
        np.testing.assert_allclose(list(a.probabilities.values()), list(b.probabilities.values()), atol=1e-5)


def test_batched_and_alone_agree(case: Case) -> None:
    queries = _queries(40)
    encoded = [case.scorer.encode(queries[:3]), case.scorer.encode(queries[3:])]
    together = case.scorer.rank(Encoded.concatenate(encoded), 10)
    assert len(encoded[1]) == 37
    for query, answer in zip(queries[:5], together, strict=False):
        (alone,) = case.scorer.top_k([query], 10)
        assert [ad.id for ad in alone] == [ad.id for ad in answer]
        np.testing.assert_allclose([ad.score for ad in alone], [ad.score for ad in answer], rtol=1e-5)


def test_missing_features_are_missing_and_not_an_error(case: Case) -> None:
    query = {"user": "u1", "age": None, "query_embedding": [0.0, 1.0, float("nan")]}
    full = {**{f.name: None for f in tiny.SCHEMA.tower_features("query")}, **query}
    assert case.scorer.top_k([query], 5) == case.scorer.top_k([full], 5)
    assert len(case.scorer.top_k([{}], 5)[0]) == 5


@contextmanager
def _compilations() -> Iterator[list[str]]:
    """What JAX traced, lowered or compiled in the block."""
    found: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_compiles_after_the_warm_up(case: Case, tiny_bundle: Path) -> None:
    queries = _queries(70)
    with _compilations() as found:
        for n in (1, 2, 8, 9, 32, 33, 70):
            for k in (1, 16, 17, MAX_K):
                case.scorer.top_k(queries[:n], k)
        for n, size in ((1, 1), (5, 900), (33, 1024), (2, 1025), (1, 1200)):
            case.scorer.top_k(queries[:n], 7, [case.ids[:size]] * n)
        case.scorer.warm_up()
    assert found == []
    bundle = Bundle.load(tiny_bundle)
    cold = Scorer(bundle, index_table(bundle, case.ads.slice(0, 10)), warm=False)
    with _compilations() as found:
        cold.top_k(queries[:1], 1)
    assert "/jax/core/compile/backend_compile_duration" in found


def test_threads_get_their_own_answers(case: Case) -> None:
    jobs = [(_queries(1 + 3 * (i % 4), i), 1 + 9 * (i % 3)) for i in range(24)]
    expected = [case.scorer.top_k(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda job: case.scorer.top_k(*job), jobs * 4)) == expected * 4


def test_a_call_that_fails_does_not_break_the_next(case: Case) -> None:
    encoded = case.scorer.encode(_queries(1))
    expected = case.scorer.rank(encoded, 5)
    with pytest.raises(TypeError):
        case.scorer.rank(dataclasses.replace(encoded, floats=encoded.floats[:, :-1]), 5)
    assert case.scorer.rank(encoded, 5) == expected


@pytest.mark.parametrize("ads", [ADS, 64])  # of 64 ads, results have the shape of the buffer that a run gives back
def test_results_stay_what_they_were_while_the_next_calls_run(case: Case, tiny_bundle: Path, ads: int) -> None:
    bundle, scorer = Bundle.load(tiny_bundle), case.scorer
    if ads < ADS:
        scorer = Scorer(bundle, index_table(bundle, case.ads.slice(0, ads)), max_k=ads, warm=False)
    queries = [scorer.encode([query]) for query in _queries(20)]
    held = [scorer.start(query, [64], None).best()[0] for query in queries]
    copies = [[array.copy() for array in best] for best in held]
    for query in reversed(queries):
        scorer.start(query, [64], None).wait()
    for best, copy in zip(held, copies, strict=True):
        for array, before in zip(best, copy, strict=True):
            np.testing.assert_array_equal(array, before)


def test_utilities_that_are_no_number_are_not_ranked(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, utility="log(bid - 1)"))
    ads = tiny.ads_table(np.random.default_rng(9), 90, eligible=1.0)
    bids = ads.column("bid").to_numpy().astype(np.float32)
    (answer,) = Scorer(bundle, index_table(bundle, ads), warm=False).top_k(_queries(1), 90)
    assert 0 < len(answer) == (bids > 1).sum() < 90
    assert [ad.score for ad in answer] == sorted((ad.score for ad in answer), reverse=True)
