"""What the scorer turns away: wrong requests, by name, and bundles and indexes that do not belong together."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.index.ad_index import AdIndex, IndexMismatchError, index_table
from serving.scorer import RequestError, Scorer
from tests.support import tiny
from tests.support.bundles import rewrite
from tests.support.paths import ROOT
from tt_jax.bundle.reader import Bundle, BundleError
from tt_jax.bundle.writer import write_bundle

MAX_K, MAX_CANDIDATES = 20, 150


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Path, tiny_index: Path) -> Scorer:
    """Cold: none of its programs is needed."""
    return Scorer.load(tiny_bundle, tiny_index, max_k=MAX_K, max_candidates=MAX_CANDIDATES, warm=False)


def _queries(n: int) -> list[dict[str, Any]]:
    return tiny.queries(np.random.default_rng(0), n)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([{}, {"usr": "u"}], "query 1: feature 'usr': unknown query feature; did you mean 'user'"),
        ([{"price": 3.0}], "query 0: feature 'price': unknown query feature"),
        ([{}, {"user": 3}], "query 1: feature 'user': expected a string, got 3"),
        ([{"history": [1, "2"]}], "query 0: feature 'history': in a list: expected an integer, got '2'"),
        ([{"history": 1}], "query 0: feature 'history': expected a list, got 1"),
        ([{"age": "old"}], "query 0: feature 'age': expected a number, got 'old'"),
        ([{"query_embedding": [1.0]}], "query 0: feature 'query_embedding': expected 3 numbers, got 1"),
        ([{"user": ["x"] * 100_000}], r"query 0: feature 'user': expected a string, got \['x', .*\.\.\.$"),
        ([3], "query 0: expected an object of features, got 3"),
        ([{3: 4}], "query 0: expected an object of features"),
    ],
)
def test_wrong_features_are_named(scorer: Scorer, queries: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        scorer.encode(queries)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, 1.0, True, "5", None])
def test_a_wrong_k_is_named(scorer: Scorer, k: Any) -> None:
    with pytest.raises(RequestError, match=f"k: expected an integer within 1..{MAX_K}, got {k!r}"):
        scorer.top_k(_queries(1), k)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([[]], "expected a list for each of 2 queries, got 1"),
        ([[], [10**9, 10**9 + 1]], "of query 1: 2 unknown ad ids: 1000000000, 1000000001"),
        ([list(range(10**9, 10**9 + 100)), []], "of query 0: 100 unknown ad ids: .*, ...$"),
        ([[], [2**63]], "of query 1: 1 unknown ad ids: 9223372036854775808"),
        ([[], [-1]], "1 unknown ad ids: -1"),
        ([[], ["1"]], "of query 1: expected an integer, got '1'"),
        ([[], [True]], "of query 1: expected an integer, got True"),
        ([[], [1.0]], "of query 1: expected an integer, got 1.0"),
        ([[], [None]], "of query 1: expected an integer, got None"),
        ([[], [[1]]], r"of query 1: expected an integer, got \[1\]"),
        ([[], "12"], "of query 1: expected a list of ids, got '12'"),
        ([[], None], "of query 1: expected a list of ids, got None"),
        ([[], [0] * (MAX_CANDIDATES + 1)], "of query 1: expected at most 150 ids, got 151"),
    ],
)
def test_wrong_candidates_are_named(scorer: Scorer, candidates: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"candidates.*{message}"):
        scorer.top_k(_queries(2), 3, candidates)
    with pytest.raises(RequestError, match=f"ad_ids.*{message}"):
        scorer.score(_queries(2), candidates)


def test_string_ids_are_strings(tiny_bundle: Path, tiny_index: Path) -> None:
    index = AdIndex.load(tiny_index)
    named = Scorer(Bundle.load(tiny_bundle), dataclasses.replace(index, ids=[f"ad-{i}" for i in index.ids]), warm=False)
    with pytest.raises(RequestError, match="of query 0: expected a string, got 3"):
        named.top_k(_queries(1), 3, [[3]])
    with pytest.raises(RequestError, match="of query 0: 1 unknown ad ids: 'ad-x'"):
        named.top_k(_queries(1), 3, [[f"ad-{index.ids[0]}", "ad-x"]])


@pytest.mark.parametrize("limits", [{"max_k": 0}, {"max_candidates": 0}])
def test_limits_must_be_positive(tiny_bundle: Path, tiny_index: Path, limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected max_k and max_candidates >= 1, got"):
        Scorer.load(tiny_bundle, tiny_index, warm=False, **limits)


def test_an_index_of_another_bundle_is_refused(
    scorer: Scorer, tiny_bundle: Path, tiny_index: Path, tmp_path: Path
) -> None:
    index = AdIndex.load(tiny_index)
    assert (scorer.fingerprint, scorer.index_id) == (Bundle.load(tiny_bundle).fingerprint, index.index_id)
    assert (scorer.utility, scorer.bundle.tasks) == ("bid * click", tiny.SCHEMA.task_names)
    assert (scorer.index_size, scorer.eligible) == (200, index.valid.sum())
    dataclasses.replace(index, fingerprint="f" * 64).save(tmp_path / "other")
    with pytest.raises(IndexMismatchError, match=f"{'f' * 64}.*{scorer.fingerprint}"):
        Scorer.load(tiny_bundle, tmp_path / "other")


def test_loading_replays_the_golden_rows(tmp_path: Path) -> None:
    """A bundle whose scores this encoder does not reproduce."""
    params, tables = tiny.weights()
    golden = tiny.golden_rows(np.random.default_rng(1), 2)
    write_bundle(
        tmp_path / "b", schema=tiny.SCHEMA, config=tiny.CONFIG, params=params, tables=tables, metrics={},
        golden_rows=golden, platforms=("cpu",),
    )  # fmt: skip
    text = (tmp_path / "b" / "golden.json").read_text().replace('"click": 0.', '"click": 0.9')
    index_table(Bundle.load(tmp_path / "b"), tiny.ads_table(np.random.default_rng(0), 5)).save(tmp_path / "i")
    rewrite(tmp_path / "b", {"golden.json": text})
    with pytest.raises(BundleError, match=r"golden\.json: row \d, task 'click'"):
        Scorer.load(tmp_path / "b", tmp_path / "i", warm=False)


_ALONE = """
    import sys
    for name in ("pyarrow", "litestar", "grain", "tensorboardX", "ml_collections"):
        sys.modules[name] = None  # an import of it fails
    from serving import AdIndex, RequestError, ScoredAd, Scorer
    assert not {"orbax", "tensorstore", "httptools", "msgspec", "tt_jax.training"} & set(sys.modules)
    scorer = Scorer.load(sys.argv[1], sys.argv[2], max_k=16, warm=False)
    (ads,) = scorer.top_k([{"user": "u1", "history": [1, 2]}], 3)
    print([ad.id for ad in ads])
"""


def test_a_service_needs_neither_pyarrow_nor_a_web_server(tiny_bundle: Path, tiny_index: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_ALONE), str(tiny_bundle), str(tiny_index)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=16, warm=False)
    (expected,) = scorer.top_k([{"user": "u1", "history": [1, 2]}], 3)
    assert run.stdout.strip() == str([ad.id for ad in expected])
