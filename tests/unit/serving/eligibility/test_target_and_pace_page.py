"""The blocks of docs/how-to/target_and_pace.md are run as they stand there, on a tiny model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serving.service.messages import read_request, to_work
from tests.support import tiny
from tests.support.paths import ROOT
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle

PAGE = (ROOT / "docs" / "how-to" / "target_and_pace.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(JSON,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
N = 300


def _ads(rng: np.random.Generator) -> pa.Table:
    columns = {
        "country": [[["de"], ["fr", "de"], []][i % 3] for i in range(N)],
        "category": [["sport", "gambling"][i % 2] for i in range(N)],
        "owner": [10 + i % 7 for i in range(N)],
        "cost": rng.uniform(0, 40, N).tolist(),
        "flight": [[1_750_000_000, None]] * N,
        "adult": [False] * N,
    }
    table = tiny.ads_table(rng, N)
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return table


def test_an_ads_teams_day(tmp_path: Path) -> None:
    rng, names = np.random.default_rng(0), dict[str, Any]({"schema": tiny.SCHEMA})
    for block in PYTHON[:2]:
        exec(block, names)
    params, tables = tiny.weights()
    config = dataclasses.replace(tiny.CONFIG, utility=names["utility"])
    write_bundle(
        tmp_path / "bundle", schema=names["schema"], config=config, params=params, tables=tables, metrics={},
        golden_rows=tiny.golden_rows(rng, 2), platforms=("cpu",),
    )  # fmt: skip
    names |= {"bundle": Bundle.load(tmp_path / "bundle"), "ads": _ads(rng)}
    exec(PYTHON[2], names)
    row_of = {row["ad_id"]: row for row in names["ads"].to_pylist()}
    before = {ad.id: ad.score for ad in names["best"]}
    assert len(before) == 10
    for ad in before:
        row = row_of[ad]
        assert (row["eligible"], row["category"]) == (True, "sport")
        assert row["owner"] not in (12, 13)
        assert row["cost"] <= 20
        assert row["country"] in ([], ["de"], ["fr", "de"])
        assert ad not in (1, 2, 3)
    exec(PYTHON[3], names)
    context = {"country": "de", "floor": 0.05}
    after = {ad.id: ad.score for ad in names["scorer"].score([{"user": "u1"}], [list(before)], context)[0]}
    for ad, score in before.items():
        np.testing.assert_allclose(after[ad] + 0.05, (score + 0.05) / 2, rtol=1e-5)
    exec(PYTHON[4], names)
    assert names["rules"] == ["where.adult: the ad has True"]
    work = to_work(read_request(JSON.encode()), max_queries=1)
    assert work.conditions is not None
    answers = names["scorer"].rank(names["scorer"].encode(work.queries, 0, work.conditions), work.k)
    assert len(answers[0]) == 10
    assert all(row_of[ad.id]["category"] == "sport" for ad in answers[0])
