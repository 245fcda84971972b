"""A teacher's probabilities as labels: right, on every row, with nothing else changed; and who may not teach whom."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support import tiny
from tests.support.cli import Call
from tests.support.reference_model import Reference
from tt_jax.config import Config, ConfigError
from tt_jax.io.publish import PublishError
from tt_jax.models.two_tower import TwoTower
from tt_jax.runs.record import Record
from tt_jax.schema import Schema, Task
from tt_jax.training.distill import TEACHER, label, labelled_schema
from tt_jax.training.loop import train
from tt_jax.training.trained import Trained

HEAVY = dataclasses.replace(
    tiny.CONFIG,
    model=dataclasses.replace(tiny.CONFIG.model, kind="heavy"),
    data=dataclasses.replace(tiny.CONFIG.data, eval_batch_size=96),  # blocks, scenarios and batches end elsewhere
)
CLICK, CONVERSION, TEACHER_TASK = tiny.SCHEMA.tasks


def teacher(schema: Schema = tiny.SCHEMA, config: Config = HEAVY, seed: int = 4) -> Trained:
    """One of random weights."""
    params, tables = tiny.weights(seed, schema, config)
    return Trained(Record(config, schema, "", {}), TwoTower(schema, config.model, "f32"), params, tables, 7, None)


def rows_of(prepared: PreparedSet, split: str, scenario: str) -> dict[str, np.ndarray]:
    blocks = prepared.blocks((split,), (scenario,))
    parts = [blocks[i] for i in range(len(blocks))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def labelled(prepared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    out = tmp_path_factory.mktemp("labelled") / "set"
    label(teacher(), PreparedSet.open(prepared_path), out)
    return PreparedSet.open(out, verify=True)


def test_every_row_has_the_teachers_probabilities_and_is_else_unchanged(labelled, prepared_path):
    before, known = PreparedSet.open(prepared_path), teacher()
    added = [f"teacher_{head}" for head in tiny.SCHEMA.heads]
    assert list(labelled.schema.task_names) == [*tiny.SCHEMA.task_names, *added]
    assert labelled.schema.heads == tiny.SCHEMA.heads
    assert all((t.kind, t.head) == ("soft", t.name.removeprefix("teacher_")) for t in labelled.schema.tasks[3:])
    reference = Reference(tiny.SCHEMA, HEAVY.model, known.params, known.tables)
    for split, scenarios in before.manifest.splits.items():
        for scenario in scenarios:
            old, new = rows_of(before, split, scenario), rows_of(labelled, split, scenario)
            probability = 1 / (1 + np.exp(-reference.logits(old)))
            np.testing.assert_allclose(new["labels"][:, 3:], probability, atol=1e-5)
            np.testing.assert_array_equal(new["labels"][:, :3], old["labels"])
            np.testing.assert_array_equal(new["weights"], np.c_[old["weights"], np.ones_like(probability)])
            for name in old.keys() - {"labels", "weights"}:
                np.testing.assert_array_equal(new[name], old[name])


def test_the_manifest_counts_the_new_labels_and_keeps_the_rest(labelled, prepared_path):
    before = PreparedSet.open(prepared_path)
    assert labelled.fingerprint != before.fingerprint
    assert labelled.manifest.ads_sha256 == before.manifest.ads_sha256 != ""
    assert labelled.samples() == before.samples()
    for split, scenarios in before.manifest.splits.items():
        for scenario, old in scenarios.items():
            new = labelled.manifest.splits[split][scenario]
            assert new.rows == old.rows
            assert new.coverage == pytest.approx(old.coverage, abs=1e-12)
            mean = float(rows_of(labelled, split, scenario)["labels"][:, 3].mean(dtype=np.float64))
            assert (new.labelled["teacher_click"], new.rate["teacher_click"]) == (old.rows, pytest.approx(mean))
    assert [f.blocks for f in labelled.manifest.files] == [f.blocks for f in before.manifest.files]
    facts = json.loads((labelled.root / TEACHER).read_text())
    assert facts == {
        "fingerprint": teacher().fingerprint, "step": 7, "heads": list(tiny.SCHEMA.heads), "data": before.fingerprint,
    }  # fmt: skip


def test_labelling_again_replaces_the_labels_and_the_same_teacher_gives_the_same_set(labelled, prepared_path, tmp_path):
    again = label(teacher(), PreparedSet.open(prepared_path), tmp_path / "again")
    assert again.fingerprint == labelled.fingerprint
    other = label(teacher(seed=5), labelled, tmp_path / "other")
    relabelled = PreparedSet.open(tmp_path / "other")
    assert relabelled.schema == labelled.schema
    assert other.fingerprint != labelled.fingerprint
    assert label(teacher(), relabelled, tmp_path / "back").fingerprint == labelled.fingerprint


def test_a_task_that_is_replaced_keeps_its_place_and_weight():
    old = Task("teacher_click", "score", "soft", mask="clicked", weight=0.25, weight_column="importance", head="click")
    schema, heads = labelled_schema(teacher(), dataclasses.replace(tiny.SCHEMA, tasks=(old, CLICK)))
    assert (schema.tasks, heads) == (
        (Task("teacher_click", "score", "soft", weight=0.25, head="click"), CLICK),
        ("click",),
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features": (*tiny.SCHEMA.features[:-1], dataclasses.replace(tiny.SCHEMA.features[-1], dim=4))},
         "the teacher's feature 'ad_embedding' is Feature(name='ad_embedding'"),
        ({"features": tiny.SCHEMA.features[::-1]}, "'user' stands where the data has 'ad_embedding'"),
        ({"features": tiny.SCHEMA.features[:-1]}, "only the teacher has the feature 'ad_embedding'"),
        ({"tasks": (Task("like", "liked"),)}, "the teacher has the heads click, conversion, teacher, the data like"),
        ({"tasks": (CLICK, Task("teacher_click", "x"))}, "a task 'teacher_click' that is not a soft label of the head"),
        ({"scenarios": ("standard", "video")}, "the teacher was not trained on the scenario 'video'"),
        ({"scenario": "surface"}, "the scenario column is 'scenario' for the teacher, 'surface' in the data"),
    ],
)  # fmt: skip
def test_a_set_that_the_teacher_does_not_fit_is_refused(changes: dict[str, Any], says: str):
    with pytest.raises(ConfigError) as e:
        labelled_schema(teacher(), dataclasses.replace(tiny.SCHEMA, **changes))
    assert says in str(e.value)


def test_a_teacher_of_one_scenario_does_not_label_another():
    data = dataclasses.replace(HEAVY.data, scenarios=("shopping",))
    one = teacher(config=dataclasses.replace(HEAVY, data=data))
    with pytest.raises(ConfigError, match="not trained on the scenario 'standard'"):
        labelled_schema(one, tiny.SCHEMA)
    assert labelled_schema(one, dataclasses.replace(tiny.SCHEMA, scenarios=("shopping",)))[1] == tiny.SCHEMA.heads


def test_nothing_is_written_over(prepared_path, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(PublishError, match="already exists"):
        label(teacher(), PreparedSet.open(prepared_path), tmp_path / "out")


def test_a_failure_leaves_nothing(prepared_path, tmp_path, monkeypatch):
    def broken(*_: object) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr("input_pipeline.blocks.block.BlockWriter.write", broken)
    with pytest.raises(OSError, match="disk full"):
        label(teacher(), PreparedSet.open(prepared_path), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_heavy_ranker_trains_labels_and_teaches_by_the_command_line(prepared_path, tmp_path, capsys):
    call = Call(capsys)
    data = dataclasses.replace(HEAVY.data, path=str(prepared_path), batch_size=64)
    run = dataclasses.replace(HEAVY, data=data, train=dataclasses.replace(HEAVY.train, epochs=1))
    train(run, tmp_path / "heavy")
    code, out, _ = call("label", f"--teacher={tmp_path / 'heavy'}", f"--out={tmp_path / 'labelled'}")
    assert code == 0
    assert "teacher_click" in out
    refused = call.refused("export", f"--workdir={tmp_path / 'heavy'}", f"--out={tmp_path / 'bundle'}")
    assert refused == "config.model.kind: a heavy ranker has no ad tower to export or index; it is for labels only"
    small = dataclasses.replace(tiny.CONFIG.model, kind="mlp", mlp=(16,))
    weights = ("click=0", "conversion=0", "teacher=0")
    student = dataclasses.replace(
        tiny.CONFIG,
        model=small,
        data=dataclasses.replace(data, path=str(tmp_path / "labelled")),
        train=dataclasses.replace(HEAVY.train, epochs=4, task_weights=weights),
    )
    report = train(student, tmp_path / "student").facts.report
    assert report is not None
    found = PreparedSet.open(tmp_path / "labelled")
    y = np.concatenate([rows_of(found, "eval", s)["labels"][:, 3] for s in tiny.SCENARIOS]).astype(np.float64)
    constant = np.mean(y * np.log(y / y.mean()) + (1 - y) * np.log((1 - y) / (1 - y.mean())))
    assert report["overall"]["teacher_click"]["kl"] < 0.95 * constant  # it has learnt from the teacher
    capsys.readouterr()
    assert "already exists" in call.refused(
        "label", f"--teacher={tmp_path / 'heavy'}", f"--out={tmp_path / 'labelled'}"
    )
