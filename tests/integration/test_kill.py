"""Real processes, really killed: the run goes on and ends with the same bits."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.run_results import assert_same_bits, last_state, lines
from tests.support.training_process import CONFIG, complete, start, wait_until
from tt_jax.cli.configuration import load_config
from tt_jax.runs.checkpoints import Checkpoints

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, prepared_path: Path) -> Path:
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(workdir, prepared_path)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return workdir


def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    uninterrupted: Path, prepared_path: Path, tmp_path: Path
) -> None:
    config = load_config(f"{CONFIG}:steps", [f"--config.data.path={prepared_path}"])
    killed_at = []
    for kill in range(3):
        process = start(tmp_path, prepared_path)
        before = max(complete(tmp_path), default=0)
        # The second kill falls into a save: its temporary directory is there.
        saving = (tmp_path / "checkpoints").glob
        condition = lambda: any(saving("*tmp*")) and max(complete(tmp_path), default=0) > before  # noqa: B023, E731
        if kill != 1:
            condition = lambda: max(complete(tmp_path), default=0) >= before + 100  # noqa: B023, E731
        wait_until(condition, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed_at.append(max(complete(tmp_path)))
    assert killed_at == sorted(set(killed_at))
    process = start(tmp_path, prepared_path)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert f"resumed at step {killed_at[-1]}" in errors
    a, b = last_state(config, uninterrupted), last_state(config, tmp_path)
    assert_same_bits(a.state, b.state)
    assert a.run | {"train_seconds": 0} == b.run | {"train_seconds": 0}
    assert lines(uninterrupted) == lines(tmp_path)


@pytest.mark.parametrize("phase", ["compilation", "steps", "evaluation"])
def test_sigterm_saves_and_exits_cleanly_within_seconds(phase: str, prepared_path: Path, tmp_path: Path) -> None:
    process = start(tmp_path, prepared_path, "eval" if phase == "evaluation" else "steps")
    ready = {
        "compilation": lambda: (tmp_path / "config.json").exists(),
        "steps": lambda: len(complete(tmp_path)) > 0,
        "evaluation": lambda: (tmp_path / "metrics.jsonl").exists() and len(lines(tmp_path)) > 1,
    }
    wait_until(ready[phase], process)
    if phase == "compilation":
        time.sleep(0.5)  # the record is written just before the state is made and the step compiled
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert time.monotonic() - sent < 30  # a hang, not a speed, is what this is to find
    assert "stopped by SIGTERM at step" in errors
    stopped_at = int(re.findall(r"stopped by SIGTERM at step (\d+)", errors)[0])
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.steps()[-1] == stopped_at
    assert os.listdir(tmp_path / "checkpoints")
