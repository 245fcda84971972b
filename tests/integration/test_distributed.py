"""Real processes on this host that train one model together: the same as one process, and all or none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline.batches import ResumeError
from tests.support.paths import ROOT
from tests.support.run_results import assert_same_bits, last_state, lines
from tests.support.training_process import CONFIG, complete, wait_until
from tests.support.two_processes import finish, start
from tt_jax.cli.configuration import load_config
from tt_jax.cli.main import main
from tt_jax.parallel.processes import DistributedError, Place, find_place
from tt_jax.training.loop import train

pytestmark = pytest.mark.process

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, prepared_path: Path) -> Path:
    workdir = tmp_path_factory.mktemp("two")
    said = finish(start(workdir, prepared_path))
    assert "60 of 60 steps done" in said[0]
    assert "steps" not in said[1]  # one of them speaks
    return workdir


def config_of(data: Path):
    return load_config(f"{CONFIG}:two", [f"--config.data.path={data}"])


def test_two_processes_train_the_model_that_one_process_does(
    uninterrupted: Path, prepared_path: Path, tmp_path: Path
) -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-m", "tests.support.two_shares", str(prepared_path), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, env={**os.environ, "XLA_FLAGS": flags})
    expected = np.load(tmp_path / "state.npz")
    # Read by this process, which has another number of devices: Orbax reshards.
    found = last_state(config_of(prepared_path), uninterrupted).state
    assert int(found.step) == 60
    for path, leaf in jax.tree.leaves_with_path(found):
        name = jax.tree_util.keystr(path)
        assert np.asarray(leaf).tobytes() == expected[name].tobytes(), name  # a sum of two does not depend on order
    losses = {
        str(line["step"]): {k.split("/")[1]: v for k, v in line.items() if k.startswith("train/") and "loss" in k}
        for line in lines(uninterrupted)
        if "train/click/loss" in line
    }
    reference = json.loads((tmp_path / "losses.json").read_text())
    assert losses.keys() == reference.keys()
    for step, tasks in reference.items():
        assert losses[step] == tasks, step


def run_until(workdir: Path, data: Path, steps: int, by_flags: bool = False) -> list[subprocess.Popen]:
    """Two processes, as soon as they have saved after so many more steps."""
    before = max(complete(workdir), default=0)
    processes = start(workdir, data, by_flags=by_flags)
    wait_until(lambda: max(complete(workdir), default=0) >= before + steps, processes[0])
    return processes


def kill_one(processes: list[subprocess.Popen], index: int) -> None:
    """Kills one of two processes, and waits for the other to fail."""
    processes[index].send_signal(signal.SIGKILL)
    said = processes[1 - index].communicate(timeout=30)[1]  # it takes 0.1 s; a hang is what this is to find
    assert processes[1 - index].returncode not in (0, None), said
    processes[index].communicate()
    assert processes[index].returncode == -signal.SIGKILL


def test_killed_and_stopped_processes_restart_and_end_with_the_same_bits(
    uninterrupted: Path, prepared_path: Path, tmp_path: Path
) -> None:
    kill_one(run_until(tmp_path, prepared_path, 10), 1)
    killed_at = max(complete(tmp_path))
    processes = run_until(tmp_path, prepared_path, 10, by_flags=True)
    processes[1].send_signal(signal.SIGTERM)  # to one of them
    said = finish(processes)
    stopped_at = max(complete(tmp_path))
    assert killed_at < stopped_at < 60
    assert f"resumed at step {killed_at}" in said[0]
    assert f"stopped by SIGTERM at step {stopped_at}" in said[0]
    config = config_of(prepared_path)
    with pytest.raises(ResumeError, match="2 processes saved the checkpoint and 1 resume it"):
        train(config, tmp_path)  # alone: it would have to read the shares of both
    finish(start(tmp_path, prepared_path))
    a, b = (last_state(config, workdir) for workdir in (uninterrupted, tmp_path))
    assert_same_bits(a.state, b.state)
    assert a.run | {"train_seconds": 0} == b.run | {"train_seconds": 0}
    assert [p["signature"]["process"] for p in a.run["input"]] == [[0, 2], [1, 2]]
    assert lines(uninterrupted) == lines(tmp_path)


@pytest.mark.slow
def test_killing_the_coordinator_ends_all(prepared_path: Path, tmp_path: Path) -> None:
    kill_one(run_until(tmp_path, prepared_path, 10), 0)


@pytest.mark.slow
def test_processes_with_different_configurations_are_refused(prepared_path: Path, tmp_path: Path) -> None:
    for said in finish(start(tmp_path, prepared_path, each=("--config.seed=0", "--config.seed=1")), code=2):
        assert "config.seed is 0 in process 0 and 1 in process 1" in said
    assert not list(tmp_path.iterdir())


def test_flags_come_before_the_variables_of_torchrun() -> None:
    assert find_place(None, None, None, {}) is None
    assert find_place(None, None, None, {"MASTER_ADDR": "a", "MASTER_PORT": "1"}) is None
    assert find_place(None, None, None, TORCHRUN) == Place("node-0:29500", 4, 1)
    assert find_place(None, None, None, {**TORCHRUN, "LOCAL_RANK": "1"}) == Place("node-0:29500", 4, 1, 1)
    assert find_place("10.0.0.1:1234", 2, 0, TORCHRUN) == Place("10.0.0.1:1234", 2, 0)


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (("a:1", None, 0), {}, "missing: --processes"),
        ((None, None, 1), TORCHRUN, "missing: --coordinator, --processes"),
        (("a:1", 2, 2), {}, "process 2 of 2"),
        (("a:1", 2, -1), {}, "process -1 of 2"),
        (("a", 2, 1), {}, "expected HOST:PORT, got 'a'"),
        (("a:70000", 2, 1), {}, "expected HOST:PORT, got 'a:70000'"),
        ((None, None, None), {"WORLD_SIZE": "2"}, "missing: RANK, MASTER_ADDR, MASTER_PORT"),
        ((None, None, None), {**TORCHRUN, "RANK": "one"}, "RANK: expected a number, got 'one'"),
        ((None, None, None), {**TORCHRUN, "RANK": "4"}, "process 4 of 4"),
    ],
)
def test_a_place_that_makes_no_sense_is_named(arguments: tuple, environment: dict, expected: str) -> None:
    with pytest.raises(DistributedError, match=re.escape(expected)):
        find_place(*arguments, environment)


def test_a_wrong_place_is_told_in_one_line(prepared_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", f"--config={CONFIG}:two", f"--workdir={tmp_path}", "--processes=2"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "expected all of --coordinator, --processes, --process, or none; missing: --coordinator, --process"
    )
