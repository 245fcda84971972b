"""A disk that takes no more (a limit on a file's size stands in for it): one clear line, nothing half written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from tests.test_kill import CONFIG, ROOT, complete

DATA = ROOT / ".." / "shared" / "data" / "kuairand_pure"


def run(limit: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A verb in a process that can write no file larger than `limit` bytes."""
    return subprocess.run(
        [sys.executable, "-m", "tt_jax", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def test_prepare_leaves_nothing(tmp_path: Path) -> None:
    done = run(400_000, "prepare", "kuairand", f"--source={DATA}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr.startswith("tt-jax: error: ")
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert ".parquet" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_ends_the_run_and_is_no_checkpoint(prepared_path: Path, tmp_path: Path) -> None:
    data = f"--config.data.path={prepared_path}"
    done = run(20_000, "train", f"--config={CONFIG}:steps", data, f"--workdir={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("tt-jax: error: ")
    assert "/checkpoints/20" in done.stderr
    assert "Traceback" not in done.stderr
    assert complete(tmp_path) == []


def test_a_record_of_a_run_that_does_not_fit_is_named_and_not_left_behind(prepared_path: Path, tmp_path: Path) -> None:
    data = f"--config.data.path={prepared_path}"
    done = run(1000, "train", f"--config={CONFIG}:steps", data, f"--workdir={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"tt-jax: error: {tmp_path}/config.json: cannot be written: [Errno 27] File too large\n"
    assert list(tmp_path.iterdir()) == []
