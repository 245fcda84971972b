"""The plan of `tt-jax compare`: which runs, what makes two of them one, what cannot be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support import run_configs
from tests.support.tiny_comparison import SEEDS, WORLD, compare_arguments, plan_of
from tt_jax.cli.compare import split_configs
from tt_jax.cli.main import main
from tt_jax.compare.plan import CompareError, claim
from tt_jax.compare.regret import check_world

SCENARIOS = ("standard", "shopping")


def refused(capsys: pytest.CaptureFixture[str], data: Path, out: Path, **changes: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(compare_arguments(data, out, **changes))
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    return line.removeprefix("tt-jax: error: ")


def test_a_plan_has_a_run_for_every_mode_and_seed(compared_data: Path) -> None:
    plan = plan_of(compared_data, ("pooled", "split", "weighted"))
    assert [row.name for row in plan.rows] == [
        f"run_configs:compare, {mode}" for mode in ("pooled", "split", "weighted")
    ]
    pooled, split, weighted = plan.rows
    assert [[r.config.seed for r in runs] for runs in pooled.seeds] == [[0], [1]]
    assert [[r.config.data.scenarios for r in runs] for runs in split.seeds] == [[("standard",), ("shopping",)]] * 2
    assert len(plan.runs) == len({run.identity for run in plan.runs}) == len({run.name for run in plan.runs}) == 8
    rows = {name: PreparedSet.open(compared_data).rows("train", (name,)) for name in SCENARIOS}
    weights = dict(pair.split("=") for pair in weighted.runs[0].config.data.scenario_weights)
    weighed = [float(weights[name]) * rows[name] for name in SCENARIOS]
    assert weighed[0] == pytest.approx(weighed[1], rel=1e-5)
    assert sum(weighed) == pytest.approx(sum(rows.values()), rel=1e-5)


def test_a_run_is_what_it_computes_and_not_where_its_data_are(compared_data: Path) -> None:
    run = plan_of(compared_data).runs[0]
    moved = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, path="elsewhere"))
    changed = dataclasses.replace(run.config, optimizer=dataclasses.replace(run.config.optimizer, clip_norm=2.0))
    assert dataclasses.replace(run, config=moved).identity == run.identity
    assert dataclasses.replace(run, config=changed).identity != run.identity
    assert dataclasses.replace(run, data="0" * 64).identity != run.identity


def test_where_scenarios_weigh_the_same_weighted_is_pooled(compared_data: Path) -> None:
    plan = plan_of(compared_data, ("pooled", "weighted"), scenarios=("shopping",))
    assert len(plan.runs) == SEEDS
    assert plan.rows[0].runs == plan.rows[1].runs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": "poold"}, "--modes: unknown mode 'poold'; did you mean 'pooled'?"),
        ({"modes": "split,split"}, "--modes: expected distinct names, at least one, got split, split"),
        ({"modes": ""}, "--modes: expected distinct names, at least one, got none"),
        ({"seeds": "0"}, "--seeds=0: expected at least 1"),
        ({"replicates": "0"}, "--replicates=0: expected at least 1"),
        ({"splits": "tset"}, "unknown split 'tset'; did you mean 'test'?"),
        (
            {"splits": "eval"},
            "--splits=eval: expected a split that no run sees; it is the data.eval_split of run_configs:compare",
        ),
        ({"splits": "train"}, "it is the data.train_splits of run_configs:compare"),
        ({"configs": "absent.py"}, "--config=absent.py: no file absent.py"),
        ({"configs": f"{run_configs.__file__},{run_configs.__file__}"}, "'run_configs' is there twice"),
        ({"config.data.scenarios": "shoping"}, "unknown scenario 'shoping'; did you mean 'shopping'?"),
        ({"calibrate": "plat"}, "argument --calibrate: invalid choice: 'plat'"),
        ({"world": "absent"}, "absent/world.json: not the config of a generated AdWorld"),
    ],
)
def test_what_cannot_be_compared_is_named(
    capsys: pytest.CaptureFixture[str], compared_data: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    assert message in refused(capsys, compared_data, tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_another_comparison_is_refused(
    capsys: pytest.CaptureFixture[str], compared_data: Path, compared: Path
) -> None:
    error = refused(capsys, compared_data, compared, seeds="1")
    assert error == f"{compared} holds another comparison, with other seeds; use a new --out"
    error = refused(capsys, compared_data, compared, **{"config.train.epochs": "3"})
    assert error == f"{compared} holds another comparison, with other runs; use a new --out"


def test_a_claim_is_made_once(compared_data: Path, tmp_path: Path) -> None:
    claim(plan_of(compared_data), tmp_path)
    claim(plan_of(compared_data), tmp_path)
    with pytest.raises(CompareError, match="with other rows"):
        claim(plan_of(compared_data, ("pooled",)), tmp_path)


def test_data_of_another_world_are_refused(compared_data: Path, prepared_path: Path) -> None:
    prepared = PreparedSet.open(compared_data)
    check_world(WORLD, prepared, ["test"])
    with pytest.raises(CompareError, match=f"--world: {compared_data} is of another world"):
        check_world(dataclasses.replace(WORLD, users=201), prepared, ["test"])
    with pytest.raises(CompareError, match="is of another world"):
        check_world(WORLD, PreparedSet.open(prepared_path), ["test"])
    with pytest.raises(ValueError, match="unknown split 'tset' of AdWorld; did you mean 'test'"):
        check_world(WORLD, prepared, ["tset"])


def test_commas_of_an_argument_do_not_end_a_configuration() -> None:
    assert split_configs("a.py:x,labels=both,b/c.py,d.py:y") == ["a.py:x,labels=both", "b/c.py", "d.py:y"]
    assert split_configs("a.py") == ["a.py"]
