"""Whatever a request says: the best of the ads that may serve, as filtering them first and then ranking gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.index.ad_index import AdIndex, index_table
from serving.scorer import Scorer
from tests.support import targeting, tiny
from tt_jax.bundle.reader import Bundle

N, K = 700, 50


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return targeting.bundle(tmp_path_factory.mktemp("targeting") / "bundle")


@pytest.fixture(scope="module")
def ads() -> tuple[pa.Table, list[dict[str, Any]]]:
    return targeting.ads(np.random.default_rng(2), N)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle, ads: tuple[pa.Table, Any]) -> Scorer:
    return Scorer(bundle, index_table(bundle, ads[0]), max_k=N, max_candidates=N)


def filtered_first(
    scorer: Scorer, table: pa.Table, rows: list[dict[str, Any]], query: Any, request: dict[str, Any], of: list[Any]
) -> list[tuple[Any, float]]:
    """By the scores of all ads, which eligibility has no part in: those that may serve, best first, ties in order."""
    eligible = dict(zip(table.column("ad_id").to_pylist(), table.column("eligible").to_pylist(), strict=True))
    row_of = dict(zip(table.column("ad_id").to_pylist(), rows, strict=True))
    scores = scorer.score([query], [of], context=request["context"])[0]
    fit = [ad for ad in scores if eligible[ad.id] and targeting.may_serve(row_of[ad.id], ad.id, request)]
    return [(ad.id, ad.score) for ad in sorted(fit, key=lambda ad: -ad.score)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("batch", [1, 5, 32])
def test_equals_filtering_first(scorer: Scorer, ads: tuple[pa.Table, Any], seed: int, batch: int) -> None:
    rng = np.random.default_rng(100 * seed + batch)
    ids = ads[0].column("ad_id").to_pylist()
    queries = tiny.queries(rng, batch)
    requests = [targeting.request(rng, ids) for _ in queries]
    said = {key: [request[key] for request in requests] for key in ("context", "where", "exclude")}
    some = [targeting.some(rng, ids, 200) for _ in queries]
    for lists in (None, some):
        found = scorer.top_k(queries, K, lists, **said)
        for i, (query, request) in enumerate(zip(queries, requests, strict=True)):
            expected = filtered_first(scorer, *ads, query, request, ids if lists is None else lists[i])[:K]
            assert [ad.id for ad in found[i]] == [ad for ad, _ in expected]
            np.testing.assert_allclose(
                [ad.score for ad in found[i]], [score for _, score in expected], rtol=1e-5, atol=1e-6
            )


def test_an_index_that_is_read_again_is_the_same(bundle: Bundle, ads: tuple[pa.Table, Any], tmp_path: Path) -> None:
    made = index_table(bundle, ads[0])
    made.save(tmp_path / "index")
    read = AdIndex.load(tmp_path / "index")
    assert read.attributes.schema == made.attributes.schema
    assert [a.tobytes() if isinstance(a, np.ndarray) else a for a in read.attributes.parts()] == [
        a.tobytes() if isinstance(a, np.ndarray) else a for a in made.attributes.parts()
    ]
