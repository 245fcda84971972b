"""A disk that takes no more (a limit on a file's size stands in for it): one clear line, nothing half written."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.training_process import CONFIG, complete
from tt_jax.io.disk_full import DiskFullError, writing

pytestmark = pytest.mark.process

DATA = ROOT / ".." / "shared" / "data" / "kuairand_pure"


LIMITED = (
    "import os, resource, sys; limit = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
    "os.execv(sys.executable, [sys.executable, '-m', 'tt_jax', *sys.argv[2:]])"
)


def run(limit: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A verb in a process that can write no file larger than `limit` bytes."""
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    # Compiled programs would be cut too, and read by the tests that follow.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_prepare_leaves_nothing(tmp_path: Path) -> None:
    done = run(400_000, "prepare", "kuairand", f"--source={DATA}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("prepare "))  # of a slow machine
    assert line.startswith("tt-jax: error: ")
    assert "cannot be written" in line
    assert ".parquet" in line
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_ends_the_run_and_is_no_checkpoint(prepared_path: Path, tmp_path: Path) -> None:
    data = f"--config.data.path={prepared_path}"
    done = run(20_000, "train", f"--config={CONFIG}:steps", data, f"--workdir={tmp_path}")
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line == f"tt-jax: error: {tmp_path}/checkpoints/20: cannot be written: [Errno 27] File too large"
    assert "Traceback" not in done.stderr
    assert complete(tmp_path) == []


def test_a_log_that_does_not_fit_is_named(prepared_path: Path, tmp_path: Path) -> None:
    data, rest = f"--config.data.path={prepared_path}", "--config.train.save_every=0"
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n' * 3000)  # the room that it has is used up
    done = run(36_000, "train", f"--config={CONFIG}:steps", data, rest, f"--workdir={tmp_path}")
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line == f"tt-jax: error: {tmp_path}/metrics.jsonl: cannot be written: [Errno 27] File too large"


def test_events_that_do_not_fit_end_the_run(prepared_path: Path, tmp_path: Path) -> None:
    """They grow as fast as the log, and the thread that writes them ends without a word."""
    data, rest = f"--config.data.path={prepared_path}", "--config.train.save_every=0"
    log = "--config.train.log_every=1"
    done = run(8000, "train", f"--config={CONFIG}:steps", data, rest, log, f"--workdir={tmp_path}")
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("tt-jax: error: "))
    assert re.search(rf"{tmp_path}/(tensorboard|metrics.jsonl): cannot be written: .* File too large$", line)


def test_a_bundle_and_an_index_that_do_not_fit_are_named(tiny_bundle: Path, told_run: Path, tmp_path: Path) -> None:
    ads = tmp_path / "ads.parquet"
    pq.write_table(tiny.ads_table(np.random.default_rng(0), 400), ads)
    for arguments in (
        ("export", f"--workdir={told_run}"), ("index", f"--bundle={tiny_bundle}", f"--ads={ads}"),
    ):  # fmt: skip
        done = run(5000, *arguments, f"--out={tmp_path / 'out'}")
        assert done.returncode == 2, done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"tt-jax: error: {tmp_path}/"), line
        assert line.endswith("cannot be written: [Errno 27] File too large")
        assert [p.name for p in tmp_path.iterdir()] == ["ads.parquet"]


def test_what_no_space_is_called_and_what_to_do() -> None:
    of_a_library = RuntimeError("RESOURCE_EXHAUSTED: Error writing a/b: No space left on device [code 28]" + "x" * 400)
    with_a_file = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "w/inner")
    for raised, expected in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "w: cannot be written: [Errno 28] No space left on device"),
        (of_a_library, "w: cannot be written: [Errno 28] No space left on device"),
        (with_a_file, "w/inner: cannot be written: [Errno 122] Disk quota exceeded"),
    ):
        with pytest.raises(DiskFullError) as error, writing(Path("outer")), writing(Path("w")):
            raise raised
        assert str(error.value) == f"{expected}; make room, then the same command again"
    for other in (OSError(errno.EACCES, os.strerror(errno.EACCES)), ValueError("no space"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as unchanged, writing(Path("w")):
            raise other
        assert unchanged.value is other


def test_a_record_of_a_run_that_does_not_fit_is_named_and_not_left_behind(prepared_path: Path, tmp_path: Path) -> None:
    data = f"--config.data.path={prepared_path}"
    done = run(1000, "train", f"--config={CONFIG}:steps", data, f"--workdir={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"tt-jax: error: {tmp_path}/config.json: cannot be written: [Errno 27] File too large\n"
    assert list(tmp_path.iterdir()) == []
