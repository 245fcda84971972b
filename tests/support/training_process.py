"""`tt-jax train` as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from tests.support.paths import ROOT

CONFIG = ROOT / "tests" / "support" / "run_configs.py"


def start(workdir: Path, data: Path, arg: str = "steps") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tt_jax", "train", f"--config={CONFIG}:{arg}", f"--config.data.path={data}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def complete(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints, seen from outside."""
    return [int(p.name) for p in (workdir / "checkpoints").glob("*") if re.fullmatch(r"\d+", p.name)]


def wait_until(condition, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
