"""The commands of docs/tutorials/bring_your_own_logs.md, run as they stand there, print what the page says."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process

PAGE = ROOT / "docs" / "tutorials" / "bring_your_own_logs.md"
STEP = re.compile(r"^## (\d+)\. (.*?)(?=^## )", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\b[\da-f]{12}\b|-?\d[\d,]*(\.\d+)?")  # or the beginning of a fingerprint


class Shell:
    """Runs commands in a folder, `tt-jax` and `python` being those of this test."""

    def __init__(self, folder: Path) -> None:
        self.folder, commands = folder, folder / "bin"
        commands.mkdir()
        for name, module in (("python", ""), ("tt-jax", "-m tt_jax")):
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (commands / name).chmod(0o755)
        self.env = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-ec", command], cwd=self.folder, env=self.env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str) -> str:
        process = self.start(command)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{command}\n{output}"
        return output


def said(shown: str, output: str) -> None:
    """Asserts that the lines shown are in the output in this order, up to numbers, widths and what `...` stands for."""
    lines = iter([without_numbers(line) for line in output.splitlines()])
    for line in shown.splitlines():
        pattern = re.escape(without_numbers(line)).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(pattern, found) for found in lines), f"no line {line!r} in\n{output}"


def without_numbers(line: str) -> str:
    return " ".join(NUMBER.sub("#", line).split())


def test_ten_commands_from_a_csv_to_ranked_ads(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        page = PAGE.read_text().replace("8080", str(free.getsockname()[1]))
    (_, make_log), *_ = BLOCK.findall(page)
    steps = [(int(number), BLOCK.findall(rest)) for number, rest in STEP.findall(page)]
    assert [number for number, _ in steps] == list(range(1, 11))
    shell.run(make_log)
    for number, ((kind, command), *shown) in steps[:8]:
        assert kind == "sh"
        output = shell.run(command)
        for _, text in shown:
            said(text, output)
        assert shown or number == 3  # the edit says nothing
    (_, serve), (_, serving) = steps[8][1]
    (_, ask), (_, asked), (_, curl) = steps[9][1]
    service = shell.start(serve)
    try:
        assert service.stdout is not None
        line = service.stdout.readline()
        said(serving, line)
        output = shell.run(ask)
        said(asked, output)
        check_ranking([line.split(maxsplit=2) for line in output.splitlines()], shell.folder / "shop.csv")
        if shutil.which("curl"):
            assert len(json.loads(shell.run(curl))["ads"]) == 3
        os.kill(service.pid, signal.SIGINT)
        assert service.wait(60) == 0
    finally:
        service.kill()
        service.communicate()


def check_ranking(ranked: list[list[str]], log: Path) -> None:
    """By utility, which is the bid of the log times the probability of a click."""
    with log.open() as file:
        bids = {row["ad_id"]: float(row["bid"]) for row in csv.DictReader(file)}
    scores = [float(score) for _, score, _ in ranked]
    assert scores == sorted(scores, reverse=True)
    for ad, score, text in ranked:
        probabilities = json.loads(text.replace("'", '"'))
        assert 0.02 < probabilities["clicked"] < 0.9
        assert 0.02 < probabilities["purchased"] < 0.9
        assert float(score) == pytest.approx(bids[ad] * probabilities["clicked"], abs=2e-3)
