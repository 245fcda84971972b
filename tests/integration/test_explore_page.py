"""The page explore_and_evaluate.md as it stands: a service explores, the logs are joined, a model is evaluated."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from serving.index.ad_index import index_table
from serving.parity.request_log import LogSettings, read_log
from serving.scorer import Scorer
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.service_calls import running
from tt_jax.bundle.reader import Bundle
from tt_jax.cli.main import main
from tt_jax.training.trained import export, load_trained

PAGE = (ROOT / "docs" / "how-to" / "explore_and_evaluate.md").read_text()
SHELL = [shlex.split(block) for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
(PYTHON,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
REQUESTS = 60
RECIPE = """
from input_pipeline.logs import every, read_logs
from tests.support import tiny
from tt_jax.schema import Task
import dataclasses

SPLITS = ("train", "eval")

def schema(source):
    return dataclasses.replace(tiny.TOLD, tasks=(Task("click", "clicked"),), user_id="", time="", slices=())

def read(source, errors):
    return read_logs(source, schema(source), every(5), errors=errors)

def ads(source):
    return None
"""


def tt_jax(words: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words[1:])
    assert exit_.value.code == 0


@pytest.fixture(scope="module")
def folder(told_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a service that explored for the requests of the page, with clicks on ads of even numbers."""
    here, rng = tmp_path_factory.mktemp("page"), np.random.default_rng(0)
    ads = tiny.ads_table(rng, 60)
    pq.write_table(ads, here / "ads.parquet")
    (here / "runs").mkdir()
    (here / "runs" / "mine").symlink_to(told_run)
    (here / "mylogs.py").write_text(RECIPE)
    export(load_trained(told_run), here / "bundle")
    bundle = Bundle.load(here / "bundle")
    scorer = Scorer(bundle, index_table(bundle, ads), max_k=20, warm=False)
    ids = ads.column("ad_id").to_pylist()
    queries = [query | {"scenario": "standard"} for query in tiny.queries(rng, REQUESTS)]
    traffic = [(query, [ids[i] for i in rng.permutation(60)[:15]]) for query in queries]
    app = create_app(scorer, ServiceConfig(log=LogSettings(here / "logged.jsonl", fraction=1.0)))
    answers: list[Any] = []
    with running(app) as (host, port):
        code = PYTHON.replace('127.0.0.1:8080"', f'{host}:{port}", deadline_s=60')  # it compiles meanwhile
        exec(code, {"traffic": traffic, "show": answers.append})
    assert len(answers) == REQUESTS
    lines = [{"request": "gone", "ad": 1, "clicked": 1}]
    for (_, logged), shown in zip(read_log(here / "logged.jsonl"), answers, strict=True):
        assert [(ad.id, ad.propensity) for ad in logged.ads] == [(ad.id, ad.propensity) for ad in shown]
        lines += [{"request": logged.request, "ad": ad.id, "clicked": int(ad.id % 2 == 0)} for ad in logged.ads]
    (here / "outcomes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return here


def test_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    (_, _, *_), joining, preparing, evaluating = SHELL
    tt_jax(joining)
    said = capsys.readouterr().out
    table = pq.read_table("joined.parquet").to_pylist()
    served = [row for row in table if row["served_slot"] is not None]
    assert f"{len(served)} served ads" in said
    assert "1 outcomes without such a row, the first is outcomes.jsonl, line 1" in said
    logged = {query.request: query for _, query in read_log(folder / "logged.jsonl")}
    ads = {row["ad_id"]: row for row in pq.read_table("ads.parquet").to_pylist()}
    assert len(served) == sum(len(query.ads) for query in logged.values())
    for row in table:
        query = logged[row["request_id"]]
        assert row["country"] == query.query["country"]
        assert row["price"] == ads[row["ad_id"]]["price"]
        if row["served_slot"] is None:
            assert row["ad_id"] in (query.candidates or ())
            assert row["eligible"]
            assert row["propensity"] is row["clicked"] is None
        else:
            assert row["propensity"] == query.ads[row["served_slot"]].propensity
            assert row["clicked"] == (row["ad_id"] % 2 == 0)
    tt_jax(preparing)
    assert PreparedSet.open("prepared/joined").schema.tasks[0].label == "clicked"
    tt_jax(evaluating)
    assert "click, dr" in capsys.readouterr().out
    report = json.loads(Path("off_policy.json").read_text())
    assert report["requests"] == REQUESTS
    assert report["left_out"] == 0
    for name in ("ips", "dr"):
        found = report["tasks"]["click"][name]
        assert found["interval"][0] < found["value"] < found["interval"][1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"ad": 1, "clicked": 1}', "line 2: 'request': the key is missing"),
        ('{"request": "a", "ad": 1.5}', "line 2: 'ad': expected str or int, got 1.5"),
        ('{"request": "a", "ad": 1, "clicked": "yes"}', "line 2: 'clicked': expected int or float, got 'yes'"),
        ('{"request": "a", "ad": 1, "clicked": 0}', "line 2: 'clicked' of ad 1, request 'a': 0.0, but 1.0 was told"),
        ("[1]", "line 2: expected"),
        ("{", "line 2: not valid JSON"),
    ],
)
def test_a_bad_outcome_is_named(folder: Path, tmp_path: Path, capsys: Any, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"request": "a", "ad": 1, "clicked": 1}\n' + line + "\n")
    with pytest.raises(SystemExit) as exit_:
        main(
            ["join", "--requests", str(folder / "logged.jsonl"), "--outcomes", str(tmp_path / "bad.jsonl"),
             f"--out={tmp_path / 'out.parquet'}"]
        )  # fmt: skip
    assert exit_.value.code == 2
    assert f"{tmp_path}/bad.jsonl, {message}" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
