"""The client of threads in processes of its own: after a fork, and at the end of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.scorer import Scorer
from serving.service.app import create_app
from tests.support.paths import ROOT
from tests.support.service_calls import running

pytestmark = pytest.mark.process

_CALLS = """
import os, sys
from serving.client import Client

client = Client(sys.argv[1], deadline_s=60)
print(len(client.rank({}, k=1).ads), flush=True)
if pid := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
else:
    print(len(client.rank({}, k=2).ads), flush=True)
"""


def test_a_forked_process_calls_too_and_no_process_waits_for_its_client(tiny_bundle: Path, tiny_index: Path) -> None:
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    with running(create_app(scorer)) as (host, port):
        command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", _CALLS]  # of os.fork
        command.append(f"http://{host}:{port}")
        out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (out.stdout, out.stderr, out.returncode) == ("1\n2\n", "", 0)


_NO_DESCRIPTOR = """
import os, resource
from serving.client import Client, NoAnswerError, Retries

client = Client("http://127.0.0.1:9", deadline_s=5, retries=Retries(attempts=1))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for _ in range(2):
    try:
        client.rank({})
    except NoAnswerError as e:
        print("Too many open files" in str(e), flush=True)
    while taken:
        os.close(taken.pop())
client.close()
"""


def test_without_a_descriptor_for_its_loop_a_call_fails_and_the_next_one_is_as_ever() -> None:
    command = [sys.executable, "-c", _NO_DESCRIPTOR]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (out.stdout, out.returncode) == ("True\nFalse\n", 0)  # on stderr, asyncio of a loop that it half made
