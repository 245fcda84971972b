"""The AdWorld recipe: simulated or read back, the same prepared bytes; the splits are the world's days."""

from __future__ import annotations

from pathlib import Path

import pytest

from input_pipeline.adworld import LOGS, AdWorldConfig, generate
from input_pipeline.prepare import prepare
from input_pipeline.readers import ReadError
from input_pipeline.recipes import load

CONFIG = AdWorldConfig(users=200, ads=200, advertisers=20, requests_per_day=150, days=4, new_ads_per_day=6)


@pytest.mark.parametrize(("log", "labels"), [(LOGS[0], "engagement"), (LOGS[1], "teacher")])
def test_simulated_and_generated_worlds_prepare_to_the_same_bytes(tmp_path: Path, log: str, labels: str) -> None:
    recipe = load("adworld")
    generate(CONFIG, tmp_path / "world")
    prepared = [
        prepare(recipe.schema(source, labels), recipe.read(source, log), tmp_path / name, 128, recipe.ads(source))
        for name, source in (("simulated", CONFIG), ("generated", tmp_path / "world"))
    ]
    assert prepared[0] == prepared[1]
    rows = {split: sum(c.rows for c in counts.values()) for split, counts in prepared[0].splits.items()}
    assert list(rows) == list(recipe.SPLITS)
    assert rows["train"] > 1.8 * rows["eval"] > 1.6 * rows["test"] > 0  # two days, one and one
    tasks = {"click", "long_click", "conversion"}
    for counts in prepared[0].splits["train"].values():
        assert set(counts.rate) == tasks
        assert all(0 < rate < 1 for rate in counts.rate.values() if rate is not None)


def test_a_directory_that_is_no_world_is_named(tmp_path: Path) -> None:
    recipe = load("adworld")
    with pytest.raises(ReadError, match=r"world\.json: not the config of a generated AdWorld"):
        recipe.schema(tmp_path)
    (tmp_path / "world.json").write_text('{"userz": 3}')
    with pytest.raises(ReadError, match="unknown key 'userz'; did you mean 'users'"):
        recipe.schema(tmp_path)
