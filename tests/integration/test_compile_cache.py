"""The directory of compiled programs: a start from it answers the same, and finds nothing there that is damaged."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jax
import pytest

from serving.scoring import compile_cache
from serving.scoring.compile_cache import CompileCache
from tests.support.cli import Call
from tests.support.service_calls import some_queries
from tests.support.serving_process import ServingProcess
from tt_jax.io.publish import MANIFEST

pytestmark = pytest.mark.process


def answers_of_a_start(bundle: Path, index: Path, cache: Path) -> Any:
    """What a service with the cache answers, before it ends by SIGTERM."""
    server = ServingProcess(bundle, index, "--max-k=20", f"--compile-cache={cache}")
    try:
        bodies = [{"queries": some_queries(n, seed=n), "k": 20} for n in (1, 8, 32)]
        answers = [httpx.post(f"{server.url}/v1/rank", json=body, timeout=60).json() for body in bodies]
        server.process.send_signal(signal.SIGTERM)
        _, err = server.process.communicate(timeout=60)
        assert (server.process.returncode, "WARNING" in err, "ERROR" in err) == (0, False, False), err
        return answers
    finally:
        server.kill()


def files(cache: Path) -> dict[Path, tuple[int, bytes]]:
    """When each was last written, and its content."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in cache.rglob("*") if p.is_file() and p.name != MANIFEST}


def test_a_start_from_it_answers_the_same_and_mends_it(tiny_bundle: Path, tiny_index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    first = answers_of_a_start(tiny_bundle, tiny_index, cache)
    before = files(cache)
    assert sum(p.name.startswith("jit_best") for p in before) == 6  # all ads, and lists, by 1, 8 and 32 queries
    cut, changed, *_ = sorted(before)
    cut.write_bytes(before[cut][1][:100])  # as a kill leaves it
    changed.write_bytes(before[changed][1][:-1] + b"?")
    cut.with_name("unknown-cache").write_bytes(b"?")
    assert answers_of_a_start(tiny_bundle, tiny_index, cache) == first
    after = files(cache)
    assert set(after) == set(before)
    assert {p for p in before if after[p] != before[p]} <= {cut, changed}  # nothing else was compiled again
    assert after[cut][1] != before[cut][1][:100]
    assert after[changed][1] != before[changed][1][:-1] + b"?"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], CompileCache]:
    """Makes one that this process does not use."""
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    return CompileCache


def test_only_what_was_kept_is_trusted(tmp_path: Path, made: Callable[[Path], CompileCache]) -> None:
    cache = made(tmp_path)
    (folder,) = tmp_path.iterdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    cache.keep()
    (folder / "d").write_bytes(b"compiled later, and never kept")
    (folder / "b").write_bytes(b"?")
    made(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["a", "c", MANIFEST]
    for text in ("", "{", '{"files": [{"path": "a"}]}', json.dumps({"files": []})):
        (folder / "a").write_bytes(b"a")
        (folder / MANIFEST).write_text(text)
        made(tmp_path)
        assert [p.name for p in folder.iterdir()] == [MANIFEST], text


def test_what_another_version_kept_is_told_and_not_trusted(
    tmp_path: Path, made: Callable[[Path], CompileCache], caplog: pytest.LogCaptureFixture
) -> None:
    """It can be compiled anew, so no start ends for it."""
    cache = made(tmp_path)
    (folder,) = tmp_path.iterdir()
    (program := folder / "program").write_bytes(b"compiled")
    cache.keep()
    made(tmp_path)
    assert program.exists()
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2, "unheard_of": 1}))
    with caplog.at_level(logging.WARNING):
        made(tmp_path)
    assert not program.exists()
    assert "expected 'tt-jax compile cache' version 1, found 'tt-jax compile cache' version 2" in caplog.text


def test_it_is_bounded(tmp_path: Path, made: Callable[[Path], CompileCache], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "_MOST_BYTES", 250)
    cache = made(tmp_path)
    (folder,) = tmp_path.iterdir()
    for i, name in enumerate("dacb"):
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (i, i))
    cache.keep()
    assert sorted(p.name for p in folder.iterdir()) == ["b", "c", MANIFEST]


def test_a_failure_to_keep_is_told_and_ends_nothing(
    tmp_path: Path, made: Callable[[Path], CompileCache], caplog: pytest.LogCaptureFixture
) -> None:
    cache = made(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    cache.keep()
    assert f"compile_cache outcome=failed reason={json.dumps('[Errno 2]')[:-1]}" in caplog.text
    assert str(tmp_path / "cache") in caplog.text


def test_what_a_full_disk_cut_off_is_told_and_not_trusted(
    tmp_path: Path, made: Callable[[Path], CompileCache], caplog: pytest.LogCaptureFixture
) -> None:
    cache = made(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "jit_f-1").write_bytes(b"whole")
    cache.keep()
    (folder / "jit_f-2").write_bytes(b"who")  # as JAX leaves it
    reason = "Error writing persistent compilation cache entry for 'jit_f': OSError: [Errno 28] No space left on device"
    logging.getLogger("py.warnings").warning(f"compiler.py:833: UserWarning: {reason}\n  warnings.warn(\n")
    assert f"{folder}: a compiled program is not kept: for 'jit_f': OSError: [Errno 28] No space" in caplog.text
    assert "UserWarning" not in caplog.text
    cache.keep()
    assert [p.name for p in made(tmp_path)._files.iterdir() if p.name != MANIFEST] == ["jit_f-1"]


def test_a_directory_that_others_can_write_is_refused(
    tiny_bundle: Path,
    tiny_index: Path,
    tmp_path: Path,
    call: Call,
) -> None:
    tmp_path.chmod(0o770)
    told = call.refused("serve", f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--compile-cache={tmp_path}")
    assert told.startswith(f"{tmp_path}: what is in it is run: expected a directory that belongs to user ")
    assert told.endswith("mode 770")
