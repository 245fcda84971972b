"""A process that ends with a `Batcher` that nobody closed: Python would kill its thread within XLA, which aborts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = """
import asyncio, atexit, sys, threading
from serving import Scorer
from serving.batching.batcher import Batcher
from serving.service.messages import Work

atexit.register(lambda: print("dispatcher" in [thread.name for thread in threading.enumerate()]))  # the last to run

async def main():
    await Batcher(Scorer.load(*sys.argv[1:], max_k=20, warm=False)).submit(Work([{}], 3, None))

asyncio.run(main())
"""


def test_its_thread_ends_before_python_does(tiny_bundle: Path, tiny_index: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tiny_bundle), str(tiny_index)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr[-2000:]
