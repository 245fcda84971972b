"""Every documented procedure with every file in deploy/: swaps by links and by the admin listener, restarts, kills.

The flags are those of the file; directories are in a temporary one, ports are free ones, and less is compiled.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.index.ad_index import AdIndex
from tests.support.deploy_commands import commands
from tests.support.journal_service import MAX_K, QUERY, TOKEN, other_index
from tests.support.paths import ROOT

pytestmark = pytest.mark.process

PLACES = ("%S", "%C", "%d", "/srv", "/models", "/secrets", "/cache")  # directories that the platform gives
ADMINS = {"authorization": f"Bearer {TOKEN}"}


class Deployed:
    """A service as a file in deploy/ runs it, and the links and tokens that the file expects."""

    def __init__(self, name: str, root: Path, bundle: Path, index: Path) -> None:
        self.root, self.bundle = root, bundle
        flags = [self._here(flag) for flag in commands()[name][2:]]
        self.paths = {flag.split("=")[0]: Path(flag.split("=")[1]) for flag in flags if str(root) in flag}
        for flag, path in self.paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if "token" in flag:
                path.write_text(TOKEN)
        self.flags = [re.sub(r"port=\d+", "port=0", flag) for flag in flags]
        self.link(bundle, index)

    def _here(self, flag: str) -> str:
        key, _, value = flag.partition("=")
        return f"{key}={self.root}/{value.lstrip('/%')}" if value.startswith(PLACES) else flag

    def link(self, bundle: Path, index: Path) -> None:
        """Each link takes the place of the old one at once, as `mv -T` does."""
        for flag, path in (("--bundle", bundle), ("--index", index)):
            (new := self.root / "new link").symlink_to(path)
            os.replace(new, self.paths[flag])

    def start(self) -> None:
        """Returns when it serves."""
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tt_jax", "serve", *self.flags, f"--max-k={MAX_K}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.urls, told = dict[str, str](), ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told += line
            if found := re.match(r"(admin|metrics|serving) http://[\d.]+:(\d+)", line):
                self.urls[found[1]] = f"http://127.0.0.1:{found[2]}"
            if "serving" in self.urls:
                return
        raise AssertionError(f"it does not start: {told}")

    def end(self, by: signal.Signals) -> None:
        self.process.send_signal(by)
        self.process.communicate(timeout=60)
        assert by != signal.SIGTERM or self.process.returncode == 0

    def index(self) -> str:
        """The version that answers."""
        headers = ADMINS if "--token-file" in self.paths else {}
        answer = httpx.post(f"{self.urls['serving']}/v1/rank", json={"query": QUERY}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["index"]

    def admin(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.urls['admin']}/admin/{path}", json=body, headers=ADMINS, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def reload(self, expected: str) -> None:
        """SIGHUP, and waits for that version."""
        self.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while self.index() != expected:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture
def deployed(request: pytest.FixtureRequest, tmp_path: Path, tiny_bundle: Path, tiny_index: Path) -> Iterator[Deployed]:
    found = Deployed(request.param, tmp_path, tiny_bundle, tiny_index)
    yield found
    found.process.kill()
    found.process.communicate()


def pair(deployed: Deployed, index: Path, **more: str) -> dict[str, str]:
    return {"bundle": str(deployed.bundle), "index": str(index), **more}


@pytest.mark.parametrize("deployed", sorted(commands()), indirect=True)
def test_a_swap_by_links_then_a_restart_or_a_kill(
    deployed: Deployed, tiny_bundle: Path, tiny_index: Path, tmp_path: Path
) -> None:
    """With a change of an ad before it, where the file has an admin listener."""
    other = other_index(tiny_bundle, tmp_path / "other")
    first, second = (AdIndex.load(path).index_id for path in (tiny_index, other))
    deployed.start()
    assert deployed.index() == first
    if "admin" in deployed.urls:
        first = deployed.admin("ads", {"disable": [int(AdIndex.load(tiny_index).ids[0])]})["version"]
        assert deployed.index() == first
    deployed.link(tiny_bundle, other)
    deployed.reload(second)
    deployed.end(signal.SIGKILL)
    deployed.start()
    assert deployed.index() == second
    deployed.link(tiny_bundle, tiny_index)
    deployed.reload(first)  # its changes are there again
    deployed.end(signal.SIGTERM)


@pytest.mark.parametrize(
    "deployed", [name for name in sorted(commands()) if "--admin" in str(commands()[name])], indirect=True
)
def test_loads_by_the_admin_listener_then_a_restart_or_a_kill(
    deployed: Deployed, tiny_bundle: Path, tiny_index: Path, tmp_path: Path
) -> None:
    """With and without a journal named; a start loads what the links say, with what was changed of that index."""
    other = other_index(tiny_bundle, tmp_path / "other")
    ads = {path: int(AdIndex.load(path).ids[0]) for path in (tiny_index, other)}
    deployed.start()
    first = deployed.admin("ads", {"disable": [ads[tiny_index]]})["version"]
    deployed.admin("load", pair(deployed, other))
    second = deployed.admin("ads", {"disable": [ads[other]]})["version"]
    deployed.end(signal.SIGKILL)
    deployed.start()
    assert deployed.index() == first
    assert deployed.admin("load", pair(deployed, other))["version"] == second
    elsewhere = deployed.admin("load", pair(deployed, tiny_index, journal=str(tmp_path / "elsewhere")))
    assert elsewhere["sequence"] == 0
    third = deployed.admin("ads", {"disable": [ads[tiny_index]]})["version"]
    deployed.reload(first)  # the journal of the command line
    assert deployed.admin("load", pair(deployed, tiny_index, journal=str(tmp_path / "elsewhere")))["version"] == third
    deployed.end(signal.SIGTERM)
    deployed.link(tiny_bundle, other)
    deployed.start()
    assert deployed.index() == second
    assert json.loads(httpx.get(f"{deployed.urls['admin']}/admin/status", headers=ADMINS).text)["left_behind"] != {}
