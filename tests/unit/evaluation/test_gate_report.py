"""Gate diagnostics against a NumPy reference of the gates, and their definitions at the edges."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tests.support import tiny
from tests.support.reference_model import Reference, softmax
from tt_jax.evaluation.gate_report import predict_with_gates
from tt_jax.evaluation.predict import make_predict, predict_rows
from tt_jax.metrics.gates import batch_sums, gate_metrics
from tt_jax.metrics.rows import EvalRows
from tt_jax.models.two_tower import TwoTower
from tt_jax.training.trained import evaluate, load_trained


def test_the_report_is_that_of_a_reference(prepared_path: Path) -> None:
    config = dataclasses.replace(tiny.CONFIG.model, experts=3)
    model = TwoTower(tiny.SCHEMA, config, "f32")
    params, tables = tiny.weights(2, config=dataclasses.replace(tiny.CONFIG, model=config))
    prepared = PreparedSet.open(prepared_path)
    predicted, found = predict_with_gates(model, (params, tables), Part(prepared, ("eval",)), (), 64)
    alone = predict_rows(make_predict(model), (params, tables), Part(prepared, ("eval",)), (), 64)
    for field in dataclasses.fields(EvalRows):
        np.testing.assert_array_equal(getattr(predicted, field.name), getattr(alone, field.name))
    assert list(found) == ["ad", "query"]
    rows, reference = stored(prepared), Reference(tiny.SCHEMA, config, params, tables)
    for tower, report in found.items():
        assert report["experts"] == ["0", "1", "2"]
        x0 = reference.inputs(tower, rows[f"{tower}_ids"], rows[f"{tower}_floats"].astype(np.float64))
        at = f"{tower}/body"
        gates = [softmax(reference.dense(f"{at}/gate_out/{t}", reference.gate_hidden(at, t, x0))) for t in range(3)]
        check(report, np.stack(gates), rows["scenario"][:, 0], tiny.SCHEMA.heads)


def test_the_report_of_mtmd_is_of_its_sources_over_all_domains(told_path: Path) -> None:
    """The query tower knows its domain, the ad tower guesses."""
    config = dataclasses.replace(tiny.CONFIG.model, kind="mtmd")
    model = TwoTower(tiny.TOLD, config, "f32")
    params, tables = tiny.weights(2, tiny.TOLD, dataclasses.replace(tiny.CONFIG, model=config))
    prepared = PreparedSet.open(told_path)
    _, found = predict_with_gates(model, (params, tables), Part(prepared, ("eval",)), (), 512)
    rows, reference = stored(prepared), Reference(tiny.TOLD, config, params, tables)
    for tower, report in found.items():
        assert report["experts"] == ["task_specific", "task_shared", "domain_shared", "borrowed"]
        ids, at = rows[f"{tower}_ids"], f"{tower}/body"
        x0 = reference.inputs(tower, ids, rows[f"{tower}_floats"].astype(np.float64))
        share_BS, gates = reference.domains(tower, ids, x0), []
        assert (set(share_BS.ravel()) == {0, 1}) == (tower == "query")
        for t in range(len(tiny.TOLD.heads)):
            gate = reference.dense(f"{at}/gate_out/{t}", reference.gate_hidden(at, t, x0))
            gates.append(np.einsum("bs,bsk->bk", share_BS, softmax(gate.reshape(len(x0), 2, 4))))
        check(report, np.stack(gates), rows["scenario"][:, 0], tiny.TOLD.heads)


def stored(prepared: PreparedSet) -> dict[str, np.ndarray]:
    """All rows of the eval split."""
    blocks = prepared.blocks(("eval",))
    return {name: np.concatenate([blocks[i][name] for i in range(len(blocks))]) for name in blocks[0]}


def check(report: dict[str, Any], gates_TBE: np.ndarray, scenario_B: np.ndarray, heads: tuple[str, ...]) -> None:
    """The diagnostics of a mixture against its gates."""
    experts = gates_TBE.shape[2]
    parts = {"overall": slice(None), **{s: scenario_B == i for i, s in enumerate(tiny.SCENARIOS)}}
    for name, part in parts.items():
        one = report["overall"] if name == "overall" else report["scenarios"][name]
        mine = gates_TBE[:, part]
        assert one["rows"] == mine.shape[1]
        load = mine.mean(axis=1)
        for t, task in enumerate(heads):
            np.testing.assert_allclose(one["tasks"][task]["load"], load[t], atol=1e-5)
            entropy = -(mine[t] * np.log(mine[t])).sum(axis=1).mean() / np.log(experts)
            assert one["tasks"][task]["entropy"] == pytest.approx(entropy, abs=1e-5)
            assert one["tasks"][task]["dead"] == [e for e in range(experts) if load[t, e] < 0.1 / experts]
        norm = np.linalg.norm(load, axis=1)
        np.testing.assert_allclose(one["similarity"], load @ load.T / np.outer(norm, norm), atol=1e-5)


def test_one_expert_for_all_others_dead_and_rows_that_do_not_count() -> None:
    gates = np.zeros((2, 4, 6), np.float32)
    gates[0, 1], gates[1, 2] = 1, 1
    gates[:, :, 5] = 0.25  # a row of padding
    sums = batch_sums(gates, np.array([0, 0, 0, 0, 0, -1], np.int32), 2)
    found = gate_metrics(*(float(sums.rows[0]), np.asarray(sums.gate[0]), np.asarray(sums.entropy[0])), ["a", "b"])
    assert found["rows"] == 5
    assert found["tasks"]["a"] == {"load": [0, 1, 0, 0], "entropy": 0, "dead": [0, 2, 3]}
    assert found["dead"] == [0, 3]
    assert found["similarity"] == [[1, 0], [0, 1]]
    empty = gate_metrics(float(sums.rows[1]), np.asarray(sums.gate[1]), np.asarray(sums.entropy[1]), ["a", "b"])
    assert empty == {"rows": 0, "tasks": None, "dead": None, "similarity": None}
    even = batch_sums(np.full((1, 4, 3), 0.25, np.float32), np.zeros(3, np.int32), 1)
    found = gate_metrics(3.0, np.asarray(even.gate[0]), np.asarray(even.entropy[0]), ["a"])
    assert found["tasks"]["a"]["entropy"] == pytest.approx(1)
    assert gate_metrics(1.0, np.ones((1, 1)), np.zeros(1), ["a"])["tasks"]["a"]["entropy"] is None


@pytest.mark.parametrize(("kind", "mixtures"), [("mmoe_mlp", ["ad", "query"]), ("mlp", []), ("heavy", ["pair"])])
def test_kinds_of_model(kind, mixtures, prepared_path: Path) -> None:
    config = dataclasses.replace(tiny.CONFIG.model, kind=kind)
    model = TwoTower(tiny.SCHEMA, config, "f32")
    part = Part(PreparedSet.open(prepared_path), ("eval",))
    _, found = predict_with_gates(model, model.init(0), part, ("shopping",), 64)
    assert list(found) == mixtures
    for report in found.values():
        assert list(report["scenarios"]) == ["shopping"]
        assert report["scenarios"]["shopping"] == report["overall"]


def test_evaluate_reports_them(told_run: Path, told_path: Path) -> None:
    gates = evaluate(load_trained(told_run), str(told_path))["gates"]
    assert list(gates) == ["ad", "query"]
    assert list(gates["query"]["overall"]["tasks"]) == list(tiny.TOLD.heads)
