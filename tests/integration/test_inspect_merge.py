"""Surveys of parts of a log, merged: what one survey of all of it finds."""

from __future__ import annotations

import pickle
import shutil
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.inspect.label_counts import Roles
from input_pipeline.inspect.report import report_of
from input_pipeline.inspect.statistics import Bounds
from input_pipeline.inspect.survey import Log, Survey, survey, surveys
from input_pipeline.inspect.survey import merged as merged_of
from input_pipeline.readers import Chunk, ReadError
from input_pipeline.runner import Local, OnRay

pytestmark = pytest.mark.ray

ROLES = Roles({"click": "click", "like": "like"}, {"like": "shown"}, "surface", "time")


def odd_log(rng: np.random.Generator, chunks: int) -> list[Chunk]:
    """Chunks whose columns come, go and change their type, some of them empty. Numbers have exact sums."""
    found = []
    for i in range(chunks):
        rows = int(rng.integers(0, 40)) * (rng.random() < 0.9)
        columns: dict[str, Any] = {
            "click": pa.array(rng.integers(0, 2, rows), mask=rng.random(rows) < 0.1),
            "like": rng.integers(0, 2, rows).astype(np.float64),
            "shown": rng.random(rows) < 0.5,
            "surface": pa.array([f"s{n}" for n in rng.integers(0, 4, rows)], pa.string()),
            "time": pa.array(rng.integers(19_000, 19_005, rows), pa.int32()).cast(pa.date32()),
        }
        number = rng.integers(0, 30, rows)
        forms: list[Any] = [number, number / 2, pa.array([str(n) for n in number], pa.string()), pa.nulls(rows),
                            pa.array([[n, n + 1] for n in number], pa.list_(pa.int64())), None]  # fmt: skip
        for name in "abcd":
            form = forms[rng.choice(6, p=[0.6, 0.08, 0.08, 0.08, 0.08, 0.08])]
            if form is not None:
                columns[name] = form
        file = f"{rng.choice(['train', 'eval', 'test'])}-{i // 3}.parquet"
        found.append(Chunk(file.split("-")[0], file, 40 * (i % 3), pa.table(columns)))
    return found


def merged(parts: list[list[Chunk]], bounds: Bounds | None = None) -> Survey:
    """Each part is surveyed on its own, and travels as between processes."""
    surveys = [survey(chunks, ROLES, bounds, part) for part, chunks in enumerate(parts)]
    return reduce(lambda total, later: (total.merge(later), total)[1], pickle.loads(pickle.dumps(surveys)))


@pytest.mark.parametrize("seed", range(8))
def test_parts_are_counted_as_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunks = odd_log(rng, 24)
    expected = report_of(survey(chunks, ROLES), {})
    assert expected["rows"] == sum(len(c.table) for c in chunks)
    assert len(expected["troubles"]) == 4  # of a, b, c and d
    for cuts in (range(1, 24), [12], sorted(rng.choice(24, 5, replace=False))):
        edges = [0, *cuts, 24]
        parts = [chunks[a:b] for a, b in pairwise(edges)]
        assert report_of(merged(parts), {}) == expected


def test_beyond_the_bounds_every_figure_keeps_to_them() -> None:
    bounds = Bounds(distinct=16, frequent=8, sample=50, rows=100, days=3, scenarios=2)
    chunks = odd_log(np.random.default_rng(9), 60)
    one, parts = (report_of(s, {}) for s in (survey(chunks, ROLES, bounds), merged([[c] for c in chunks], bounds)))
    for exact in ("rows", "splits", "labels", "troubles", "duplicates", "sampled_rows"):
        assert parts[exact] == one[exact]
    assert [d["day"] for d in parts["days"]] == [d["day"] for d in one["days"]]
    assert set(parts["scenarios"]) == set(one["scenarios"]) == {"(others)", *sorted(one["scenarios"])[1:]}
    whole = report_of(survey(chunks, ROLES), {})["columns"]
    for name, column in parts["columns"].items():
        assert column["distinct"] == one["columns"][name]["distinct"]
        exact_counts = {t["value"]: t["count"] for t in whole[name]["top"]}
        for top in column["top"]:
            short = exact_counts.get(top["value"], top["count"]) - top["count"]
            assert 0 <= short <= column["top_error"]


def test_a_sample_depends_on_part_and_split_only() -> None:
    bounds = Bounds(sample=30)
    chunks = odd_log(np.random.default_rng(10), 30)
    first, again, other = (
        report_of(merged(parts, bounds), {})["columns"]
        for parts in ([chunks[:7], chunks[7:]], [chunks[:7], chunks[7:]], [chunks[:8], chunks[8:]])
    )
    assert first == again
    assert first != other
    draws = [s._splits["train"]._sample._random.random(3).tolist() for s in map(split_of_part, range(3))]
    assert len({tuple(d) for d in draws}) == 3


def split_of_part(part: int) -> Survey:
    columns = {"click": [1], "like": [1], "shown": [1], "surface": ["a"], "time": [1]}
    return survey([Chunk("train", "f", 0, pa.table(columns))], ROLES, part=part)


def test_a_label_of_two_types_is_an_error() -> None:
    columns = {"click": [1, 0], "like": [1, 0], "shown": [1, 0], "surface": ["a", "b"], "time": [1, 2]}
    texts = columns | {"click": [1.0, 0.5]}
    chunks = [Chunk("all", file, 5, pa.table(c)) for file, c in (("a.csv", columns), ("b.csv", texts))]
    message = "b.csv, row 5: column 'click' is double and was int before"
    with pytest.raises(ReadError, match=message):
        survey(chunks, ROLES)
    with pytest.raises(ReadError, match=message):
        merged([chunks[:1], chunks[1:]])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Files of an odd log."""
    folder = tmp_path_factory.mktemp("log")
    for i, chunk in enumerate(odd_log(np.random.default_rng(3), 12)):
        pq.write_table(chunk.table, folder / f"{chunk.split}-{i:02d}.parquet")
    return Log(str(folder))


def test_files_are_surveyed_by_workers_as_here(log: Log, on_ray: OnRay) -> None:
    assert len(log.parts()) == 12
    here, there = (report_of(merged_of(surveys(log, ROLES, runner), ROLES), {}) for runner in (Local(), on_ray))
    assert here == there
    chunks = [chunk for part in log.parts() for chunk in log.chunks(part)]
    assert here["columns"] == report_of(survey(chunks, ROLES), {})["columns"]
    assert len(here["splits"]) == 3


def test_a_file_that_is_wrong_is_told_by_workers_as_here(log: Log, on_ray: OnRay, tmp_path: Path) -> None:
    shutil.copytree(log.data, tmp_path / "log")
    names = sorted(p.name for p in (tmp_path / "log").iterdir())
    for name in names[4:6]:
        pq.write_table(pa.table({"click": ["yes"]}), tmp_path / "log" / name)
    told = []
    for runner in (Local(), on_ray):
        with pytest.raises(ReadError, match=names[4]) as e:
            merged_of(surveys(Log(str(tmp_path / "log")), ROLES, runner), ROLES)
        told.append(str(e.value))
    assert told[0] == told[1]
