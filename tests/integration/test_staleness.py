"""`tt-jax skew`: what it reports against the towers in NumPy, its threshold, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from input_pipeline.blocks.prepared_set import PreparedSet
from tests.support import tiny
from tests.support.cli import Call
from tests.support.paths import ROOT
from tests.support.reference_model import Reference
from tests.support.training_process import CONFIG
from tt_jax.cli.skew import EXAMPLE, table
from tt_jax.metrics import task_metrics
from tt_jax.metrics.funnel import funnel_metrics
from tt_jax.training.trained import evaluate, load_saved, load_trained

pytestmark = pytest.mark.process

PAGE = ROOT / "docs" / "how-to" / "detect_skew.md"


def run(call: Call, workdir: Path, out: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    code, printed, err = call("skew", f"--workdir={workdir}", "--split=eval", f"--out={out / 'skew.json'}", *flags)
    assert err == ""
    return code, json.loads((out / "skew.json").read_text()), printed


def test_old_ad_vectors_cost_what_the_towers_say(call: Call, told_run: Path, told_path: Path, tmp_path: Path) -> None:
    code, report, out = run(call, told_run, tmp_path, "--max-increase=100")
    assert (code, report["findings"], report["within"]) == (0, [], 3)
    saved = list(load_saved(told_run))
    assert [save["step"] for save in report["saves"]] == [t.step for t in saved]
    assert [save["behind"] for save in report["saves"]] == [0, 1, 2, 3]
    blocks = PreparedSet.open(told_path).blocks(("eval",))
    rows = {name: np.concatenate([blocks[i][name] for i in range(len(blocks))]) for name in blocks[0]}
    newest = saved[0]
    query = Reference(tiny.TOLD, tiny.CONFIG.model, newest.params, newest.tables)
    query_BTD = query.tower("query", rows["query_ids"], rows["query_floats"])
    teacher = rows["labels"][:, tiny.TOLD.task_names.index("teacher")]
    requests = rows["keys"][:, tiny.TOLD.key_columns.index("request_id")]
    part = rows["scenario"][:, 0] == tiny.TOLD.scenarios.index("standard")
    losses, funnels = [], []
    for trained in saved:
        ad = Reference(tiny.TOLD, tiny.CONFIG.model, trained.params, trained.tables)
        ad_BTD = ad.tower("ad", rows["ad_ids"], rows["ad_floats"])
        p = expit((query_BTD * ad_BTD).sum(-1)[:, 0] + np.asarray(newest.params["bias"])[0])
        labels, weights = rows["labels"][:, 0], rows["weights"][:, 0]
        losses.append(task_metrics(p, labels, weights, None, soft=False)["logloss"])
        funnels.append(funnel_metrics(p[part], teacher[part], requests[part]))
    assert losses[3] > losses[0]
    for save, loss in zip(report["saves"], losses, strict=True):
        assert save["tasks"]["click"]["logloss"] == pytest.approx(loss, rel=1e-4)
    fresh = evaluate(load_trained(told_run), str(told_path))
    for task, metrics in report["saves"][0]["tasks"].items():
        wanted = fresh["overall"][task]
        assert metrics == {name: v if v is None else pytest.approx(v, rel=1e-4) for name, v in wanted.items()}
    for save, funnel in zip(report["saves"], funnels, strict=True):
        found = save["funnel"]["scenarios"]["standard"]
        assert found["requests"] == funnel["requests"]
        for ours, at in zip(found["at"], funnel["at"], strict=True):
            assert ours == pytest.approx(at, rel=1e-5, abs=2e-3)  # rounding may swap two ads
    assert out.count("click") == 4


def test_the_table_shows_recall() -> None:
    at = [{"best": 1, "passed": 4, "recall": 0.75}, {"best": 4, "passed": 8, "recall": 0.5}]
    tasks = {"click": {"rows": 12345, "logloss": 0.25, "auc": None, "kl": 0.125}}
    save = {"behind": 2, "step": 60, "tasks": tasks, "funnel": {"scenarios": {"standard": {"at": at}}}}
    head, row, *recalls = table([save]).splitlines()
    assert head.split() == ["behind", "step", "task", "rows", "logloss", "auc", "kl"]
    assert row.split() == ["2", "60", "click", "12,345", "0.25000", "-", "0.12500"]
    assert [line.split(": ")[-1] for line in recalls] == ["0.7500", "0.5000"]


def test_the_threshold_is_on_what_is_within(call: Call, told_run: Path, tmp_path: Path) -> None:
    _, report, _ = run(call, told_run, tmp_path, "--max-increase=100")
    worst = [
        max(save["tasks"][t]["logloss"] / m["logloss"] - 1 for t, m in report["saves"][0]["tasks"].items())
        for save in report["saves"]
    ]
    assert worst[0] == 0
    assert max(worst[:3]) < worst[3]
    between = (max(worst[1:3]) + worst[3]) / 2
    code, found, out = run(call, told_run, tmp_path, f"--max-increase={between}")
    assert code == 1
    assert found["findings"]
    assert all("ads 3 saves behind (step 60)" in finding and finding in out for finding in found["findings"])
    code, found, _ = run(call, told_run, tmp_path, f"--max-increase={between}", "--within=2")
    assert (code, found["findings"]) == (0, [])


@pytest.mark.parametrize("text", [EXAMPLE, PAGE.read_text()], ids=["help", "page"])
def test_the_documented_commands_work_as_they_stand(text: str, call: Call, told_path: Path, tmp_path: Path) -> None:
    """With a quick configuration, and a threshold that says nothing of how good its few steps are."""
    train, sweep = (re.search(rf"tt-jax {verb} (.*\\\n)*.*", text) for verb in ("train", "skew"))
    assert train
    assert sweep
    flags = [flag for flag in train[0].split() if flag.startswith("--config.train.")]
    data = f"--config.data.path={told_path}"
    code, _, err = call("train", f"--config={CONFIG}:two", data, f"--workdir={tmp_path / 'w'}", *flags)
    assert code == 0, err
    within = [flag for flag in sweep[0].split() if flag.startswith("--within=")]
    code, report, _ = run(call, tmp_path / "w", tmp_path, *within, "--max-increase=100")
    assert (code, report["within"]) == (0, 3)


def test_what_cannot_be_swept_is_refused(call: Call, told_run: Path, prepared_path: Path, tmp_path: Path) -> None:
    refused = lambda workdir, *flags: call.refused("skew", f"--workdir={workdir}", *flags)  # noqa: E731
    assert str(tmp_path / "none") in refused(tmp_path / "none")
    assert refused(told_run, f"--data={prepared_path}").startswith(f"{prepared_path}: prepared with another schema")
    assert "--within=4: expected at least 1 checkpoint behind the newest and at most the 3" in refused(
        told_run, "--within=4"
    )
    assert "unknown split 'evil'; did you mean 'eval'?" in refused(told_run, "--split=evil")
    copy = tmp_path / "run"
    shutil.copytree(told_run, copy)
    steps = sorted((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for path in (p for p in steps[0].rglob("*") if p.is_file()):
        path.write_bytes(b"")
    assert f"{steps[0]}: cannot be read: " in refused(copy)
    for step in steps[:-1]:
        shutil.rmtree(step)
    assert "--within=all: expected at least 1 checkpoint behind the newest and at most the 0" in refused(copy)


def test_the_columns_of_the_table_are_apart_whatever_the_names_of_tasks() -> None:
    metrics = {"rows": 4000, **dict.fromkeys(("logloss", "auc", "kl"), 0.5)}
    save = {"behind": 0, "step": 65, "tasks": {"teacher_conversion": metrics, "click": metrics}}
    head, *rows = table([save]).splitlines()
    assert [row.split()[:4] for row in rows] == [["0", "65", task, "4,000"] for task in save["tasks"]]
    assert len({len(line) for line in (head, *rows)}) == 1
