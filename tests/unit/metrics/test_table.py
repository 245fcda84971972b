"""A metric that is added to the table: every place that shows metrics has it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support import tiny
from tt_jax.cli.main import main
from tt_jax.compare.predictions import Predicted, read_rows
from tt_jax.compare.quality import split_quality
from tt_jax.config import ConfigError
from tt_jax.metrics.table import METRICS, Metric
from tt_jax.report.comparison import render
from tt_jax.training.setup import check_config
from tt_jax.training.trained import evaluate, load_trained, predictions

BRIER = Metric(
    "brier", "sums", lambda sums: sums["square"] / sums["weight"], "Brier score", "mean (p - y)^2", "lower",
    terms={"square": lambda p, y: np.square(p - y)},
)  # fmt: skip
SPREAD = Metric(
    "spread", "rows", lambda rows: float(np.ptp(rows.p)) if rows.p.size else None, "spread", "max p - min p"
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in (BRIER, SPREAD):
        monkeypatch.setitem(METRICS, metric.name, metric)


@pytest.mark.usefixtures("added")
def test_an_evaluation_has_it_with_its_interval(
    told_run: Path, told_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_trained(told_run)
    _, rows = predictions(trained, told_path)
    found = evaluate(trained, told_path, replicates=20)["overall"]["click"]
    y, p, w = rows.labels[:, 0], rows.probabilities[:, 0], rows.weights[:, 0]
    assert found["brier"] == pytest.approx(brier_score_loss(y, p, sample_weight=w), rel=1e-6)
    low, high = found["intervals"]["brier"]
    assert low < found["brier"] < high
    assert found["spread"] == np.ptp(p)
    assert "spread" not in found["intervals"]
    with pytest.raises(SystemExit):
        main(["evaluate", f"--workdir={told_run}"])
    printed = capsys.readouterr().out
    assert "brier: mean (p - y)^2\n" in printed
    assert f"{found['brier']:.4f}" in printed


@pytest.mark.usefixtures("added")
def test_a_run_may_stop_by_it_if_it_has_a_direction() -> None:
    def stops_by(name: str) -> None:
        config = dataclasses.replace(tiny.CONFIG, train=dataclasses.replace(tiny.CONFIG.train, early_stop=name))
        check_config(config, tiny.SCHEMA)

    stops_by("click.brier")
    with pytest.raises(ConfigError, match="early_stop"):
        stops_by("click.spread")


@pytest.mark.usefixtures("added")
def test_a_comparison_has_it_with_its_difference(compared: Path, compared_data: Path) -> None:
    report, prepared = json.loads((compared / "report.json").read_text()), PreparedSet.open(compared_data)
    rng = np.random.default_rng(0)
    for split in report["splits"]:
        rows = read_rows(prepared, split, tuple(report["scenarios"]))
        shape = (len(rows), len(prepared.schema.heads))
        drawn = [[rows.with_logits(rng.normal(-2, 1, shape))] for _ in report["rows"]]
        predicted = [Predicted(of_seed, of_seed) for of_seed in drawn]
        for row, quality in zip(report["rows"], split_quality(rows, predicted, 20), strict=True):
            row["metrics"][split] = quality.metrics
        if split == "test":
            y, p = rows.labels[:, 0], drawn[1][0].probabilities[:, 0]
    brier = report["rows"][1]["metrics"]["test"]["overall"]["click"]["brier"]
    assert brier["mean"] == pytest.approx(brier_score_loss(y, p), rel=1e-6)
    low, high = brier["difference"]["absolute_interval"]
    assert low < brier["difference"]["absolute"] < high
    page = render(report)
    assert "<th>Brier score</th>" in page
    assert f"{brier['mean']:.5f}" in page
