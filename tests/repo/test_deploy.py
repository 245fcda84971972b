"""The files in deploy/: every flag, path, port and command in them is one that there is."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from serving.scorer import Scorer
from serving.service.app import create_app
from tests.support.deploy_commands import DEPLOY, commands, dockerfile, manifests, pod, unit
from tests.support.paths import ROOT
from tt_jax.cli import serve
from tt_jax.cli.main import main

PAGE = (ROOT / "docs" / "how-to" / "serve.md").read_text()


def parsed(name: str) -> argparse.Namespace:
    program, verb, *flags = commands()[name]
    assert (Path(program).name, verb) == ("tt-jax", "serve")
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    serve.add_arguments(parser)
    return parser.parse_args(flags)  # raises for a flag or a value that is none


@pytest.mark.parametrize("name", ["unit", "docker", "kubernetes"])
def test_the_flags_are_those_of_the_service(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = parsed(name)
    assert args.token_file
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    told = capsys.readouterr().out
    assert [flag for flag in re.findall(r"--[a-z-]+", " ".join(commands()[name])) if flag not in told] == []


def test_the_unit_drains_and_reloads() -> None:
    service, args = unit()["Service"], parsed("unit")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (service["KillSignal"], service["Restart"]) == ("SIGTERM", "on-failure")
    assert float(service["TimeoutStopSec"]) > args.grace_s
    assert str(args.journal).startswith(f"%S/{service['StateDirectory']}/")
    assert str(args.compile_cache) == f"%C/{service['CacheDirectory']}"
    assert service["CacheDirectoryMode"] == "0700"  # others may not write what is run
    credentials = [value.split(":")[0] for key, value in _pairs() if key == "LoadCredential"]
    assert sorted(credentials) == sorted(path.name for path in (args.token_file, args.admin_token_file))


def _pairs() -> list[tuple[str, str]]:
    lines = (DEPLOY / "tt-jax.service").read_text().splitlines()
    return [(key, value) for line in lines if (parts := line.partition("="))[1] for key, _, value in [parts]]


def test_the_pod_is_probed_where_the_service_answers(warm_scorer: Scorer) -> None:
    args, (container,), service = parsed("kubernetes"), pod()["containers"], manifests()["Service"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": args.port, "metrics": args.metrics_port}
    routes = {
        route.path: sorted(map(str, route.methods))
        for route in create_app(warm_scorer).routes
        if hasattr(route, "methods")
    }
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    for probe in probes.values():
        assert "GET" in routes[probe["path"]]
        assert probe["port"] in ports
    assert probes["livenessProbe"]["path"] == "/health/live"  # not ready is no reason to be killed
    assert [port["targetPort"] for port in service["ports"]] == ["http"]
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]
    assert service["selector"].items() <= labels["labels"].items()
    assert int(labels["annotations"]["prometheus.io/port"]) == args.metrics_port
    pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod()["terminationGracePeriodSeconds"] > pause + args.grace_s
    assert container["resources"]["limits"] == container["resources"]["requests"]  # whole cores, its own


def test_the_pod_may_do_little_and_finds_its_files() -> None:
    args, (container,) = parsed("kubernetes"), pod()["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod()["securityContext"]["runAsNonRoot"] is True
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod()["volumes"]}
    for path in (args.bundle, args.index, args.token_file, args.compile_cache):
        assert str(path.parent) in mounts
    (user,) = [rest for name, rest in dockerfile() if name == "USER"]
    assert user == f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}"


def test_the_image_installs_as_the_readme_and_its_commands_run() -> None:
    (install, *rest) = [rest for name, rest in dockerfile() if name == "RUN"]
    readme = re.search(r'pip install (-c constraints\.txt) -e "\.\[test\]"', (ROOT / "README.md").read_text())
    assert readme
    assert install.startswith("pip install ")
    assert install.endswith(f" {readme[1]} .")
    for line in (rest for name, rest in dockerfile() if name == "COPY"):
        *sources, _ = line.split()
        assert [source for source in sources if not (ROOT / source).exists()] == []
    copied = " ".join(rest for name, rest in dockerfile() if name == "COPY").split()
    packages = re.search(r"include = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert packages
    assert {name.strip(' "*') for name in packages[1].split(",")} <= set(copied)
    for command in rest:
        words = shlex.split(command)
        start = [sys.executable, "-m", "tt_jax"] if words[0] == "tt-jax" else [sys.executable]
        run = subprocess.run([*start, *words[1:]], capture_output=True, text=True, cwd=ROOT)
        assert run.returncode == 0, run.stderr


def test_the_page_tells_of_each_file() -> None:
    for path in DEPLOY.iterdir():
        assert f"../deploy/{path.name}" in PAGE
