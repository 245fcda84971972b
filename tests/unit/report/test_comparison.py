"""`report.json` of `tt-jax compare`: every figure by another way, from the trained models or from AdWorld itself."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logit

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support.tiny_comparison import SEEDS, WORLD, plan_of
from tt_jax.calibration.calibrate import read_calibration
from tt_jax.calibration.maps import Calibration
from tt_jax.cli.regret import regret_of
from tt_jax.compare.funnel import split_funnel
from tt_jax.compare.plan import CompareError
from tt_jax.compare.predictions import Predicted, read_rows
from tt_jax.compare.regret import split_regret
from tt_jax.evaluation.adworld.regret import FIGURES
from tt_jax.metrics.bootstrap import cluster_draws
from tt_jax.metrics.funnel import funnel_metrics
from tt_jax.training.trained import Trained, evaluate, load_trained

SCENARIOS = ("standard", "shopping")


@pytest.fixture(scope="module")
def report(compared: Path) -> dict[str, Any]:
    return json.loads((compared / "report.json").read_text())


@cache
def model(compared: Path, name: str) -> Trained:
    return load_trained(compared / "runs" / name)


@pytest.fixture(scope="module")
def evaluated(report: dict[str, Any], compared: Path, compared_data: Path) -> list[tuple[Any, int, str, Any]]:
    """Row, seed, scenario, and what `tt-jax evaluate` says of the run that the row has there, on the candidates."""
    found = []
    for row, seed, prefix, scenario in (
        (0, 0, "all", "shopping"),
        (0, 1, "all", "standard"),
        (1, 0, "standard", "standard"),
        (1, 1, "shopping", "shopping"),
    ):
        (name,) = (n for n in report["rows"][row]["runs"][seed] if n.startswith(prefix))
        evaluation = evaluate(model(compared, name), str(compared_data), "test_candidates")
        assert report["runs"][name]["fingerprint"] == evaluation["fingerprint"]
        found.append((report["rows"][row], seed, scenario, {**evaluation, "name": name}))
    return found


def test_metrics_are_those_of_the_calibrated_models(evaluated: list[tuple[Any, int, str, Any]]) -> None:
    for row, seed, scenario, evaluation in evaluated:
        for task, metrics in evaluation["calibrated"]["scenarios"][scenario].items():
            ours = row["metrics"]["test_candidates"][scenario][task]
            assert ours.keys() == metrics.keys()
            for metric, value in metrics.items():
                wants = value if value is None else pytest.approx(value, rel=1e-12)
                assert ours[metric]["seeds"][seed] == wants, (task, metric)


def test_before_are_the_models_without_their_calibration(evaluated: list[tuple[Any, int, str, Any]]) -> None:
    differ = 0
    for row, seed, scenario, evaluation in evaluated:
        for task, metrics in evaluation["scenarios"][scenario].items():
            before = row["before"]["test_candidates"][scenario][task]
            assert (metrics["rows"] == 0) == (before == {})
            for metric in before.keys() - {"curve"}:
                wants = metrics[metric] if metrics[metric] is None else pytest.approx(metrics[metric], rel=1e-12)
                assert before[metric]["seeds"][seed] == wants, (task, metric)
                differ += (
                    before[metric]["seeds"][seed]
                    != row["metrics"]["test_candidates"][scenario][task][metric]["seeds"][seed]
                )
    assert differ > 20


def test_calibrations_are_those_beside_the_weights(report: dict[str, Any], compared: Path, compared_data: Path) -> None:
    schema = PreparedSet.open(compared_data).schema
    for name, run in report["runs"].items():
        fitted = read_calibration(compared / "runs" / name, schema)
        assert fitted is not None
        assert Calibration.from_json(json.dumps(run["calibration"]), schema) == fitted
        assert (fitted.method, fitted.split, fitted.model) == ("platt", "eval", run["weights"])
        assert "click" in fitted.tasks
        assert run["not_calibrated"].keys() == set(schema.heads) - fitted.tasks.keys()


def test_gates_are_those_of_the_models(report: dict[str, Any], evaluated: list[tuple[Any, int, str, Any]]) -> None:
    for _, _, scenario, evaluation in evaluated:
        gates = report["runs"][evaluation["name"]]["gates"]
        assert gates["test_candidates"] == evaluation["gates"]
        loads = [f["load"] for f in gates["test"]["query"]["scenarios"][scenario]["tasks"].values()]
        assert np.sum(loads, axis=1) == pytest.approx(1)


def test_the_funnel_is_that_of_the_models(report: dict[str, Any], evaluated: list[tuple[Any, int, str, Any]]) -> None:
    """A calibration rises, so it moves no candidate of a request past another."""
    assert list(report["funnel"]) == ["test_candidates"]  # `test` has the winners of the auctions
    assert report["funnel"]["test_candidates"]["utility"] == "bid * click"
    for row, seed, scenario, evaluation in evaluated:
        of_model = evaluation["funnel"]["scenarios"][scenario]
        counts = report["funnel"]["test_candidates"]["scenarios"][scenario]
        assert counts == {k: of_model[k] for k in ("requests", "candidates")}
        ours = {(at["best"], at["passed"]): at for at in row["funnel"]["test_candidates"][scenario]}
        assert len(ours) == sum(WORLD.logged_candidates - k for k in (1, 4))
        for at in of_model["at"]:
            for figure in ("recall", "gain"):
                found = ours[at["best"], at["passed"]][figure]["seeds"][seed]
                assert found == pytest.approx(at[figure], rel=1e-6)
        for k in (1, 4):
            recalls = [at["recall"]["seeds"][seed] for (best, _), at in ours.items() if best == k]
            assert recalls == sorted(recalls)


def test_intervals_of_a_funnel_are_paired_over_requests(compared_data: Path) -> None:
    prepared = PreparedSet.open(compared_data)
    rows, rng = read_rows(prepared, "test_candidates", SCENARIOS), np.random.default_rng(1)
    shape = (len(rows.labels), len(prepared.schema.heads))
    a, b = ([rows.with_logits(logit(rng.uniform(0.05, 0.95, shape))) for _ in range(2)] for _ in range(2))
    predicted = [Predicted(of_seeds, of_seeds) for of_seeds in (a, b, a)]
    found = split_funnel(rows, predicted, "click", 40)
    assert found is not None
    part = rows.in_scenario("standard")
    teacher = rows.labels[part, prepared.schema.task_names.index("teacher_click")]
    head, ids = prepared.schema.heads.index("click"), rows.requests[part]
    distinct = np.unique(ids)

    def recalls(p: np.ndarray) -> list[float]:  # of each request alone
        of_requests = [(p[part, head][ids == q], teacher[ids == q]) for q in distinct]
        return [len(set(np.argsort(-s)[:5]) & set(np.argsort(-t)[:4])) / min(4, s.size) for s, t in of_requests]

    of_a, of_b = (np.mean([recalls(one.probabilities) for one in of_seeds], axis=0) for of_seeds in (a, b))
    ((_, draws),) = cluster_draws(distinct, 40, 0)
    replicated_a, replicated_b = (draws @ of / draws.sum(axis=1) for of in (of_a, of_b))
    ours, theirs, same = (
        next(at for at in row["standard"] if (at["best"], at["passed"]) == (4, 5)) for row in found[1]
    )
    assert ours["recall"]["mean"] == pytest.approx(of_a.mean())
    assert ours["recall"]["interval"] == pytest.approx(np.quantile(replicated_a, [0.025, 0.975], method="weibull"))
    assert "difference" not in ours["recall"]
    difference = theirs["recall"]["difference"]
    assert difference["absolute"] == pytest.approx(of_b.mean() - of_a.mean())
    assert difference["absolute_interval"] == pytest.approx(
        np.quantile(replicated_b - replicated_a, [0.025, 0.975], method="weibull"), abs=1e-9
    )
    assert same["recall"]["difference"]["absolute_interval"] == [0, 0]


def test_a_funnel_ranks_by_the_reference_s_utility(compared_data: Path) -> None:
    prepared = PreparedSet.open(compared_data)
    schema, rows = prepared.schema, read_rows(prepared, "test_candidates", SCENARIOS)
    p = np.random.default_rng(0).uniform(0.05, 0.95, (len(rows.labels), len(schema.heads))).astype(np.float32)
    both = [rows.with_logits(logit(p)), rows.with_logits(-logit(p))]
    found = split_funnel(rows, [Predicted(both, both)], "bid * click * click", 20)
    assert found is not None
    about, (by_name,) = found
    assert about["utility"] == "bid * click * click"
    part = rows.in_scenario("shopping")
    wanted = rows.labels[part, schema.task_names.index("teacher_click")] ** 2
    for seed, q in enumerate((p, 1 - p)):
        (at,) = funnel_metrics(q[part, 0] ** 2, wanted, rows.requests[part], (4,), (5,))["at"]
        (ours,) = (a for a in by_name["shopping"] if (a["best"], a["passed"]) == (4, 5))
        for figure in ("recall", "gain", "lost"):
            assert ours[figure]["seeds"][seed] == pytest.approx(at[figure], rel=1e-5)
    of_click = split_funnel(rows, [Predicted(both, both)], "conversion", 20)  # which the teacher has not labelled
    assert of_click is not None
    assert of_click[0]["utility"] == "click"
    winners = read_rows(prepared, "test", SCENARIOS)
    assert split_funnel(winners, [], "", 20) is None


def test_the_regret_is_that_of_the_models_on_the_world_itself(
    report: dict[str, Any], compared: Path, compared_data: Path
) -> None:
    pooled, split = report["rows"]
    for row, seed, prefix, scope, log in (
        (pooled, 0, "all", "overall", "test_candidates"),
        (split, 1, "shopping", "shopping", "test"),
    ):
        (name,) = (n for n in row["runs"][seed] if n.startswith(prefix))
        found = regret_of(model(compared, name), WORLD, log)
        assert found["calibration"] == {"method": "platt", "split": "eval"}
        assert row["regret"][log]["interaction_rank"] == found["interaction_rank"]
        ours = row["regret"][log]["scopes"][scope]
        assert list(ours) == ["click", "conversion"]
        for task, figures in found["overall"].items():
            for of_report, of_model in ((ours[task], figures), (ours[task]["outcomes"], figures["outcomes"])):
                assert of_report["rows"] == of_model["rows"]
                for figure in FIGURES[1:]:
                    assert of_report[figure]["seeds"][seed] == pytest.approx(of_model[figure], rel=1e-4, abs=1e-9)
    assert report["world"] == json.loads((compared_data / "world.json").read_text())


def test_rows_of_another_world_have_no_regret(compared_data: Path) -> None:
    prepared, plan = PreparedSet.open(compared_data), plan_of(compared_data)
    rows = read_rows(prepared, "test", SCENARIOS)
    other = dataclasses.replace(WORLD, seed=WORLD.seed + 1)
    with pytest.raises(
        CompareError, match=r"--world: the test rows of the data, standard, are not those of this world"
    ):
        split_regret(other, "test", plan, rows, [])


def test_the_cost_is_that_of_the_model(report: dict[str, Any], compared: Path, compared_data: Path) -> None:
    row = report["rows"][0]
    trained = model(compared, row["runs"][0][0])
    assert row["cost"]["dense_parameters"] == sum(p.size for p in trained.params.values())
    assert row["cost"]["table_parameters"] == sum(t.size for t in trained.tables.values())
    assert row["cost"]["forward_flops"] > row["cost"]["query_flops"] > 0
    config = trained.record.config
    size = config.data.batch_size
    steps = int(config.train.epochs * PreparedSet.open(compared_data).rows("train") / size)
    assert row["cost"]["examples"] == {"mean": size * steps, "spread": 0, "seeds": [size * steps] * SEEDS}


def test_split_predictions_are_joined_at_their_rows(report: dict[str, Any]) -> None:
    by_scope, rows = report["rows"][1]["metrics"]["test"], report["splits"]["test"]
    assert {s: by_scope[s]["click"]["rows"]["mean"] for s in SCENARIOS} == rows
    for seed in range(SEEDS):
        losses = {s: by_scope[s]["click"]["logloss"]["seeds"][seed] for s in SCENARIOS}
        mean = sum(losses[s] * rows[s] for s in rows) / sum(rows.values())
        assert by_scope["overall"]["click"]["logloss"]["seeds"][seed] == pytest.approx(mean, rel=1e-9)


def test_the_difference_is_of_the_means_and_inside_its_interval(report: dict[str, Any]) -> None:
    hard = ("auc", "gauc", "logloss", "ne", "calibration")
    soft = ("logloss", "ne", "calibration", "kl", "logmae")
    for split, task, names in (("test", "click", hard), ("test_candidates", "teacher_click", soft)):
        reference, ours = (row["metrics"][split] for row in report["rows"])
        for scope, tasks in ours.items():
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


def test_the_report_has_the_curves_of_the_runs(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        for scenario, tasks in row["learning"].items():
            for seed, found in enumerate(tasks["click"]):
                assert found["run"] in row["runs"][seed]
                assert found["examples"] == sorted(found["examples"])
                assert found["run"].startswith((scenario, "all"))
                run = report["runs"][found["run"]]
                assert found["examples"][-1] == run["step"] * run["config"]["data"]["batch_size"]
                assert found["seconds"][-1] == pytest.approx(run["train_seconds"])
    assert report["rows"][0]["to_quality"]["click"]["overall"]["seconds"]["mean"] > 0
