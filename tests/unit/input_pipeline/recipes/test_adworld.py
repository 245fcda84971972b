"""The AdWorld recipe: simulated or read back, the same prepared bytes; the splits are the world's days."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.adworld import get_config
from input_pipeline.adworld.simulate import LOGS, generate
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import ReadError
from input_pipeline.recipes import load
from tests.support.worlds import CONFIG
from tt_jax.cli.main import main
from tt_jax.config import Config, parse_weights
from tt_jax.schema import Schema
from tt_jax.training.setup import check_config


def test_simulated_and_generated_worlds_prepare_to_the_same_bytes(tmp_path: Path) -> None:
    recipe = load("adworld")
    generate(CONFIG, tmp_path / "world")
    prepared = [
        prepare(recipe.schema(source), recipe.read(source), tmp_path / name, 128, recipe.ads(source))
        for name, source in (("simulated", CONFIG), ("generated", tmp_path / "world"))
    ]
    assert prepared[0] == prepared[1]
    counts = {split: list(scenarios.values()) for split, scenarios in prepared[0].splits.items()}
    assert set(counts) == set(recipe.SPLITS)
    rows = {split: sum(c.rows for c in found) for split, found in counts.items()}
    for kind, per_request in (("", CONFIG.slots), ("_candidates", CONFIG.logged_candidates)):
        assert rows[f"eval{kind}"] == rows[f"test{kind}"] == 2 * CONFIG.requests_per_day * per_request
        assert rows[f"train{kind}"] == 2 * rows[f"eval{kind}"]
    outcomes, teacher = ("click", "long_click"), ("teacher_click", "teacher_long_click", "teacher_conversion")
    for split, found in counts.items():
        for c in found:
            assert all(c.labelled[task] == c.rows for task in teacher)
            assert all((c.labelled[task] < c.rows) == split.endswith("_candidates") for task in outcomes)


def test_one_log_alone_has_the_same_rows(tmp_path: Path) -> None:
    recipe = load("adworld")
    both, one = (
        prepare(recipe.schema(CONFIG), recipe.read(CONFIG, logs), tmp_path / str(len(logs)), 128)
        for logs in (LOGS, LOGS[:1])
    )
    assert one.files == tuple(f for f in both.files if f.split in one.splits)
    assert set(one.splits) == {"train", "eval", "test"}


def test_chosen_days_are_sets_of_their_own(tmp_path: Path) -> None:
    recipe = load("adworld")
    generate(CONFIG, tmp_path / "world")
    world, schema = tmp_path / "world" / "world.json", recipe.schema(CONFIG)
    whole = prepare(schema, recipe.read(CONFIG), tmp_path / "whole", 128)
    days = [
        prepare(schema, recipe.read(source, days=[2]), tmp_path / name, 128)
        for name, source in (("simulated", world), ("generated", tmp_path / "world"))
    ]
    assert days[0] == days[1]
    assert set(days[0].splits) == {"train", "train_candidates"}
    ours = [f.sha256 for f in days[0].files]
    assert ours == [f.sha256 for f in whole.files if f.split in ("eval", "eval_candidates")]  # day 2 of 4
    alive = [recipe.ads(CONFIG, days)["eligible"].to_numpy().sum() for days in ([0], None)]
    assert alive[0] == CONFIG.ads
    assert recipe.ads(CONFIG, [3]).equals(recipe.ads(CONFIG))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("adworld", "--days=3-1"), "--days=3-1: expected a day, or FIRST-LAST"),
        (("adworld", "--days=7"), "AdWorld day: expected 0..4, got 7"),
        (("census", "--source=x", "--days=1"), "--days=1: only adworld has days; give the logs of a day as --source"),
    ],
)
def test_wrong_days_are_named(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["prepare", *arguments, f"--out={tmp_path / 'out'}"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"tt-jax: error: {expected}\n"
    assert not (tmp_path / "out").exists()


def test_labels_are_a_matter_of_configuration() -> None:
    tasks = recipe_schema().task_names
    for argument, scenarios, splits, learned in (
        ("", (), ("train",), tasks[:3]),
        ("shopping", ("shopping",), ("train",), tasks[:3]),
        ("labels=soft", (), ("train_candidates",), tasks[3:]),
        ("shopping,labels=both", ("shopping",), ("train", "train_candidates"), tasks),
    ):
        config = Config.from_dict(get_config(argument).to_dict())
        check_config(config, recipe_schema())
        off = parse_weights(config.train.task_weights, "train.task_weights")
        assert (config.data.scenarios, config.data.train_splits) == (scenarios, splits)
        assert tuple(t for t in tasks if off.get(t, 1.0)) == learned
    with pytest.raises(ValueError, match="expected one of hard, soft, both, got 'sotf'"):
        get_config("labels=sotf")
    with pytest.raises(ValueError, match="unknown key 'label'; did you mean 'labels'"):
        get_config("shopping,label=soft")
    with pytest.raises(ValueError, match="two values of 'scenario'"):
        get_config("shopping,standard")
    assert get_config("shopping,kind=mtmd").model.kind == "mtmd"
    with pytest.raises(ValueError, match="unknown kind of model 'mtdm'; did you mean 'mtmd'"):
        get_config("kind=mtdm")


def recipe_schema() -> Schema:
    return load("adworld").schema(CONFIG)


def test_a_directory_that_is_no_world_is_named(tmp_path: Path) -> None:
    recipe = load("adworld")
    with pytest.raises(ReadError, match=r"world\.json: not the config of a generated AdWorld"):
        recipe.schema(tmp_path)
    (tmp_path / "world.json").write_text('{"userz": 3}')
    with pytest.raises(ReadError, match="unknown key 'userz'; did you mean 'users'"):
        recipe.schema(tmp_path)
    with pytest.raises(
        ReadError, match=r"^s3://world: a generated AdWorld is read from a local directory, not from a URL$"
    ):
        recipe.schema("s3://world")


def test_a_prepared_set_keeps_its_world(tmp_path: Path) -> None:
    generate(CONFIG, tmp_path / "world")
    with pytest.raises(SystemExit) as end:
        main(["prepare", "adworld", f"--source={tmp_path / 'world'}", f"--out={tmp_path / 'out'}"])
    assert end.value.code == 0
    assert load("adworld").config_of(tmp_path / "out") == CONFIG
