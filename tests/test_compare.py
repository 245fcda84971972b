"""`tt-jax compare`: plan, runs that are not repeated, figures against references, iteration speed, errors."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from input_pipeline.blocks import PreparedSet
from tests import run_configs, tiny
from tests.tiny_comparison import SEEDS, TEST_ROWS, compare_arguments
from tt_jax.cli.compare import split_configs
from tt_jax.cli.main import main
from tt_jax.compare import runs as compare_runs
from tt_jax.compare.plan import CompareError, claim, make_plan
from tt_jax.compare.runs import DONE, finish_runs, read_done
from tt_jax.compare.speed import Curve, reach, target_loss, to_quality


def plan_of(data: Path, modes: tuple[str, ...] = ("pooled", "split"), **changes):
    from tt_jax.config import Config

    config = Config.from_dict(run_configs.get_config("two").to_dict())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(data), **changes))
    return make_plan({"a": config}, modes, SEEDS, ["test"], PreparedSet.open(data))


def refused(capsys: pytest.CaptureFixture[str], data: Path, out: Path, **changes: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(compare_arguments(data, out, **changes))
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    return line.removeprefix("tt-jax: error: ")


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_a_plan_has_a_run_for_every_mode_and_seed(compared_data: Path) -> None:
    plan = plan_of(compared_data, ("pooled", "split", "weighted"))
    assert [row.name for row in plan.rows] == ["a, pooled", "a, split", "a, weighted"]
    pooled, split, weighted = plan.rows
    assert [[r.config.seed for r in runs] for runs in pooled.seeds] == [[0], [1]]
    assert [[r.config.data.scenarios for r in runs] for runs in split.seeds] == [[("standard",), ("shopping",)]] * 2
    assert len(plan.runs) == len({run.identity for run in plan.runs}) == len({run.name for run in plan.runs}) == 8
    rows = {name: PreparedSet.open(compared_data).rows("train", (name,)) for name in tiny.SCENARIOS}
    weights = dict(pair.split("=") for pair in weighted.runs[0].config.data.scenario_weights)
    weighed = [float(weights[name]) * rows[name] for name in tiny.SCENARIOS]
    assert weighed[0] == pytest.approx(weighed[1], rel=1e-5)
    assert sum(weighed) == pytest.approx(sum(rows.values()), rel=1e-5)


def test_a_run_is_what_it_computes_and_not_where_its_data_are(compared_data: Path, prepared_path: Path) -> None:
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
            "--splits=eval: expected a split that no run sees; it is the data.eval_split of run_configs:two",
        ),
        ({"splits": "train"}, "it is the data.train_splits of run_configs:two"),
        ({"configs": "absent.py"}, "--config=absent.py: no file absent.py"),
        ({"configs": f"{run_configs.__file__},{run_configs.__file__}"}, "'run_configs' is there twice"),
        ({"config.data.scenarios": "shoping"}, "unknown scenario 'shoping'; did you mean 'shopping'?"),
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


def test_commas_of_an_argument_do_not_end_a_configuration() -> None:
    assert split_configs("a.py:x,labels=both,b/c.py,d.py:y") == ["a.py:x,labels=both", "b/c.py", "d.py:y"]
    assert split_configs("a.py") == ["a.py"]


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_finished_runs_are_not_repeated_and_the_others_go_on(
    compared_data: Path, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, prepared = plan_of(compared_data), PreparedSet.open(compared_data)
    trained: list[str] = []
    train = compare_runs.train
    monkeypatch.setattr(
        compare_runs, "train", lambda config, workdir, name: trained.append(name) or train(config, workdir, name)
    )
    before = finish_runs(plan, prepared, compared, lambda _: None)
    assert trained == []
    (compared / "runs" / plan.runs[3].name / DONE).unlink()
    assert finish_runs(plan, prepared, compared, lambda _: None) == before
    assert trained == [plan.runs[3].name]
    report = (compared / "report.json").read_bytes()
    with pytest.raises(SystemExit):
        main(compare_arguments(compared_data, compared))
    assert (compared / "report.json").read_bytes() == report


def test_a_signal_stops_the_comparison_and_the_same_call_ends_it(
    compared_data: Path, compared: Path, tmp_path: Path
) -> None:
    plan, prepared = plan_of(compared_data), PreparedSet.open(compared_data)
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes between two runs must not end the test
    stopped = threading.Event()

    def keep_asking() -> None:
        while not stopped.wait(0.1):
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        assert finish_runs(plan, prepared, tmp_path, lambda _: None) is None
    finally:
        stopped.set()
        asking.join()
        signal.signal(signal.SIGTERM, previous)
    assert read_done(plan.runs[-1], tmp_path / "runs" / plan.runs[-1].name) is None
    one = dataclasses.replace(plan, rows=(dataclasses.replace(plan.rows[0], seeds=plan.rows[0].seeds[:1]),))
    done = finish_runs(one, prepared, tmp_path, lambda _: None)
    whole = finish_runs(one, prepared, compared, lambda _: None)
    assert done is not None
    assert whole is not None
    (name,) = done
    assert done[name].weights == whole[name].weights


def test_a_directory_of_another_run_is_refused(compared_data: Path, compared: Path, tmp_path: Path) -> None:
    run, other = plan_of(compared_data).runs[:2]
    with pytest.raises(CompareError, match=f"holds the run {run.identity[:12]}, expected {other.identity[:12]}"):
        read_done(other, compared / "runs" / run.name)
    done = read_done(run, compared / "runs" / run.name)
    assert done is not None
    folder = tmp_path / "copy"
    folder.mkdir()
    stored = (compared / "runs" / other.name / "predictions-test.npz").read_bytes()
    (folder / "predictions-test.npz").write_bytes(stored)
    with pytest.raises(CompareError, match="made by the weights"):
        compare_runs.read_predictions(folder, "test", done)
    (folder / "predictions-test.npz").write_bytes(stored[:100])
    with pytest.raises(CompareError, match="not the predictions of a run"):
        compare_runs.read_predictions(folder, "test", done)


def test_a_claim_is_made_once(compared_data: Path, tmp_path: Path) -> None:
    claim(plan_of(compared_data), tmp_path)
    claim(plan_of(compared_data), tmp_path)
    with pytest.raises(CompareError, match="with other rows"):
        claim(plan_of(compared_data, ("pooled",)), tmp_path)


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_the_report_is_what_the_models_predict(compared_data: Path, compared: Path) -> None:
    """By another way: each trained model, evaluated by `tt-jax evaluate` on its own scenario."""
    from tt_jax.cli.evaluate import evaluate_trained
    from tt_jax.training.trained import load_trained

    report = json.loads((compared / "report.json").read_text())
    pooled, split = report["rows"]
    for seed in range(SEEDS):
        for row, scenario in ((pooled, "shopping"), (split, "standard"), (split, "shopping")):
            (name,) = (n for n in row["runs"][seed] if n.startswith((scenario, "all")))
            found = evaluate_trained(load_trained(compared / "runs" / name), str(compared_data), "test")
            assert report["runs"][name]["weights"] == found["fingerprint"]
            for task, metrics in found["scenarios"][scenario].items():
                ours = row["metrics"]["test"][scenario][task]
                for metric, value in metrics.items():
                    wants = value if value is None else pytest.approx(value, rel=1e-12)
                    assert ours[metric]["seeds"][seed] == wants, (task, metric)


def test_the_cost_is_that_of_the_model(compared_data: Path, compared: Path) -> None:
    from tt_jax.training.trained import load_trained

    row = json.loads((compared / "report.json").read_text())["rows"][0]
    trained = load_trained(compared / "runs" / row["runs"][0][0])
    assert row["cost"]["dense_parameters"] == sum(p.size for p in trained.params.values())
    assert row["cost"]["table_parameters"] == sum(t.size for t in trained.tables.values())
    assert row["cost"]["forward_flops"] > row["cost"]["query_flops"] > 0
    steps = 2 * PreparedSet.open(compared_data).rows("train") // 100
    assert row["cost"]["examples"] == {"mean": 100 * steps, "spread": 0, "seeds": [100 * steps] * SEEDS}


def test_split_predictions_are_joined_at_their_rows(compared: Path) -> None:
    report = json.loads((compared / "report.json").read_text())
    by_scope = report["rows"][1]["metrics"]["test"]
    assert [by_scope[s]["click"]["rows"]["mean"] for s in tiny.SCENARIOS] == list(report["splits"]["test"].values())
    rows = {s: by_scope[s]["click"]["rows"]["mean"] for s in tiny.SCENARIOS}
    for seed in range(SEEDS):
        losses = {s: by_scope[s]["click"]["logloss"]["seeds"][seed] for s in tiny.SCENARIOS}
        mean = sum(losses[s] * rows[s] for s in rows) / TEST_ROWS
        assert by_scope["overall"]["click"]["logloss"]["seeds"][seed] == pytest.approx(mean, rel=1e-9)


def test_the_difference_is_of_the_means_and_inside_its_interval(compared: Path) -> None:
    reference, ours = (r["metrics"]["test"] for r in json.loads((compared / "report.json").read_text())["rows"])
    hard = ("auc", "gauc", "logloss", "ne", "calibration", "ece")
    soft = ("logloss", "ne", "calibration", "ece", "kl", "logmae")
    for scope, tasks in ours.items():
        for task, names in (("click", hard), ("teacher", soft)):
            assert {name for name, found in tasks[task].items() if "difference" in found} == set(names)
            for name in names:
                found, base = tasks[task][name], reference[scope][task][name]
                assert "difference" not in base
                difference = found["difference"]
                assert difference["absolute"] == pytest.approx(found["mean"] - base["mean"])
                assert difference["relative"] == pytest.approx(found["mean"] / base["mean"] - 1)
                low, high = difference["absolute_interval"]
                assert low < high
                assert low - (high - low) < difference["absolute"] < high + (high - low)


# ---- speed -----------------------------------------------------------------------------------------------------------


def curve(*logloss: float, speed: float = 10.0) -> Curve:
    steps = range(1, len(logloss) + 1)
    return Curve("run", tuple(100 * s for s in steps), tuple(100 * s / speed for s in steps), logloss)


def test_where_a_curve_reaches_a_loss() -> None:
    found = reach(curve(0.8, 0.6, 0.4, 0.5), 0.45)
    assert found is not None
    assert (found.examples, found.seconds) == (pytest.approx(275), pytest.approx(27.5))
    assert reach(curve(0.8, 0.6), 0.5) is None
    first = reach(curve(0.4, 0.3), 0.5)
    assert first is not None
    assert (first.examples, first.seconds) == (100, 10)
    assert target_loss([curve(0.5, 0.3), curve(0.5, 0.2, 0.4)]) == 0.4


def test_seconds_to_the_quality_of_the_reference() -> None:
    reference = {"a": {"t": [curve(0.8, 0.6), curve(0.7, 0.5)]}, "b": {"t": [curve(0.9, 0.8), curve(0.9, 0.8)]}}
    ours = {"a": {"t": [curve(0.6, 0.4)] * 2}, "b": {"t": [curve(1.0, 0.6, speed=20.0)] * 2}}
    one_model = to_quality(ours, reference, "t", adds_up=False)
    assert one_model["a"]["target"] == 0.6
    assert one_model["a"]["seconds"]["mean"] == 10
    assert one_model["b"]["seconds"]["mean"] == pytest.approx(7.5)
    assert one_model["overall"]["seconds"]["mean"] == 10
    assert to_quality(ours, reference, "t", adds_up=True)["overall"]["seconds"]["mean"] == pytest.approx(17.5)
    itself = to_quality(reference, reference, "t", adds_up=False)
    assert itself["overall"]["examples"]["seeds"] == [200, 200]
    worse = {**ours, "b": {"t": [curve(1.0, 0.9)] * 2}}
    assert to_quality(worse, reference, "t", adds_up=False)["overall"]["seconds"]["mean"] is None


def test_the_report_has_the_curves_of_the_runs(compared: Path) -> None:
    report = json.loads((compared / "report.json").read_text())
    for row in report["rows"]:
        for scenario, tasks in row["learning"].items():
            for seed, found in enumerate(tasks["click"]):
                assert found["run"] in row["runs"][seed]
                assert found["examples"] == sorted(found["examples"])
                assert found["run"].startswith((scenario, "all"))
                assert found["seconds"][-1] == pytest.approx(report["runs"][found["run"]]["train_seconds"])
    assert report["rows"][0]["to_quality"]["click"]["overall"]["seconds"]["mean"] > 0
