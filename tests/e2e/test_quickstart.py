"""The first command of the README, on a smaller world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tt_jax.cli.main import main


def test_quickstart_walks_the_whole_path_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quickstart", f"--workdir={tmp_path}", "--requests=1000"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["scenarios"]) == ["standard", "shopping"]
    for found in summary["scenarios"].values():
        assert found["rows"] == 4000  # four ads shown for each request of the test day
        assert found["examples_per_s"] > 0
        for figures in found["tasks"].values():
            assert figures["bayes_logloss"] < figures["constant_logloss"]
            assert figures["bayes_logloss"] < figures["logloss"] < 1
        utilities = [ad["score"] for ad in found["top_ads"]]
        assert len(utilities) == 10
        assert utilities == sorted(utilities, reverse=True)
    assert "Bayes" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    again = json.loads((tmp_path / "summary.json").read_text())
    for scenario, found in again["scenarios"].items():
        assert found.pop("examples_per_s") is None  # nothing was left to train
        summary["scenarios"][scenario].pop("examples_per_s")
    assert again["scenarios"] == summary["scenarios"]
