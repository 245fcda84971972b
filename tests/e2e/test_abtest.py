"""`tt-jax abtest`: its scores are those of serving, its report adds up, what does not fit is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.adworld.features import ad_ids
from input_pipeline.adworld.simulate import AdWorldConfig, corpus, impressions, schema
from input_pipeline.adworld.world import SCENARIOS
from serving import Scorer
from serving.index.ad_index import index_table
from tests.support.cli import Call
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle
from tt_jax.cli.abtest import ranker
from tt_jax.config import Config, DataConfig, ModelConfig
from tt_jax.evaluation.adworld.replay import Replay, replay, wake
from tt_jax.models.two_tower import TwoTower

WORLD = AdWorldConfig(seed=6, users=800, advertisers=30, ads=400, days=3, requests_per_day=400, new_ads_per_day=10)
QUICK = ("--requests=150", "--candidates=40", "--top-n=8", "--top-k=5")


def write(out: Path, seed: int, scenarios: tuple[str, ...]) -> Path:
    """A bundle of random weights."""
    config = Config(
        model=ModelConfig(experts=1, full_rank_layers=1, low_rank_layers=0, mlp=(8,), output_dim=8, embedding_init=0.5),
        data=DataConfig(scenarios=scenarios),
        precision="f32",
        utility="bid * click",
    )
    s = schema(WORLD)
    params, tables = TwoTower(s, config.model, "f32").init(seed)
    rows = next(iter(impressions(WORLD))).table.slice(0, 3).to_pylist()
    golden = [{t: {f.name: row[f.name] for f in s.tower_features(t)} for t in ("query", "ad")} for row in rows]
    write_bundle(
        out, schema=s, config=config, params=params, tables=tables, metrics={}, golden_rows=golden, platforms=("cpu",)
    )
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """world.json, and the bundles `a` of both scenarios, `b` of shopping, `c` of standard."""
    home = tmp_path_factory.mktemp("abtest")
    (home / "world.json").write_text(json.dumps(dataclasses.asdict(WORLD)))
    for name, seed, scenarios in (("a", 0, ()), ("b", 1, ("shopping",)), ("c", 2, ("standard",))):
        write(home / name, seed, scenarios)
    return home


def test_scores_are_those_of_the_service(home: Path) -> None:
    """Of every candidate that is ranked: `Scorer.score` for the same request as Python values, and the same index."""
    morning, ads, bundle = wake(WORLD), corpus(WORLD), Bundle.load(home / "a")
    rank = ranker(bundle, ads, "shopping")
    seen: list[tuple[pa.Table, np.ndarray, np.ndarray]] = []

    def watched(requests: Any, queries: pa.Table, ad: np.ndarray) -> np.ndarray:
        utility = rank(requests, queries, ad)
        seen.append((queries, ad, utility))
        return utility

    replay(morning, SCENARIOS.index("shopping"), [watched], Replay(requests=7, candidates=40, passed=8, wanted=5))
    ((queries, ad, utility),) = seen
    scorer = Scorer(bundle, index_table(bundle, ads), warm=False)
    answers = scorer.score(queries.to_pylist(), [ids.tolist() for ids in ad_ids(ad)])
    online = np.array([[scored.score for scored in answer] for answer in answers])
    assert utility.shape == online.shape == (7, 40)
    np.testing.assert_allclose(utility, online, rtol=1e-5)
    assert np.unique(online.round(6)).size > 100


def test_two_models_and_the_report(call: Call, home: Path, tmp_path: Path) -> None:
    arms = (f"--control={home / 'a'}", f"--treatment=standard={home / 'c'},shopping={home / 'b'}")
    code, out, err = call("abtest", f"--world={home}", *arms, *QUICK, f"--out={tmp_path}")
    assert (code, out.splitlines()[0].split()[:3]) == (0, ["all", "control", "treatment"])
    assert "300 requests in" in err
    report = json.loads((tmp_path / "abtest.json").read_text())
    assert report["scenarios"] == ["standard", "shopping"]
    assert report["treatment"]["shopping"]["fingerprint"] == Bundle.load(home / "b").fingerprint
    assert report["control"]["shopping"] == report["control"]["standard"]
    assert report["world"] == dataclasses.asdict(WORLD)
    assert report["groups"]["all"]["sums"]["requests"] == [300, 300]
    recall = report["groups"]["all"]["effects"]["recall"]
    assert recall["relative"] != 0
    page = (tmp_path / "abtest.html").read_text()
    assert page.count("<svg role=") == page.count("<section>") == len(report["groups"])
    assert f"{recall['low']:+.2%} .. {recall['high']:+.2%}" in page
    assert report["treatment"]["standard"]["fingerprint"] in page
    assert not {"<script", "http:", "https:", "url("} & set(page.split())


def test_one_model_as_both_arms(call: Call, home: Path, tmp_path: Path) -> None:
    arms = (f"--control={home / 'b'}", f"--treatment={home / 'a'}")
    code, out, _ = call("abtest", f"--world={home / 'world.json'}", *arms, *QUICK)
    assert (code, out.split()[0]) == (0, "shopping")  # the one that both cover
    same = (f"--control={home / 'b'}", f"--treatment={home / 'b'}")
    code, out, _ = call("abtest", f"--world={home}", *same, *QUICK)
    assert code == 0
    assert "*" not in out
    assert len(re.findall(r"\+0\.00% +\+0\.00% \.\. \+0\.00%", out)) > 20
    code, out, _ = call("abtest", f"--world={home}", *same, *QUICK, "--design=split", "--repeat=5", f"--out={tmp_path}")
    assert code == 0
    assert out.startswith("of 5 experiments")
    written = json.loads((tmp_path / "abtest.json").read_text())
    assert (written["experiments"], written["control"]) == (5, written["treatment"])
    recall = written["figures"]["recall"]
    assert recall["experiments"] == 5
    assert 0 <= recall["low"] <= recall["rate"] <= recall["high"] <= 1
    assert f"{recall['significant']} of 5" in out
    assert not (tmp_path / "abtest.html").exists()


def test_what_does_not_fit_is_refused(call: Call, home: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    a, b, c = (home / name for name in "abc")

    def refused(control: object, treatment: object, *more: str) -> str:
        return call.refused("abtest", f"--world={home}", f"--control={control}", f"--treatment={treatment}", *more)

    assert refused(b, c) == "no scenario has a bundle in both arms: shopping and standard"
    assert refused(f"{a},{b}", a).startswith("--control: two bundles for the scenario 'shopping': ")
    assert refused(a, tiny_bundle).startswith(f"--treatment: {tiny_bundle} is of another world")
    assert str(tmp_path / "none") in refused(a, tmp_path / "none")
    assert refused(a, a, "--repeat=3") == "--repeat=3: expected a number >= 0, and --design=split"
    assert refused(a, a, *QUICK, "--top-n=3") == "passed: expected more than the world's slots = 4, got 3"
    assert refused(a, a, "--requests=0") == "requests: expected >= 1, got 0"
    assert str(tmp_path / "world.json") in call.refused("abtest", f"--world={tmp_path}", "--control=a", "--treatment=a")
