"""SIGTERM ends a verb that loads or compiles, at once and also as PID 1, where the kernel drops what has no handler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process

MOMENT = 10.0  # s; what takes a tenth, on a busy machine
AS_PID_1 = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "-pf", "--kill-child")


def _can_be_pid_1() -> bool:
    try:
        return subprocess.run([*AS_PID_1, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def _catches(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own."""
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)


@contextmanager
def started(prefix: Sequence[str], *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A Python process, and its id."""
    command = [*prefix, sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            until(lambda: not prefix or bool(children.read_text()), process)
            yield process, int(children.read_text()) if prefix else process.pid
        finally:
            process.kill()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def ends(process: subprocess.Popen[bytes], pid: int, number: int) -> int:
    """The exit code after a signal, which comes within a moment."""
    os.kill(pid, number)
    process.communicate(timeout=MOMENT)
    return process.returncode


pid_1 = pytest.param(AS_PID_1, marks=pytest.mark.skipif(not _can_be_pid_1(), reason="needs unshare"), id="PID 1")


@pytest.mark.parametrize("prefix", [pytest.param((), id="any PID"), pid_1])
@pytest.mark.parametrize(
    ("verb", "number", "code"),
    [
        (("serve", "--bundle=b", "--index=i", "--port=0"), signal.SIGTERM, 0),
        (("serve", "--bundle=b", "--index=i", "--port=0"), signal.SIGINT, 0),
        (("quickstart",), signal.SIGTERM, 143),
    ],
)
def test_from_its_first_moment_on(
    prefix: Sequence[str], verb: Sequence[str], number: int, code: int, tmp_path: Path
) -> None:
    more = [f"--workdir={tmp_path}"] if verb == ("quickstart",) else []
    with started(prefix, "-m", "tt_jax", *verb, *more) as (process, pid):
        until(lambda: _catches(pid, signal.SIGTERM), process)
        assert ends(process, pid, number) == code


@pytest.mark.parametrize("prefix", [pytest.param((), id="any PID"), pid_1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_a_service_loads(prefix: Sequence[str], number: int, tiny_bundle: Path, tiny_index: Path) -> None:
    serve = ["serve", f"--bundle={tiny_bundle}", f"--index={tiny_index}", "--port=0", "--max-k=19"]
    with started(prefix, "-m", "tt_jax", *serve) as (process, pid):
        mapped = Path(f"/proc/{pid}/maps")
        until(lambda: "jaxlib" in mapped.read_text(), process)  # what comes is loading and compiling
        time.sleep(1.0)
        assert ends(process, pid, number) == 0


BUSY = """
import hashlib, os, signal, sys
from tt_jax.cli.signals import end_at_once
end_at_once({signal.SIGTERM: 7})
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in C, like a compilation: no handler of Python's runs
"""
TAKEN = """
import signal, time
from tt_jax.cli.signals import end_at_once
end_at_once({signal.SIGTERM: 7})
signal.signal(signal.SIGTERM, lambda *_: print("other", flush=True))
print("ready", flush=True)
time.sleep(60)
"""


def test_while_c_code_holds_the_main_thread() -> None:
    with started((), "-c", BUSY) as (process, pid):
        assert process.stdout is not None
        process.stdout.readline()
        assert ends(process, pid, signal.SIGTERM) == 7


def test_another_handler_takes_its_place() -> None:
    with started((), "-c", TAKEN) as (process, pid):
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(pid, signal.SIGTERM)
        assert process.stdout.readline() == b"other\n"
        time.sleep(0.2)
        assert process.poll() is None
