"""Calibration of a run: online equals offline; the command; the file is read strictly; a bundle takes its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from input_pipeline.blocks.prepared_set import PreparedSet
from serving.index.ad_index import index_table
from serving.scorer import Scorer
from tests.support import tiny
from tt_jax.bundle.reader import Bundle, BundleError
from tt_jax.bundle.stablehlo import SCORER_K
from tt_jax.calibration.calibrate import calibrated_logits, fit_calibration, fit_heads, own_tasks, read_calibration
from tt_jax.calibration.maps import METHODS, Calibration, CalibrationError
from tt_jax.cli.main import main
from tt_jax.metrics import task_metrics
from tt_jax.metrics.bootstrap import difference_intervals
from tt_jax.metrics.ranking import user_codes
from tt_jax.metrics.rows import EvalRows
from tt_jax.metrics.task_rows import TaskRows
from tt_jax.models.scenario import query_scenarios
from tt_jax.training.trained import evaluate, export, load_trained, predictions


def test_the_scenario_is_what_the_query_says():
    _, column, _ = next(entry for entry in tiny.TOLD.layout["query"].ids if entry[0] == "scenario")
    ids = np.zeros((5, tiny.TOLD.layout["query"].id_slots), np.int32)
    ids[:, column] = [2, 3, 0, 1, -1]
    assert np.asarray(query_scenarios(tiny.TOLD, ids)).tolist() == [0, 1, 2, 2, 2]
    assert np.asarray(query_scenarios(tiny.SCHEMA, ids)).tolist() == [2] * 5


@pytest.fixture(scope="module")
def run(told_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, to calibrate."""
    out = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(told_run, out)
    return out


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("method", METHODS)
def test_online_equals_offline(method, run: Path, told_path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tt_jax.calibration.calibrate.MIN_ROWS", 300)
    assert call("calibrate", f"--workdir={run}", f"--method={method}", "--tasks=click,conversion") == 0
    trained = load_trained(run)
    calibration = trained.calibration
    assert calibration is not None
    assert calibration.scenarios.keys() == set(tiny.SCENARIOS)
    assert not any(curve.pooled for curve in (calibration.scenarios[s]["click"] for s in tiny.SCENARIOS))
    plain = load_trained(run, calibrated=False)
    assert calibration.model == plain.fingerprint != trained.fingerprint
    # Offline.
    report = evaluate(trained, str(told_path), replicates=5 if method == "platt" else 0)
    before, after = report["overall"]["click"], report["calibrated"]["overall"]["click"]
    assert after["logloss"] <= before["logloss"]
    _, found = predictions(trained, str(told_path))
    offline = expit(calibrated_logits(found.logits, found.query_scenario, tiny.TOLD, calibration))
    users = found.keys[:, tiny.TOLD.key_columns.index("user_id")]
    labels, weights = found.labels[:, 0], found.weights[:, 0]
    intervals = after.pop("intervals", None)
    assert after == task_metrics(offline[:, 0], labels, weights, users, soft=False)
    assert (intervals is None) == (method != "platt")
    if intervals:
        codes, both = user_codes(users), (offline, expit(found.logits))
        pair = [TaskRows.of(p[:, 0], labels, weights, codes, soft=False) for p in both]
        assert report["calibrated"]["differences"]["click"] == difference_intervals(*pair, users, replicates=5)
    # Online: raw queries and ads of the log, through a bundle, an index and the compiled programs.
    mark = export(trained, tmp_path / "bundle")
    assert mark == trained.fingerprint
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.calibration == calibration
    assert bundle.replay_golden() < 1e-5
    rng = np.random.default_rng(0)
    ads = tiny.ads_table(rng, 150, eligible=1.0)
    scorer = Scorer(bundle, index_table(bundle, ads), max_k=100, warm=False)
    queries = tiny.queries(rng, 6)
    for query, scenario in zip(queries, ("standard", "shopping", None, "standard", "zz", "shopping"), strict=True):
        query["scenario"] = scenario
    ids = ads.column("ad_id").to_pylist()
    expected = _offline(trained, calibration, queries, ads)
    listed = scorer.score(queries, [ids] * 6)
    np.testing.assert_allclose(
        [[[ad.probabilities[h] for h in tiny.TOLD.heads] for ad in one] for one in listed], expected, atol=1e-5
    )
    for b, (best, chosen) in enumerate(
        zip(scorer.top_k(queries, 20), scorer.top_k(queries, 20, [ids] * 6), strict=True)
    ):
        utility = ads.column("bid").to_numpy() * expected[b, :, 0]
        for answer in (best, chosen):
            np.testing.assert_allclose([ad.score for ad in answer], -np.sort(-utility)[:20], rtol=1e-4)
            at = [ids.index(ad.id) for ad in answer]
            np.testing.assert_allclose([ad.probabilities["click"] for ad in answer], expected[b, at, 0], atol=1e-5)
    _check_stablehlo(tmp_path / "bundle", trained, calibration)


def _offline(trained, calibration, queries, ads) -> np.ndarray:
    """Probabilities `[B, N, H]` by the evaluation's own path: every pair as a row."""
    from tt_jax.features.encoder import Encoder

    columns = {n: ads.column(n).to_pylist() for n in ads.column_names}
    out = []
    for query in queries:
        rows_ = {name: [value] * len(ads) for name, value in query.items()} | columns
        arrays = Encoder(tiny.TOLD).encode(rows_, outcomes=False).arrays
        logits = np.asarray(trained.model.predict(trained.params, trained.tables, arrays))
        curves = calibration.curves(tiny.TOLD).at(query_scenarios(tiny.TOLD, arrays["query_ids"]))
        out.append(expit(np.asarray(curves.apply(jnp.asarray(logits)))))
    return np.stack(out)


def _check_stablehlo(bundle: Path, trained, calibration) -> None:
    exported = jax.export.deserialize(bytearray((bundle / "stablehlo" / "scorer.bin").read_bytes()))
    rng = np.random.default_rng(1)
    heads, width = len(tiny.TOLD.heads), tiny.CONFIG.model.output_dim
    queries, ads = (rng.normal(size=(n, heads, width)).astype(np.float32) for n in (4, 130))
    bias, bids = np.asarray(trained.params["bias"]), np.ones(130, np.float32)
    scenarios = np.array([0, 1, 2, -1], np.int32)
    positions, _, probabilities = map(
        np.asarray, exported.call(queries, ads, bias, bids, np.ones(130, bool), scenarios)
    )
    logits = np.einsum("bhd,nhd->bnh", queries, ads) + bias
    for b, s in enumerate((0, 1, 2, 2)):
        curves = calibration.curves(tiny.TOLD).at(jnp.full(130, s, jnp.int32))
        expected = expit(np.asarray(curves.apply(jnp.asarray(logits[b]))))
        assert len(positions[b]) == SCORER_K
        np.testing.assert_allclose(probabilities[b], expected[positions[b]], atol=1e-5)


def test_soft_labels_and_scenarios_with_too_few_rows(run: Path, capsys) -> None:
    assert call("calibrate", f"--workdir={run}", "--tasks=teacher") == 0
    assert "(too few: pooled)" not in capsys.readouterr().out.replace("conversion", "")
    calibration = read_calibration(run, tiny.TOLD)
    assert calibration is not None
    assert calibration.tasks == {"click": "teacher"}
    assert call("calibrate", f"--workdir={run}") == 0  # conversion: only clicked rows have a label
    calibration = read_calibration(run, tiny.TOLD)
    assert calibration is not None
    assert calibration.scenarios["standard"]["conversion"].pooled
    assert calibration.scenarios["standard"]["conversion"].scale == calibration.pooled["conversion"].scale
    assert not calibration.scenarios["standard"]["click"].pooled


def test_wrong_tasks_and_a_calibration_of_other_weights(run: Path, capsys) -> None:
    assert call("calibrate", f"--workdir={run}") == 0
    for tasks, message in (("clik", "unknown task 'clik'"), ("click,teacher", "are of one head, 'click'")):
        capsys.readouterr()
        assert call("calibrate", f"--workdir={run}", f"--tasks={tasks}") == 2
        assert message in capsys.readouterr().err
    upside_down = np.linspace(-1, 1, 400, dtype=np.float32).repeat(2).reshape(-1, 2)
    labels = np.stack([upside_down[:, 0] < 0.1 * (-1) ** np.arange(400)] * 3, axis=1).astype(np.float32)
    nowhere = np.full(400, 2, np.int32)
    keys = np.zeros((400, len(tiny.TOLD.key_columns)), np.int64)
    wrong = EvalRows(
        tiny.TOLD, tiny.SCENARIOS, upside_down, labels, np.ones_like(labels), nowhere * 0, keys, query_scenario=nowhere
    )
    with pytest.raises(CalibrationError, match="higher logits of 'click' have fewer positives"):
        fit_calibration(wrong, "platt", {"click": "click"}, "eval", "m")
    wrong.logits[:, 1] *= -1  # of the conversion, which is then right
    fitted, left_out = fit_heads(wrong, "platt", own_tasks(tiny.TOLD), "eval", "m")
    assert fitted == fit_calibration(wrong, "platt", {"conversion": "conversion"}, "eval", "m")
    assert left_out == {"click": "task 'click': higher logits of 'click' have fewer positives: nothing to fit"}
    wrong.labels[:] = 0
    assert fit_heads(wrong, "platt", own_tasks(tiny.TOLD), "eval", "m")[0] is None
    with pytest.raises(
        CalibrationError, match="task 'click' has 400 labelled rows of the split 'eval', and 0 positives"
    ):
        fit_calibration(wrong, "isotonic", {"click": "click"}, "eval", "m")
    assert own_tasks(tiny.TOLD) == {"click": "click", "conversion": "conversion"}
    path = run / "calibration.json"
    sound = json.loads(path.read_text())
    path.write_text(json.dumps({**{k: v for k, v in sound.items() if k != "digest"}, "model": "0" * 64}))
    with pytest.raises(CalibrationError, match=r"calibration\.json: fitted to the model 0000"):
        load_trained(run)
    path.write_text(json.dumps(sound))


def test_a_calibration_file_is_read_strictly(run: Path, tmp_path: Path) -> None:
    assert call("calibrate", f"--workdir={run}", "--method=isotonic") == 0
    calibration = load_trained(run).calibration
    assert calibration is not None
    assert Calibration.from_json(calibration.to_json(), tiny.TOLD) == calibration
    sound = json.loads(calibration.to_json())
    pooled = sound["pooled"]

    def curve(**changes):
        return {"pooled": {**pooled, "click": {**pooled["click"], **changes}}}

    for changes, message in (
        ({"method": "beta"}, "method: 'beta' is none of"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"tasks": {"clik": "click"}}, "unknown head 'clik'; did you mean 'click'"),
        ({"tasks": {**sound["tasks"], "click": "x"}}, "tasks.click: unknown task 'x'"),
        ({"pooled": {}}, "pooled: expected the heads click, conversion"),
        ({"scenarios": {"standard": pooled}}, "scenarios: expected those of the schema"),
        (curve(scale=0), "pooled.click: expected a scale > 0"),
        (curve(knots=[1.0, 0.0], values=[0.0, 1.0]), "pooled.click.knots: expected rising"),
        (curve(knots=[0.0, 1.0], values=[1.0, 1.0]), "pooled.click.values: expected rising"),
        (curve(knots=[0.0]), "expected as many values as knots"),
        (curve(knots=list(range(33)), values=list(range(33))), "at most 32, got 33 and 33"),
        (curve(knots=[0.0, float("inf")], values=[0.0, 1.0]), "knots: expected rising float32"),
    ):
        with pytest.raises(CalibrationError, match=message):
            Calibration.from_json(json.dumps({**sound, **changes}), tiny.TOLD)
    schema = dataclasses.replace(tiny.TOLD, features=tiny.SCHEMA.features)
    with pytest.raises(CalibrationError, match="scenarios: expected"):
        Calibration.from_json(calibration.to_json(), schema)


def test_a_bundle_refuses_the_calibration_of_other_weights(run: Path, told_path: Path, tmp_path: Path) -> None:
    from tt_jax.bundle.writer import write_bundle

    calibration = load_trained(run).calibration
    assert calibration is not None
    params, tables = tiny.weights(schema=tiny.TOLD)
    golden = PreparedSet.open(told_path).samples()
    common = {"schema": tiny.TOLD, "config": tiny.CONFIG, "params": params, "tables": tables, "metrics": {}}
    write_bundle(tmp_path / "other", **common, golden_rows=golden, calibration=calibration, platforms=("cpu",))
    with pytest.raises(BundleError, match=r"calibration\.json: fitted to the model"):
        Bundle.load(tmp_path / "other")
