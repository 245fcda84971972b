"""Scores of a trained bundle in float32 and bfloat16, on a CPU and a GPU if there is one: within the limits
that docs/explanation/serving_design.md states.

With a GPU: JAX_PLATFORMS=cuda,cpu pytest tests/integration/test_agreement.py
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from serving.index.ad_index import index_table
from serving.scorer import Scorer
from tests.support import tiny
from tt_jax.bundle.reader import Bundle
from tt_jax.training.trained import export, load_trained

pytestmark = pytest.mark.devices

ADS, QUERIES, K = 1000, 100, 100
PROBABILITY = {"f32": 1e-5, "bf16": 0.02}  # largest difference
OVERLAP = {"f32": 0.999, "bf16": 0.99}  # mean share of the best K that both have; ads of close utility change places


@dataclass(frozen=True)
class Scores:
    """`probabilities` `[Q, N, T]` of all ads, and the ids of the `best` K of each query."""

    probabilities: np.ndarray
    best: list[set[Any]]


@pytest.fixture(scope="module")
def bundle(told_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("trained") / "bundle"
    export(load_trained(told_run), out)
    return Bundle.load(out)


def scores(bundle: Bundle, platform: str, precision: Any) -> Scores:
    """With matmuls and stored ad vectors in that precision."""
    rng = np.random.default_rng(0)
    with jax.default_device(jax.devices(platform)[0]):
        bundle = dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, precision=precision))
        assert bundle.model.precision == precision
        index = index_table(bundle, tiny.ads_table(rng, ADS, eligible=1.0), precision)
        scorer = Scorer(bundle, index, max_k=K, warm=False)
        columns = {**tiny.query_columns(rng, QUERIES), "scenario": [tiny.SCENARIOS[i % 2] for i in range(QUERIES)]}
        queries, ids = tiny.rows(columns), scorer.ads.ids.at(np.arange(ADS))
        found = scorer.score(queries, [ids] * QUERIES)
        best = [{ad.id for ad in ads} for ads in scorer.top_k(queries, K)]
    probabilities = np.array([[[*ad.probabilities.values()] for ad in ads] for ads in found])
    return Scores(probabilities, best)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Scores:
    return scores(bundle, "cpu", "f32")


@pytest.mark.parametrize(("platform", "precision"), [("cpu", "bf16"), ("gpu", "f32"), ("gpu", "bf16")])
def test_scores_agree(bundle: Bundle, reference: Scores, platform: str, precision: str) -> None:
    try:
        jax.devices(platform)
    except RuntimeError:
        pytest.skip(f"no {platform} here")
    found = scores(bundle, platform, precision)
    assert np.ptp(reference.probabilities[..., 0]) > 0.3  # it has learned something
    difference = float(np.abs(found.probabilities - reference.probabilities).max())
    overlap = float(np.mean([len(a & b) / K for a, b in zip(found.best, reference.best, strict=True)]))
    mean = float(np.abs(found.probabilities - reference.probabilities).mean())
    print(f"{platform} {precision}: probability {difference:.2g}, mean {mean:.2g}, overlap {overlap:.4f}")
    assert difference <= PROBABILITY[precision]
    assert overlap >= OVERLAP[precision]
