"""The ads of an answer as JSON: the bytes that msgspec makes of the objects."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from serving.batching.batch import ads_json
from serving.index.ad_columns import AdId
from serving.scorer import ScoredAd

ODD = ['"', '","', "a\\", "}},{", "é\n", "", "\u2028"]


@pytest.mark.parametrize("heads", [("click",), ("click", 'a "b"', "%b, ü")])
@pytest.mark.parametrize("ids", [[], [7], [-1, 0, 2**63 - 1], ODD])
def test_they_are_the_bytes_of_the_objects(heads: tuple[str, ...], ids: list[AdId]) -> None:
    rng = np.random.default_rng(len(ids))
    utility = rng.normal(size=len(ids)).astype(np.float32) * 10.0 ** rng.integers(-30, 30, len(ids)).astype(np.float32)
    utility[:1] = np.inf  # null, as msgspec has it
    probabilities = rng.random((len(heads), len(ids)), np.float32)
    rows = zip(ids, utility.tolist(), probabilities.T.tolist(), strict=True)
    ads = [ScoredAd(ad, score, dict(zip(heads, p, strict=True))) for ad, score, p in rows]
    without = [{"id": ad.id, "score": ad.score, "probabilities": ad.probabilities} for ad in ads]
    assert ads_json(heads, ids, utility, probabilities) == msgspec.json.encode(without)
    propensities = np.linspace(0.001, 1, len(ads))
    explored = [dataclasses.replace(ad, propensity=p) for ad, p in zip(ads, propensities.tolist(), strict=True)]
    assert ads_json(heads, ids, utility, probabilities, propensities) == msgspec.json.encode(explored)
