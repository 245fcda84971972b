"""A run of two processes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.training_process import CONFIG


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(
    workdir: Path, data: Path, *, by_flags: bool = False, each: tuple[str, str] | None = None
) -> list[subprocess.Popen]:
    """The same command twice, each with its place by flags or by variables, and an argument of its own if given."""
    command = [sys.executable, "-m", "tt_jax", "train", f"--config={CONFIG}:two", f"--config.data.path={data}"]
    port, found = free_port(), []
    for index in range(2):
        place = {"RANK": index, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        flags = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={index}"]
        found.append(
            subprocess.Popen(
                [*command, f"--workdir={workdir}", *([each[index]] if each else []), *(flags if by_flags else [])],
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
