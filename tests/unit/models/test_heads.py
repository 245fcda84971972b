"""Two labels of one head, all the way: trained, evaluated, exported, indexed, ranked by."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from serving import Scorer
from serving.index.build import build_index
from tests.support import tiny
from tt_jax.config import TrainConfig
from tt_jax.evaluation.predict import INPUT_ARRAYS
from tt_jax.metrics import task_metrics
from tt_jax.training.loop import train
from tt_jax.training.trained import Trained, evaluate, export, load_trained

CLICK, CONVERSION, TEACHER = tiny.SCHEMA.tasks
SCHEMA = dataclasses.replace(tiny.SCHEMA, tasks=(dataclasses.replace(TEACHER, head="click"), CONVERSION, CLICK))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A prepared set, and what was trained on two of its splits; the second has no clicks."""
    folder = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(0)
    splits = {"train": 600, "unclicked": 400, "eval": 200}
    columns = {split: tiny.columns(rng, rows) for split, rows in splits.items()}
    columns["unclicked"]["clicked"] = [None] * 400
    chunks = (Chunk(split, f"{split}.parquet", 0, pa.table(found)) for split, found in columns.items())
    prepare(SCHEMA, chunks, folder / "set", block_rows=128, ads=tiny.ads_table(rng, 40))
    data = dataclasses.replace(tiny.CONFIG.data, path=str(folder / "set"), train_splits=("train", "unclicked"))
    result = train(dataclasses.replace(tiny.CONFIG, data=data, train=TrainConfig(epochs=1)), folder / "run")
    assert result.total_steps == 1000 // data.batch_size
    return folder, load_trained(folder / "run")


def test_every_label_is_evaluated_by_its_head(run: tuple[Path, Trained]) -> None:
    folder, trained = run
    report = evaluate(trained, str(folder / "set"))
    assert list(report["overall"]) == ["teacher", "conversion", "click"]
    (block,) = PreparedSet.open(folder / "set").blocks(("eval",), ("standard",))
    p = expit(np.asarray(trained.model.predict(trained.params, trained.tables, {n: block[n] for n in INPUT_ARRAYS})))
    assert p.shape[1] == 2  # conversion, click
    for label, (task, head, soft) in enumerate((("teacher", 1, True), ("conversion", 0, False), ("click", 1, False))):
        found = report["scenarios"]["standard"][task]
        expected = task_metrics(p[:, head], block["labels"][:, label], block["weights"][:, label], None, soft=soft)
        assert found["logloss"] == pytest.approx(expected["logloss"], rel=1e-5)
    assert report["overall"]["teacher"]["kl"] > 0


def test_a_service_answers_with_heads(run: tuple[Path, Trained]) -> None:
    folder, trained = run
    export(trained, folder / "bundle")
    build_index(folder / "bundle", folder / "set" / "ads.parquet", folder / "index")
    scorer = Scorer.load(folder / "bundle", folder / "index", warm=False)
    assert scorer.bundle.tasks == ("conversion", "click")
    (ads,) = scorer.top_k(tiny.queries(np.random.default_rng(1), 1), 5)
    for ad in ads:
        assert list(ad.probabilities) == ["conversion", "click"]
    assert len({ad.probabilities["click"] for ad in ads}) == 5
