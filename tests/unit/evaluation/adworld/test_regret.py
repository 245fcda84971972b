"""Regret against the true probabilities: its parts, its reference, and the verb that shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import minimize
from scipy.special import expit, rel_entr, xlog1py, xlogy

from input_pipeline.adworld.simulate import AdWorldConfig, Batch, Log, schema, simulate
from tests.support import tiny
from tt_jax.calibration.maps import Calibration, Curve
from tt_jax.cli.regret import predictor, regret_of
from tt_jax.config import Config, DataConfig, ModelConfig
from tt_jax.evaluation.adworld.regret import (
    FIGURES,
    Predict,
    Truth,
    fit_reference,
    interaction_rank,
    read_truth,
    regret,
)
from tt_jax.models.two_tower import TwoTower
from tt_jax.runs.record import describe
from tt_jax.training.trained import Trained

WORLD = AdWorldConfig(seed=5, users=1500, advertisers=40, ads=400, days=3, requests_per_day=2500, new_ads_per_day=20)
DIM = 32
NO_CHANGE: Mapping[str, Any] = {}


def constant(rows: pa.Table) -> Mapping[str, np.ndarray]:
    """A model that has seen nothing."""
    return {"click": np.full(len(rows), 0.05, np.float32), "conversion": np.full(len(rows), 0.2, np.float32)}


def figures(
    predict: Predict = constant, log: Log = "impressions", dim: int = DIM, changes: Mapping[str, Any] = NO_CHANGE
) -> dict[str, Any]:
    return regret(dataclasses.replace(WORLD, **changes), "test", log, predict, dim)


def test_the_inexpressible_part_is_that_of_the_interaction_and_of_fatigue() -> None:
    def of(dim: int = DIM, **changes: float) -> list[float]:
        return [f["click"]["inexpressible"] for f in figures(dim=dim, changes=changes)["scenarios"].values()]

    nothing = of(interaction_share=0.0, fatigue=0.0)
    some, much = of(fatigue=0.0), of(interaction_share=0.4, fatigue=0.0)
    tired = of(interaction_share=0.0, fatigue=0.6)
    assert max(nothing) < 1e-8  # the float32 of the true probabilities
    assert min(some) > 1e-4
    assert all(m > 2 * s for m, s in zip(much, some, strict=True))
    assert min(tired) > 1e-4
    # With room for the whole table nothing is left of it, and a wider tower is never worse.
    all_of_it = WORLD.latent_dims + 2 + WORLD.segments - 1
    assert max(of(dim=all_of_it, interaction_share=0.4, fatigue=0.0)) < 1e-8
    by_width = [of(dim=d, interaction_share=0.4, fatigue=0.0)[0] for d in (10, 40, 100)]
    assert by_width == sorted(by_width, reverse=True)
    assert by_width[2] < 0.5 * by_width[0]


def test_rank_of_the_interaction_beside_the_two_tower_part() -> None:
    assert [interaction_rank(WORLD, d) for d in (4, 10, 11, 32, 500)] == [0, 0, 1, 22, WORLD.segments - 1]


@pytest.mark.parametrize("log", ["impressions", "candidates"])
def test_figures_against_the_log_itself(log: Log) -> None:
    found = figures(log=log)
    batches = [b for b in simulate(WORLD, (log,)) if b.day == WORLD.days - 1]

    def column(name: str, oracle: bool = False, scenario: str | None = None) -> np.ndarray:
        tables = [b.oracle if oracle else b.table for b in batches if scenario in (None, b.scenario)]
        return np.concatenate([t.column(name).to_numpy() for t in tables]).astype(np.float64)

    for scenario in ("standard", "shopping", None):
        of = found["overall"] if scenario is None else found["scenarios"][scenario]
        assert set(of) == {"click", "conversion"}
        click, shown = column("true_click", True, scenario), ~np.isnan(column("price", scenario=scenario))
        for task, model, weight in (("click", 0.05, np.ones_like(click)), ("conversion", 0.2, click)):
            p = column(f"true_{task}", True, scenario)
            kl = np.average(rel_entr(p, model) + rel_entr(1 - p, 1 - model), weights=weight)
            f = of[task]
            assert f["rows"] == len(p)
            assert f["kl"] == pytest.approx(kl, abs=1e-7)
            losses = (-np.average(xlogy(p, q) + xlog1py(1 - p, -q), weights=weight) for q in (model, p))
            assert [f["logloss"], f["bayes_logloss"]] == pytest.approx(list(losses), abs=1e-6)
            has = shown if task == "click" else column("click", scenario=scenario) == 1
            y, q, o = column(task, scenario=scenario)[has], p[has], f["outcomes"]
            assert 0 < o["rows"] == len(y) <= f["rows"]
            assert o["logloss"] == pytest.approx(-np.mean(xlogy(y, model) + xlog1py(1 - y, -model)), abs=1e-6)
            assert o["bayes_logloss"] == pytest.approx(-np.mean(xlogy(y, q) + xlog1py(1 - y, -q)), abs=1e-6)
            assert o["kl"] == pytest.approx(np.mean(rel_entr(q, model) + rel_entr(1 - q, 1 - model)), abs=1e-7)
            for g in (f, o):
                assert g["inexpressible"] + g["missed"] == pytest.approx(g["kl"], abs=1e-12)
        assert of["conversion"]["inexpressible"] == pytest.approx(0, abs=1e-9)


def test_every_figure_of_a_dict_is_of_the_same_rows() -> None:
    """Of the candidates, few are shown, and those are not drawn at random: their regret is another one."""
    for tasks in figures(log="candidates")["scenarios"].values():
        for f in tasks.values():
            assert f["logloss"] - f["bayes_logloss"] == pytest.approx(f["kl"], abs=1e-12)
            assert f["bayes_logloss"] < f["logloss"]
            o = f["outcomes"]
            assert o["rows"] < 0.5 * f["rows"]
            noise = 4 / np.sqrt(o["rows"])  # of a mean of log losses whose standard deviation is below 1
            assert o["logloss"] - o["bayes_logloss"] == pytest.approx(o["kl"], abs=noise)
        assert abs(tasks["click"]["outcomes"]["kl"] - tasks["click"]["kl"]) > 0.2 * tasks["click"]["kl"]


def test_rows_without_any_outcome_have_no_figures_of_outcomes() -> None:
    truth = read_truth(WORLD, "test", "candidates", ("shopping",))
    rows = {**truth.rows["shopping"], "label_click": np.full(len(truth.rows["shopping"]["ad_id"]), np.nan)}
    p = np.full(len(rows["ad_id"]), 0.05, np.float32)
    found = Truth(truth.world, {"shopping": rows}).regret({"shopping": {"click": p}}, DIM)["overall"]["click"]
    assert found["outcomes"] == {**dict.fromkeys(FIGURES), "rows": 0}
    assert found["kl"] > 0


def test_the_truth_itself_has_no_regret() -> None:
    """And so beats the reference. The oracle's rows are those that the model is asked for, one by one."""
    batches = iter([b for b in simulate(WORLD, ("impressions",)) if b.day == WORLD.days - 1])

    def truth(rows: pa.Table) -> Mapping[str, np.ndarray]:
        batch: Batch = next(batches)
        assert batch.table.equals(rows)
        return {name: batch.oracle.column(f"true_{name}").to_numpy() for name in ("click", "long_click", "conversion")}

    for tasks in figures(truth)["scenarios"].values():
        for f in (g for figures_ in tasks.values() for g in (figures_, figures_["outcomes"])):
            assert f["kl"] == pytest.approx(0, abs=1e-9)
            assert f["missed"] == pytest.approx(-f["inexpressible"], abs=1e-9)
            assert f["logloss"] == pytest.approx(f["bayes_logloss"], abs=1e-9)
        assert tasks["long_click"]["inexpressible"] > 0


def test_the_reference_is_the_best_of_its_terms() -> None:
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(500, 3)) * [1.0, 5.0, 0.2]
    target = expit(terms @ [1.0, -0.4, 3.0] - 3 + rng.normal(size=500))
    x = np.column_stack([np.ones(500), terms])

    def loss(b: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, x @ b) - target * (x @ b)))

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit_reference(terms, target), expit(x @ best.x), atol=1e-6)
    # A term that says nothing new, or nothing at all, changes nothing.
    again = np.column_stack([terms, terms[:, 0] - terms[:, 1], np.zeros(500)])
    np.testing.assert_allclose(fit_reference(again, target), expit(x @ best.x), atol=1e-6)


def a_run(scenarios: tuple[str, ...] = ()) -> Trained:
    """A model of random weights, as if it had been trained."""
    config = Config(
        model=ModelConfig(experts=1, full_rank_layers=1, low_rank_layers=0, mlp=(8,), output_dim=12),
        data=DataConfig(eval_batch_size=3000, scenarios=scenarios),
        precision="f32",
    )
    model = TwoTower(schema(WORLD), config.model, "f32")
    params, tables = model.init(0)
    return Trained(describe(config, schema(WORLD), "none"), model, params, tables, step=1, report=None)


def test_the_regret_of_a_run_is_that_of_its_predictions() -> None:
    run = a_run(scenarios=("shopping",))
    found = regret_of(run, WORLD, "eval_candidates")
    assert list(found["scenarios"]) == ["shopping"]
    assert (found["interaction_rank"], found["split"], found["fingerprint"]) == (2, "eval_candidates", run.fingerprint)
    assert found["calibration"] is None
    rows = [b for b in simulate(WORLD, ("candidates",)) if (b.day, b.scenario) == (1, "shopping")]
    p = np.concatenate([b.oracle.column("true_long_click").to_numpy() for b in rows]).astype(np.float64)
    # Alone, and in a batch that is padded.
    model = np.concatenate([predictor(run)(b.table)["long_click"] for b in rows]).astype(np.float64)
    alone = predictor(run)(rows[0].table.slice(7, 1))["long_click"]
    assert alone[0] == pytest.approx(model[7], rel=1e-5)
    kl = np.mean(rel_entr(p, model) + rel_entr(1 - p, 1 - model))
    assert found["overall"]["long_click"]["kl"] == pytest.approx(kl, rel=1e-6)


def test_a_calibrated_run_is_judged_by_its_calibrated_probabilities() -> None:
    run = a_run(scenarios=("shopping",))
    curves = {"click": Curve(scale=0.5, shift=-1.0)}
    of_scenario = {"standard": {"click": Curve()}, "shopping": {"click": Curve(scale=2.0, shift=0.5)}}
    fitted = Calibration("platt", run.fingerprint, "eval", {"click": "click"}, curves, of_scenario)
    calibrated = dataclasses.replace(run, calibration=fitted)
    (batch, *_) = (b for b in simulate(WORLD, ("impressions",), (1,)) if b.scenario == "shopping")
    before, after = (predictor(r)(batch.table) for r in (run, calibrated))
    logit = np.log(before["click"]) - np.log1p(-before["click"])
    np.testing.assert_allclose(after["click"], expit(2 * logit + 0.5), rtol=1e-4)
    np.testing.assert_array_equal(after["conversion"], before["conversion"])
    found = regret_of(calibrated, WORLD, "eval")
    assert found["calibration"] == {"method": "platt", "split": "eval"}
    assert found["fingerprint"] == calibrated.fingerprint != run.fingerprint


def test_what_is_not_of_this_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown split .tset. of AdWorld; did you mean .test."):
        regret_of(a_run(), WORLD, "tset")
    with pytest.raises(ValueError, match="trained on another world"):
        regret_of(a_run(), dataclasses.replace(WORLD, users=1501), "test")
    other = dataclasses.replace(a_run(), record=describe(tiny.CONFIG, tiny.SCHEMA, "none"))
    with pytest.raises(ValueError, match="trained on another world"):
        regret_of(other, WORLD, "test")
