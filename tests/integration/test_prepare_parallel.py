"""A set made part by part, here or by workers that are killed, is byte for byte the one made in one reading."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.prepare import writer as writer_module
from input_pipeline.prepare.parallel import learn_of_parts, prepare_parts
from input_pipeline.prepare.quarantine import Quarantine
from input_pipeline.prepare.sequential import prepare
from input_pipeline.prepare.vocabulary import learn_vocabularies
from input_pipeline.readers import STRICT, Chunk, Errors, arrow_types, list_files, read
from input_pipeline.runner import Local, OnRay, groups_of
from tests.support import log_files, tiny
from tests.support.paths import ROOT
from tests.support.vocabularies import learning

pytestmark = [pytest.mark.process, pytest.mark.ray]

TYPES = arrow_types(tiny.SCHEMA)
ROWS, BLOCK = 600, 32


@dataclass(frozen=True)
class Reading:
    """Files of every format; those of two parts are another split. In one file a worker dies the first time."""

    source: str
    deadly: str = ""

    def __call__(self, errors: Errors = STRICT, parts: Any = None) -> Iterator[Chunk]:
        for file, row, table in read(self.source, TYPES, errors, parts):
            yield Chunk("eval" if "part=03" in file or "part=11" in file else "train", file, row, table)
            if self.deadly and "part=05" in file:
                die_once(Path(self.deadly) / "reading")


def die_once(flag: Path) -> None:
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class ThenDies:
    """Work whose worker dies, the first time, when it is done and before it has said so."""

    work: Callable[[Any], Any]
    flags: Path

    def __call__(self, item: Any) -> Any:
        found = self.work(item)
        die_once(self.flags / self.work.__name__)
        return found


@dataclass(frozen=True)
class Deadly:
    """A cluster on which a worker is killed in each stage."""

    cluster: OnRay
    flags: Path

    @property
    def workers(self) -> int:
        return self.cluster.workers

    def map(self, work: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        return self.cluster.map(ThenDies(work, self.flags), items)


class Many(Local):
    workers = 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in all formats, a file of each, some rows bad."""
    columns = tiny.columns(np.random.default_rng(4), ROWS)
    columns["clicked"][7] = columns["clicked"][ROWS // 2] = 9
    log, folder = pa.table(columns), tmp_path_factory.mktemp("parts") / "logs"
    step = -(-ROWS // len(log_files.WRITERS))
    for i, (name, write) in enumerate(log_files.WRITERS.items()):
        (folder / f"part={i:02d}").mkdir(parents=True)
        write(log.slice(i * step, step), folder / f"part={i:02d}" / name)
    return folder


@pytest.fixture(scope="module")
def streamed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The set of one reading, with a quarantine."""
    out, quarantine = tmp_path_factory.mktemp("streamed") / "set", Quarantine(5)
    chunks = Reading(str(source))(quarantine)
    ads = tiny.ads_table(np.random.default_rng(0), 20)
    prepare(tiny.SCHEMA, chunks, out, BLOCK, ads, {"more.json": {"a": 1}}, quarantine)
    return content(out)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def by_parts(source: Path, out: Path, runner: Any, deadly: str = "", max_errors: int | None = 5) -> dict[str, bytes]:
    ads = tiny.ads_table(np.random.default_rng(0), 20)
    prepare_parts(
        tiny.SCHEMA, Reading(str(source), deadly), list_files(source), out, runner, BLOCK, ads, {"more.json": {"a": 1}},
        max_errors,
    )  # fmt: skip
    return content(out)


def same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.parametrize("workers", [1, 2, 50])
def test_groups_of_any_size_give_the_bytes_of_one_reading(
    workers: int, source: Path, streamed: dict[str, bytes], tmp_path: Path
) -> None:
    runner = Many()
    runner.workers = workers
    same(by_parts(source, tmp_path / "set", runner), streamed)
    assert {"manifest.json", "samples.json", "quarantine.jsonl", "ads.parquet", "more.json"} < set(streamed)
    assert os.listdir(tmp_path) == ["set"]


def test_files_of_many_blocks_are_cut_in_the_same_places(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_PART_BLOCKS", 3)
    quarantine, out = Quarantine(5), tmp_path / "one"
    prepare(tiny.SCHEMA, Reading(str(source))(quarantine), out, BLOCK, quarantine=quarantine)
    reading = Reading(str(source))
    prepare_parts(tiny.SCHEMA, reading, list_files(source), tmp_path / "b", Many(), BLOCK, max_errors=5)
    same(content(tmp_path / "b"), content(out))
    assert len(list(out.glob("split=train/scenario=standard/*"))) > 2


def test_killed_workers_change_nothing(source: Path, streamed: dict[str, bytes], on_ray: OnRay, tmp_path: Path) -> None:
    flags = tmp_path / "flags"
    flags.mkdir()
    same(by_parts(source, tmp_path / "set", Deadly(on_ray, flags), str(flags)), streamed)
    assert sorted(os.listdir(flags)) == ["_encode", "_write", "reading"]  # after each stage, and within a file
    assert sorted(os.listdir(tmp_path)) == ["flags", "set"]


def error_of(run: Callable[[], Any]) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        run()
    return f"{type(error.value).__name__}: {error.value}"


@pytest.mark.parametrize(
    ("max_errors", "damage", "message"),
    [
        (None, None, "column 'clicked', row 7: expected a label of 0 or 1, got 9"),
        (1, None, "more than 1 bad rows"),
        (0, None, "more than 0 bad rows"),
        (5, "cut", "not readable as Parquet"),
        (5, "key", "column 'user_id': expected strings or other values, as in "),
    ],
)
def test_errors_are_those_of_one_reading(
    max_errors: int | None, damage: str | None, message: str, source: Path, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for file in list_files(source):
        part = logs / Path(file).parent.name
        part.mkdir()
        (part / Path(file).name).write_bytes(Path(file).read_bytes())
    if damage == "cut":
        (logs / "part=99").mkdir()
        (logs / "part=99" / "z.parquet").write_bytes((logs / "part=00" / "log.parquet").read_bytes()[:-9])
    if damage == "key":
        table = pa.table(tiny.columns(np.random.default_rng(0), 9))
        for i, name in enumerate(("x", "y")):  # two of them, in a group of their own: the first is told
            odd = table.set_column(table.column_names.index("user_id"), "user_id", pa.array(range(i, i + 9)))
            log_files.write_parquet(odd, logs / "part=14" / f"{name}.parquet")

    def stream() -> None:
        quarantine = None if max_errors is None else Quarantine(max_errors)
        prepare(tiny.SCHEMA, Reading(str(logs))(quarantine or STRICT), tmp_path / "a", BLOCK, quarantine=quarantine)

    here = error_of(stream)
    assert message in here
    assert "\n" not in here
    for workers in (1, 50):
        runner = Many()
        runner.workers = workers
        assert error_of(lambda runner=runner: by_parts(logs, tmp_path / "b", runner, "", max_errors)) == here
    assert os.listdir(tmp_path) == ["logs"]


def test_vocabularies_of_parts_are_those_of_the_whole(source: Path) -> None:
    schema = learning()
    found = learn_of_parts(schema, Reading(str(source)), list_files(source), Many())
    assert found == learn_vocabularies(schema, Reading(str(source))())


def test_groups_are_consecutive_and_of_about_the_same_bytes(tmp_path: Path) -> None:
    names = []
    for i, size in enumerate((10, 10, 10, 90, 10, 50, 0)):
        names.append(str(tmp_path / f"{i}.csv"))
        Path(names[-1]).write_bytes(b"x" * size)
    found = groups_of(names, 3)
    assert [name for group in found for name in group or ()] == names
    assert [len(group or ()) for group in found] == [3, 1, 3]
    assert groups_of(None, 3) == [None]
    assert len(groups_of(names, 100)) <= 7


RECIPE = """
import dataclasses
from input_pipeline import logs
from tests.support.joined_logs import JOINS, SCHEMA

def schema(source):
    ad = dataclasses.replace(SCHEMA.features[1], hash_size=0, min_count=1)
    return dataclasses.replace(SCHEMA, features=(SCHEMA.features[0], ad, SCHEMA.features[2]))

def read(source, errors=logs.STRICT, parts=None):
    return logs.read_logs(source, SCHEMA, logs.every(3), JOINS, errors, parts)

def parts(source):
    return logs.parts_of_logs(source, JOINS)

def ads(source):
    return logs.ads_of_logs(source, SCHEMA, JOINS)
"""


def test_the_verb_makes_the_same_set_of_joined_logs_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mylogs.py").write_text(RECIPE)
    (tmp_path / "logs").mkdir()
    for day in range(6):
        rows = "".join(f"{u},{10 + u * day % 7},{u % 2}\n" for u in range(20))
        (tmp_path / "logs" / f"day{day}.csv").write_text(f"user,ad,clicked\n{rows}" + "1,2,3,4\n" * (day == 3))
    (tmp_path / "logs" / "ads.csv").write_text("ad,size,bid\n" + "".join(f"{a},{a / 4},0.5\n" for a in range(10, 17)))
    for runner in ("stream", "ray"):
        command = ["prepare", "mylogs.py", "--source=logs", f"--out={runner}", "--on-error=quarantine"]
        run = subprocess.run(
            [sys.executable, "-m", "tt_jax", *command, f"--runner={runner}"], cwd=tmp_path, capture_output=True,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert "left out 1 bad rows" in run.stdout
        assert all(line.startswith("prepare") for line in run.stderr.splitlines()), run.stderr
    same(content(tmp_path / "ray"), content(tmp_path / "stream"))
    assert {"quarantine.jsonl", "ads.parquet"} < set(content(tmp_path / "ray"))


def test_a_recipe_that_is_read_as_a_whole_is_one_part(source: Path, streamed: dict[str, bytes], tmp_path: Path) -> None:
    prepare_parts(tiny.SCHEMA, Reading(str(source)), None, tmp_path / "set", Local(), BLOCK, max_errors=5)
    found = content(tmp_path / "set")
    assert all(found[name] == streamed[name] for name in found if name.endswith("parquet"))
