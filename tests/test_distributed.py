"""Real processes on this host that train one model together: the same as one process, and all or none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.test_kill import CONFIG, ROOT, complete, wait_until
from tests.test_training import assert_same_bits, last_state, lines
from tt_jax.cli.configuration import load_config
from tt_jax.distributed import DistributedError, Place, find_place

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(workdir: Path, data: Path, *extra: str, count: int = 2, by_flags: bool = False) -> list[subprocess.Popen]:
    """The same command `count` times, each process with its place among them."""
    command = [sys.executable, "-m", "tt_jax", "train", f"--config={CONFIG}:two", f"--config.data.path={data}"]
    port, found = free_port(), []
    for index in range(count):
        place = {"RANK": index, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        flags = [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={index}"]
        found.append(
            subprocess.Popen(
                [*command, f"--workdir={workdir}", *extra, *(flags if by_flags else ())],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ if by_flags else {**os.environ, **{k: str(v) for k, v in place.items()}},
            )
        )
    return found


def finish(processes: list[subprocess.Popen], code: int = 0) -> list[str]:
    """What each said on stderr, after it has ended with that exit code."""
    said = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [code] * len(processes), "\n".join(said)
    return said


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, prepared_path: Path) -> Path:
    workdir = tmp_path_factory.mktemp("two")
    said = finish(start(workdir, prepared_path))
    assert "120 of 120 steps done" in said[0]
    assert "steps" not in said[1]  # one of them speaks
    return workdir


def config_of(data: Path):
    return load_config(f"{CONFIG}:two", [f"--config.data.path={data}"])


def test_two_processes_train_the_model_that_one_process_does(
    uninterrupted: Path, prepared_path: Path, tmp_path: Path
) -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-m", "tests.two_shares", str(prepared_path), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, env={**os.environ, "XLA_FLAGS": flags})
    expected = np.load(tmp_path / "state.npz")
    # Read by this process, which has another number of devices: Orbax reshards.
    found = last_state(config_of(prepared_path), uninterrupted).state
    assert int(found.step) == 120
    for path, leaf in jax.tree.leaves_with_path(found):
        name = jax.tree_util.keystr(path)
        print(name, np.abs(np.asarray(leaf).astype(np.float64) - expected[name]).max())
        np.testing.assert_allclose(np.asarray(leaf), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    losses = {
        str(line["step"]): {k.split("/")[1]: v for k, v in line.items() if k.startswith("train/") and "loss" in k}
        for line in lines(uninterrupted)
        if "train/click/loss" in line
    }
    reference = json.loads((tmp_path / "losses.json").read_text())
    assert losses.keys() == reference.keys()
    for step, tasks in reference.items():
        assert losses[step] == pytest.approx(tasks, rel=1e-6), step


def test_killing_one_process_ends_all_and_a_restart_ends_with_the_same_bits(
    uninterrupted: Path, prepared_path: Path, tmp_path: Path
) -> None:
    for killed in (1, 0):  # 0 is the coordinator of the others
        processes = start(tmp_path, prepared_path)
        before = max(complete(tmp_path), default=0)
        wait_until(lambda: max(complete(tmp_path), default=0) >= before + 20, processes[killed])  # noqa: B023
        processes[killed].send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        said = processes[1 - killed].communicate(timeout=60)[1]
        print("ended after", time.monotonic() - killed_at, said[-1500:])
        assert processes[1 - killed].returncode != 0
        assert processes[killed].wait() == -signal.SIGKILL
        assert max(complete(tmp_path)) < 120
    resumed = max(complete(tmp_path))
    said = finish(start(tmp_path, prepared_path))
    assert f"resumed at step {resumed}" in said[0]
    a, b = (last_state(config_of(prepared_path), workdir) for workdir in (uninterrupted, tmp_path))
    assert_same_bits(a.state, b.state)
    assert a.run == b.run
    assert len(a.run["input"]) == 2
    assert lines(uninterrupted) == lines(tmp_path)


def test_sigterm_to_one_process_stops_all_at_the_same_step(
    uninterrupted: Path, prepared_path: Path, tmp_path: Path
) -> None:
    processes = start(tmp_path, prepared_path, by_flags=True)
    wait_until(lambda: len(complete(tmp_path)) > 0, processes[1])
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes)
    stopped = max(complete(tmp_path))
    assert stopped < 120
    assert f"stopped by SIGTERM at step {stopped}" in said[0]
    # Alone, a process would have to read the shares of both.
    (refused,) = finish(start(tmp_path, prepared_path, count=1), code=2)
    assert "2 processes saved the checkpoint and 1 resume it" in refused
    finish(start(tmp_path, prepared_path))
    a, b = (last_state(config_of(prepared_path), workdir) for workdir in (uninterrupted, tmp_path))
    assert_same_bits(a.state, b.state)
    assert a.run == b.run
