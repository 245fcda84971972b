"""Who may import whom: the floors of the house, and the rooms that third-party packages stay in."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.support.paths import ROOT
from tests.support.wheel import import_packages, project
from tt_jax.io.extras import EXTRAS

PACKAGES = ("tt_jax", "input_pipeline", "serving")

# From the ground up. A file imports only from floors below its own, and from its own room if that is a folder.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("tt_jax/io/", "tt_jax/losses.py", "serving/log_events.py"),
    ("input_pipeline/__init__.py", "input_pipeline/sources/"),
    ("tt_jax/schema/", "tt_jax/config/", "tt_jax/utility.py", "input_pipeline/runner.py"),
    ("tt_jax/metrics/", "serving/error_answer.py", "serving/limits.py", "serving/memory.py"),
    ("tt_jax/features/", "tt_jax/models/", "tt_jax/parallel/", "tt_jax/report/"),
    ("tt_jax/calibration/", "input_pipeline/blocks/", "input_pipeline/adworld/", "serving/http/"),
    ("tt_jax/runs/", "tt_jax/bundle/", "input_pipeline/values/", "input_pipeline/batches.py", "serving/eligibility/"),
    ("tt_jax/evaluation/", "input_pipeline/readers/", "serving/index/", "serving/portable.py"),
    ("input_pipeline/recipes/", "input_pipeline/logs/", "input_pipeline/prepare/", "serving/scoring/"),
    ("input_pipeline/datasets/", "input_pipeline/infer_schema/", "input_pipeline/inspect/", "serving/scorer.py"),
    ("tt_jax/training/", "serving/scorer_updates.py", "serving/batching/"),
    ("tt_jax/compare/", "serving/parity/", "serving/client/", "serving/routing/"),
    ("serving/service/",),
    ("serving/admin/", "serving/console/", "serving/__init__.py"),
    ("tt_jax/cli/", "tt_jax/__init__.py"),
    ("tt_jax/__main__.py",),
)

# Third-party package -> the rooms that may import it.
ROOMS_OF = {
    "grain": ("input_pipeline/batches.py",),
    "tensorflow_datasets": ("input_pipeline/readers/tfds.py", "input_pipeline/datasets/"),
    "orbax": ("tt_jax/runs/checkpoints.py", "tt_jax/bundle/writer.py"),
    "optax": ("tt_jax/training/",),
    "flax": ("tt_jax/models/",),
    "ml_collections": ("tt_jax/config/files.py", "tt_jax/cli/"),
    "pyarrow": (
        "tt_jax/features/",
        "tt_jax/evaluation/adworld/",
        "input_pipeline/",
        "serving/index/parquet_corpus.py",
        "tt_jax/cli/",
    ),
    "litestar": ("serving/",),
    "httptools": ("serving/http/",),
    "uvloop": ("serving/http/server.py",),
    "uvicorn": (),
    "httpx": ("serving/client/",),
    "msgspec": ("serving/", "input_pipeline/readers/", "input_pipeline/values/"),
    "prometheus_client": ("serving/",),
    "tensorboardX": ("tt_jax/runs/metrics_log.py",),
    "tqdm": ("tt_jax/io/progress.py",),
    "ray": ("input_pipeline/runner.py",),
    "matplotlib": ("tt_jax/report/",),
    "jinja2": ("tt_jax/report/",),
    "scipy": (
        "tt_jax/metrics/",
        "tt_jax/calibration/",
        "tt_jax/evaluation/",
        "tt_jax/training/",
        "tt_jax/cli/",
        "serving/routing/shadow.py",
    ),
    "sklearn": (),
    "pandas": (),
    "torch": (),
    "tensorflow": (),
}

# Room -> all that it may import from outside the standard library and the floors below.
ONLY = {
    "tt_jax/io/": {"tqdm"},
    "tt_jax/schema/": {"numpy"},
    "tt_jax/config/": {"ml_collections"},
    "tt_jax/features/": {"numpy", "pyarrow"},
    "tt_jax/losses.py": {"jax", "numpy"},
    "tt_jax/metrics/": {"jax", "numpy", "scipy"},
    "tt_jax/report/": {"jinja2", "markupsafe", "matplotlib"},
    "tt_jax/models/": {"jax", "numpy", "flax"},
    "serving/portable.py": {"jax", "numpy"},
    "serving/parity/profile.py": {"numpy"},
    "serving/client/": {"httpx", "msgspec"},
    "tt_jax/cli/main.py": set(),
}

# What no file of serving/ may reach, not even through others of our files.
NOT_IN_A_SERVICE = (
    "tt_jax.training",
    "tt_jax.cli",
    "tt_jax.bundle.writer",
    "input_pipeline",
    "optax",
    "grain",
)


@dataclass(frozen=True)
class Import:
    """One import statement: of a module, by a file, at its top level or inside a function."""

    file: str
    line: int
    module: str
    top_level: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


@functools.cache
def files() -> dict[str, str]:
    """Module -> file, of everything we ship."""
    paths = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(p.with_suffix("").parts).removesuffix(".__init__"): p.as_posix() for p in paths}


@functools.cache
def imports() -> tuple[Import, ...]:
    """Every import statement of everything we ship, also those inside functions."""
    found = []
    for file in files().values():
        tree = ast.parse((ROOT / file).read_text())
        inside = {
            id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno}: a relative import"
                parts = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [part if part in files() else str(node.module) for part in parts]
            else:
                continue
            found += [Import(file, node.lineno, name, id(node) not in inside) for name in dict.fromkeys(names)]
    return tuple(found)


def is_ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def within(file: str, rooms: Iterable[str]) -> bool:
    return any(file.startswith(room) if room.endswith("/") else file == room for room in rooms)


def place(file: str) -> tuple[int, str]:
    """Floor and room of a file."""
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if within(file, (room,)):
                return floor, room
    pytest.fail(
        f"{file} stands on no floor: give it one in tests/repo/test_imports.py and docs/explanation/architecture.md"
    )


def test_the_walk_sees_lazy_imports_and_submodules():
    lines = [str(i) for i in imports() if not i.top_level]
    assert any("tt_jax/features/columns.py" in line and line.endswith("imports pyarrow") for line in lines)
    assert any("tt_jax/cli/train.py" in line and line.endswith("imports tt_jax.training.loop") for line in lines)
    assert any(i.file == "tt_jax/training/step.py" and i.module == "tt_jax.metrics.streaming" for i in imports())
    assert len(files()) > 40


def test_every_file_stands_on_one_floor():
    for file in files().values():
        place(file)
        assert sum(within(file, (room,)) for rooms in FLOORS for room in rooms) == 1, file


def test_every_room_exists():
    for room in (room for rooms in FLOORS for room in rooms):
        assert (ROOT / room).exists(), room


def test_imports_go_down():
    wrong = []
    for i in imports():
        if is_ours(i.module):
            assert i.module in files(), f"{i}, which does not exist"
            (floor, room), (target, its_room) = place(i.file), place(files()[i.module])
            if not (target < floor or (room == its_room and room.endswith("/"))):
                wrong.append(f"{i}: floor {floor} from floor {target}")
    assert not wrong


def test_no_circle():
    graph: dict[str, set[str]] = {file: set() for file in files().values()}
    for i in imports():
        if is_ours(i.module):
            graph[i.file].add(files()[i.module])
    done: set[str] = set()

    def visit(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, " -> ".join((*path[path.index(file) :], file))
        if file not in done:
            for target in sorted(graph[file]):
                visit(target, (*path, file))
            done.add(file)

    for file in graph:
        visit(file, ())


@pytest.mark.parametrize("package", ROOMS_OF)
def test_a_third_party_package_stays_in_its_rooms(package):
    wrong = [str(i) for i in imports() if i.module.split(".")[0] == package and not within(i.file, ROOMS_OF[package])]
    assert not wrong


def test_every_package_that_we_import_is_declared():
    bare = import_packages(project()["dependencies"])
    declared = bare | {package for told in EXTRAS.values() for package in told} | {"markupsafe"}  # of jinja2
    used = {i.module.split(".")[0] for i in imports() if not is_ours(i.module)} - set(sys.stdlib_module_names)
    assert used <= declared


@pytest.mark.parametrize("room", ONLY)
def test_a_plain_room_imports_nothing_else(room):
    for i in imports():
        if within(i.file, (room,)) and not is_ours(i.module):
            package = i.module.split(".")[0]
            assert package in ONLY[room] or package in sys.stdlib_module_names, str(i)


def test_a_service_reaches_neither_training_nor_its_packages():
    reached = {file: "" for file in files().values() if file.startswith("serving/")}
    queue = list(reached)
    while queue:
        file = queue.pop()
        for i in (i for i in imports() if i.file == file):
            for banned in NOT_IN_A_SERVICE:
                assert not f"{i.module}.".startswith(f"{banned}."), f"{i}, reached{reached[file]}"
            if is_ours(i.module) and files()[i.module] not in reached:
                reached[files()[i.module]] = f"{reached[file]} through {file}"
                queue.append(files()[i.module])


def test_pyarrow_is_imported_lazily_where_a_service_runs():
    wrong = [str(i) for i in imports() if i.module.startswith("pyarrow") and i.top_level]
    assert all(line.startswith(("input_pipeline/", "tt_jax/evaluation/adworld/")) for line in wrong), wrong


HELP = """
import json, pkgutil, sys
import tt_jax.cli
from tt_jax.cli.main import VERBS, main
try:
    main(["--help"])
except SystemExit as e:
    code = e.code
help_modules = sorted(sys.modules)
import importlib
for verb in VERBS:
    importlib.import_module(f"tt_jax.cli.{verb}")
print()
print(json.dumps([code, help_modules, sorted(sys.modules)]))
"""
HEAVY = {
    "numpy",
    "jax",
    "flax",
    "pyarrow",
    "orbax",
    "optax",
    "grain",
    "ml_collections",
    "absl",
    "litestar",
    "matplotlib",
    "jinja2",
    "tensorboardX",
}


def test_help_imports_nothing_heavy_nor_does_the_module_of_a_verb():
    out = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    code, help_modules, verb_modules = json.loads(out.splitlines()[-1])
    assert code == 0
    assert "usage: tt-jax VERB" in out
    assert not HEAVY & set(help_modules)
    assert not HEAVY & set(verb_modules)
