"""Makes `tests/stored/VERSION.tar.xz`, what this version stores, once a version: `python -m tests.support.make_stored`.

It has a prepared set, a finished run with its calibration, its bundle, an index, deltas, a journal of which a part is
compacted, a log of requests, and in `expected.json` what the scorer answered with all of them: see test_stored.py.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from litestar.testing import TestClient
from ml_collections import ConfigDict

from configs import config_dict
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from serving.index.delta import Base, make_delta
from serving.index.journal import compact_records, read_journal, record
from serving.parity.request_log import LogSettings
from serving.scorer_updates import load, prepare_delta
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.paths import ROOT
from tt_jax.bundle.reader import Bundle
from tt_jax.cli.main import main
from tt_jax.config import TrainConfig

ADS, TRAIN_ROWS, EVAL_ROWS = 20, 256, 128
STORED = ROOT / "tests" / "stored"


def get_config() -> ConfigDict:
    """This file as a configuration of `tt-jax train`: the smallest model, two epochs."""
    model = dataclasses.replace(tiny.CONFIG.model, experts=1, low_rank_layers=0, mlp=())
    train = TrainConfig(epochs=2, save_every=8, keep_last=1)
    return config_dict(dataclasses.replace(tiny.CONFIG, model=model, train=train))


def make(version: str) -> None:
    """Writes the archive of a version. Raises FileExistsError if there is one: it is never made anew."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*/")  # no path of this machine in StableHLO
        _write_all(np.random.default_rng(0))
        with tarfile.open(STORED / f"{version}.tar.xz", "x:xz") as archive:
            archive.add(".", "stored")


def _write_all(rng: np.random.Generator) -> None:
    def chunks() -> Iterator[Chunk]:
        for split, rows in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
            yield Chunk(split, f"{split}.parquet", 0, pa.table(tiny.told_columns(rng, rows)))

    prepare(tiny.TOLD, chunks(), Path("prepared"), block_rows=128, ads=tiny.ads_table(rng, ADS))
    _call("train", f"--config={__file__}", "--config.data.path=prepared", "--workdir=run")
    _call("calibrate", "--workdir=run", "--tasks=click,conversion")
    _call("export", "--workdir=run", "--out=bundle")
    _call("index", "--bundle=bundle", "--ads=prepared/ads.parquet", "--out=index")
    pq.write_table(tiny.ads_table(rng, 2), "new.parquet")
    _call("index", "--bundle=bundle", "--ads=new.parquet", "--delta-of=index", "--out=deltas/1")
    Path("new.parquet").unlink()
    _write_journal(rng)
    _write_answers([query | {"scenario": tiny.SCENARIOS[i % 2]} for i, query in enumerate(tiny.queries(rng, 4))])


def _write_journal(rng: np.random.Generator) -> None:
    """Four records after the delta, of which the first two are one."""
    bundle, base, journal = Bundle.load("bundle"), Base.read("deltas/1"), Path("journal")
    scorer = load("bundle", "index", "deltas", max_k=ADS, live=True, warm=False)
    read_journal(journal, base.version.index_id)
    for i in range(4):
        removed = pa.table({"ad_id": [scorer.ads.ids.at(np.array([i]))[0]], "remove": [True]})
        delta = make_delta(bundle, base, tiny.ads_table(rng, 1), removed)
        scorer = prepare_delta(scorer, delta, warm=False).apply(scorer)
        base = Base.read(record(journal, delta))
        if i == 1:
            compact_records(journal, Path("deltas"), scorer.ads, at_least=2)


def _write_answers(queries: list[dict[str, Any]]) -> None:
    scorer = load("bundle", "index", "deltas", "journal", max_k=ADS, live=True, warm=False)
    expected = {"fingerprint": scorer.fingerprint, "version": str(scorer.ads.version), "queries": queries, "ads": []}
    with TestClient(create_app(scorer, ServiceConfig(log=LogSettings(Path("requests.jsonl"), fraction=1.0)))) as client:
        answers = client.post("/v1/rank", content=json.dumps({"queries": queries, "k": 5})).json()["results"]
    expected["ads"] = [[[ad["id"], ad["score"]] for ad in answer["ads"]] for answer in answers]
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _call(*arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as e:
        if e.code:
            sys.exit(f"{arguments[0]} failed")


if __name__ == "__main__":
    make(importlib.metadata.version("tt-jax"))
