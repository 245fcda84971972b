"""The wheel of this checkout, and environments that have it and only what one of its extras asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

NAME = "tt-jax"
SHIPPED = ("tt_jax", "input_pipeline", "serving")
_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def project() -> dict[str, Any]:
    """The `project` table of `pyproject.toml`."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build_wheel(folder: Path) -> Path:
    """Builds the wheel of a copy of the checkout, so that what earlier builds left is not in it."""
    source = folder / "source"
    for name in (*SHIPPED, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={folder}", str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def distributions(extras: tuple[str, ...]) -> set[str]:
    """Names of all distributions that a bare install, or one with extras, brings; this one is not among them."""
    found: set[tuple[str, str]] = set()
    queue = [Requirement(f"{NAME}[{','.join(extras)}]")]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                needed = [Requirement(text) for text in _requirements(name, extra)]
                queue += [n for n in needed if n.marker is None or n.marker.evaluate({"extra": extra})]
    return {name for name, _ in found} - {NAME}


def _requirements(name: str, extra: str) -> list[str]:
    if name != NAME:
        return distribution(name).requires or []
    return project()["optional-dependencies"][extra] if extra else project()["dependencies"]


def import_packages(requirements: list[str]) -> set[str]:
    """Import packages of distributions: by their metadata, or by the same name where one is not installed."""
    by_package = packages_distributions()
    found = set()
    for name in (canonicalize_name(Requirement(text).name) for text in requirements):
        named = {p for p, d in by_package.items() if name in map(canonicalize_name, d) and not p.startswith("_")}
        found |= named or {name}
    return found - {canonicalize_name(NAME)}


class Environment:
    """A Python of its own with the wheel and the packages of some extras, which are those of this environment."""

    def __init__(self, folder: Path, wheel: Path, extras: tuple[str, ...] = ()) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        for name in distributions(extras):
            found = distribution(name)
            for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
                if not (packages / top).exists():
                    (packages / top).symlink_to(str(found.locate_file(top)))
        install = [sys.executable, "-m", "pip", f"--python={folder}/bin/python", "install", "--quiet", "--no-deps"]
        subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True, text=True)

    def run(self, *command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment in a directory outside the checkout; warnings are not errors here."""
        assert not cwd.is_relative_to(ROOT)
        kept = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
        program = str(self.folder / "bin" / command[0])
        return subprocess.run([program, *command[1:]], cwd=cwd, env=kept | variables, capture_output=True, text=True)
