"""The commands of docs/how-to/serve_several_models.md are run as they stand there, on tiny models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "how-to" / "serve_several_models.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(TOML,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
FREE = "--port=0"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def folder(scenario_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the paths of the page lead to the tiny models."""
    here = tmp_path_factory.mktemp("page")
    (here / "runs" / "quickstart").mkdir(parents=True)
    for name in ("standard", "shopping"):
        (here / "runs" / "quickstart" / name).symlink_to(scenario_pairs / name)
    (here / "runs" / "better").symlink_to(scenario_pairs / "better")
    (here / "journals").mkdir()
    (here / "token").write_text("a-token-of-the-tests\n")
    (here / "models.toml").write_text(TOML.replace("user_id", "user"))  # a feature of the tiny models
    return here


@contextmanager
def serving(command: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A service by a command of the page: its first line, and what the page's ports are."""
    words = (
        command.replace("\\\n", " ").replace("--port=8080", "--port=0").replace("--admin-port=8081", "--admin-port=0")
    )
    program = ["-W", "error", "-m", "tt_jax", *words.split()[1:], "--max-k=20"]
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ports = {}
        for name in (*(["admin"] if "--admin-port" in words else []), "serving"):
            line = process.stdout.readline()
            found = re.match(rf"{name} http://127\.0\.0\.1:(\d+)", line)
            assert found, line + process.communicate()[1]
            ports["8081" if name == "admin" else "8080"] = found[1]
        yield line, ports
    finally:
        process.kill()
        process.communicate()


def shell(block: str, folder: Path, ports: dict[str, str]) -> list[dict]:
    """What each command of a block answers."""
    for port, ours in ports.items():
        block = block.replace(f"localhost:{port}", f"127.0.0.1:{ours}")
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line]
    return [json.loads(subprocess.check_output(c, shell=True, cwd=folder, text=True)) for c in commands]


def fingerprints(folder: Path) -> dict[str, str]:
    names = {"standard": "quickstart/standard", "shopping": "quickstart/shopping", "better": "better"}
    manifests = {name: folder / "runs" / path / "bundle" / "manifest.json" for name, path in names.items()}
    return {name: json.loads(path.read_text())["fingerprint"] for name, path in manifests.items()}


def test_a_model_for_each_scenario(folder: Path) -> None:
    known = fingerprints(folder)
    with serving(SHELL[0], folder) as (line, ports):
        assert f"model standard {known['standard'][:12]}" in line
        assert f"model shopping {known['shopping'][:12]}" in line
        answers = shell(SHELL[1], folder, ports)
    assert [answer["bundle"] for answer in answers] == [known["shopping"], known["standard"]]
    assert [len(answer["ads"]) for answer in answers] == [3, 3]


def test_a_canary(folder: Path) -> None:
    with serving(SHELL[2], folder) as (_, ports):
        (status,) = shell(SHELL[3], folder, ports)
        assert status["weights"] == {"shopping.1": 50.0, "shopping.2": 50.0}
        found = {
            httpx.post(f"http://127.0.0.1:{ports['8080']}/v1/rank", content=b'{"query": {}, "k": 1}').json()["bundle"]
            for _ in range(40)
        }
    assert found == {fingerprints(folder)[name] for name in ("shopping", "better")}


def test_a_shadow(folder: Path) -> None:
    with serving(SHELL[4], folder) as (_, ports):
        url, end, compared = f"http://127.0.0.1:{ports['8080']}", time.monotonic() + 60, 0.0
        while not compared and time.monotonic() < end:
            httpx.post(f"{url}/v1/rank", content=b'{"query": {}, "k": 5}').raise_for_status()
            (count,) = re.findall(
                r'tt_jax_shadow_requests_total\{.*"compared"\} (\S+)', httpx.get(f"{url}/metrics").text
            )
            compared = float(count)
        text = httpx.get(f"{url}/metrics").text
    assert compared
    for metric in re.findall(r"^\| `(tt_jax_shadow_\w+)", PAGE, re.MULTILINE):
        assert metric in text


def test_the_file(folder: Path) -> None:
    command = re.search(r"`(tt-jax serve --models=models.toml)`", PAGE)
    assert command
    with serving(f"{command[1]} --port=8080", folder) as (line, ports):
        for pair in ("standard", "shopping.1", "shopping.2", "shopping.shadow"):
            assert f"model {pair} " in line
        answer = httpx.get(f"http://127.0.0.1:{ports['8080']}/v1/model?model=shopping").json()
    assert answer["bundle"] == fingerprints(folder)["shopping"]
    assert (folder / "journals" / "standard").is_dir()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --bundle and --index, or --model for each model, or --models, got none"),
        (["--bundle=b"], "expected --bundle and --index, or --model for each model, or --models, got --bundle"),
        (["--bundle=b", "--index=i", "--model", "a=b,i"], "got --bundle, --index, --model"),
        (["--model", "a=b,i", "--deltas=d"], "--deltas=d: expected --bundle and --index"),
        (["--model", "a=b"], "--model a=b: expected pairs BUNDLE,INDEX, got 1 directories in 'b'"),
        (["--models=none.toml"], "none.toml"),
    ],
)
def test_wrong_flags_are_told_in_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tt_jax", "serve", *flags]
    ran = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
