"""One run writes a working directory at a time, and a killed one leaves nothing locked."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.cli import Call
from tests.support.training_process import CONFIG, complete, start, wait_until
from tests.support.two_processes import finish
from tests.support.two_processes import start as start_two
from tt_jax.config import StageConfig, TrainConfig
from tt_jax.runs.lock import LOCK, WorkdirInUseError, locked
from tt_jax.training.continuous import go_on
from tt_jax.training.loop import train

pytestmark = pytest.mark.process


def test_a_second_run_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    with locked(tmp_path / "w"), pytest.raises(WorkdirInUseError) as error, locked(tmp_path / "w"):
        raise AssertionError("not reached")
    expected = rf"{tmp_path}/w: a run is writing it: host {socket.gethostname()}, process {os.getpid()}, since \d{{4}}-"
    assert re.match(expected, str(error.value))
    assert list((tmp_path / "w").iterdir()) == []  # nothing is left of a run that has ended
    with locked(tmp_path / "w"):
        assert [p.name for p in (tmp_path / "w").iterdir()] == [LOCK]


def test_many_processes_take_it_one_after_another(tmp_path: Path) -> None:
    """Each adds one to a number that only the lock protects."""
    (tmp_path / "count").write_text("0")
    program = (
        "import sys, time; from pathlib import Path; from tt_jax.runs.lock import *\n"
        "path, left = Path(sys.argv[1]), 20\n"
        "while left:\n"
        "    try:\n"
        "        with locked(path):\n"
        "            n = int((path / 'count').read_text()); time.sleep(0.001)\n"
        "            (path / 'count').write_text(str(n + 1)); left -= 1\n"
        "    except WorkdirInUseError: time.sleep(0.001)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"


def test_a_second_run_disturbs_no_live_one_and_a_killed_one_locks_nothing(
    prepared_path: Path, tmp_path: Path, call: Call
) -> None:
    process = start(tmp_path, prepared_path)
    wait_until(lambda: len(complete(tmp_path)) > 1, process)
    held = f"{tmp_path}: a run is writing it: host {socket.gethostname()}, process {process.pid}, since "
    arguments = (f"--config={CONFIG}:steps", f"--config.data.path={prepared_path}", f"--workdir={tmp_path}")
    assert call.refused("train", *arguments).startswith(held)
    assert call.refused("train", f"--workdir={tmp_path}", f"--data={prepared_path}:eval").startswith(held)
    for said in finish(start_two(tmp_path, prepared_path), code=2):  # all processes of another run say so
        assert held in said
    # Those that read go on.
    assert call("evaluate", f"--workdir={tmp_path}")[0] == 0
    assert call("export", f"--workdir={tmp_path}", f"--out={tmp_path / 'bundle'}")[0] == 0
    assert call("calibrate", f"--workdir={tmp_path}", "--method=isotonic")[0] == 0
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / LOCK).exists()
    process = start(tmp_path, prepared_path)
    wait_until(lambda: str(process.pid) in (tmp_path / LOCK).read_text(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_going_on_with_a_set_is_locked_too(prepared_path: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        tiny.CONFIG,
        data=dataclasses.replace(tiny.CONFIG.data, path=str(prepared_path), batch_size=100),
        train=TrainConfig(epochs=0.0),
    )
    train(config, tmp_path)
    with locked(tmp_path), pytest.raises(WorkdirInUseError):
        go_on(config, tmp_path, [f"{prepared_path}:eval"], StageConfig())
