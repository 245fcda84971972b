"""Our TFDS builders: built by the real `tfds build`, read back by name, equal to their source; no TensorFlow."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk, ReadError, arrow_types, read
from input_pipeline.recipes import load
from tests.support.paths import KUAIRAND, ROOT
from tests.support.worlds import CONFIG as _ANY_WORLD
from tt_jax.schema import Schema

pytestmark = pytest.mark.process

WORLD = type(_ANY_WORLD)(users=200, ads=200, advertisers=20, requests_per_day=30, days=4, new_ads_per_day=6)


def _build(name: str, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command `tfds build`, in a process that fails if it imports TensorFlow.

    Not by the launcher of that name: it imports all commands, and one of them needs TensorFlow.
    """
    code = (
        "import sys, simple_parsing\nfrom tensorflow_datasets.scripts.cli import build\n"
        "try: simple_parsing.parse(build.Args, args=sys.argv[1:]).execute()\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(ROOT / "input_pipeline" / "datasets" / name)]
    options = [f"--data_dir={data}", "--file_format=array_record", *arguments]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)


def _chunks(schema: Schema, source: str, splits: tuple[str, ...]) -> Iterator[Chunk]:
    for split in splits:
        for file, row, table in read(f"tfds:{source}:{split}", arrow_types(schema)):
            yield Chunk(split, file, row, table)


def _single_precision(chunk: Chunk) -> Chunk:
    """An Example has no float64."""
    table = chunk.table
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.float32(), safe=False))
    return dataclasses.replace(chunk, table=table)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the data sets are, for `tfds build` and for the reader."""
    import tensorflow_datasets as tfds

    constants = tfds.core.constants  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore")  # of tensorflow_datasets' own making, on import
def test_ads_world_reads_back_equal_to_its_source(data: Path, tmp_path: Path) -> None:
    done = _build("ads_world", data, "--config=tiny")
    assert done.returncode == 0, done.stderr[-3000:]
    recipe = load("adworld")
    schema = recipe.schema(WORLD)
    built = prepare(schema, _chunks(schema, "ads_world/tiny", recipe.SPLITS), tmp_path / "built", 128)
    # Those of the built set come split by split: the same rows of each split in the same order.
    source = sorted(recipe.read(WORLD), key=lambda chunk: recipe.SPLITS.index(chunk.split))
    assert built == prepare(schema, source, tmp_path / "source", 128)
    assert "tensorflow" not in sys.modules
    with pytest.raises(ReadError, match="tfds:ads_world/tiny:nosplit: not readable"):
        list(read("tfds:ads_world/tiny:nosplit"))
    with pytest.raises(ReadError, match="tfds:train: expected tfds:name/config:split"):
        list(read("tfds:train"))


@pytest.mark.filterwarnings("ignore")
def test_kuairand_pure_reads_back_equal_to_its_source(data: Path, tmp_path: Path) -> None:
    few = tmp_path / "manual"
    few.mkdir()
    for side in ("user_features", "video_features_basic", "user_history"):
        (few / f"{side}.parquet").symlink_to(KUAIRAND / f"{side}.parquet")
    pq.write_table(pq.read_table(KUAIRAND / "train.parquet").slice(0, 300), few / "train.parquet")
    done = _build("kuairand_pure", data, f"--manual_dir={few}")
    assert done.returncode == 0, done.stderr[-3000:]
    recipe = load("kuairand")
    splits = tuple(s for s in recipe.SPLITS if s in {c.split for c in recipe.read(few)})
    schema = recipe.schema()
    built = prepare(schema, _chunks(schema, "kuairand_pure", splits), tmp_path / "built", 128)
    source = prepare(schema, map(_single_precision, recipe.read(few)), tmp_path / "source", 128)
    # But for the raw samples: TFDS has no null, and an empty list stands for a list that is missing.
    assert dataclasses.replace(built, beside=()) == dataclasses.replace(source, beside=())
    table: pa.Table = next(iter(read("tfds:kuairand_pure:train", arrow_types(schema))))[2]
    assert table.num_rows


@pytest.mark.filterwarnings("ignore")
def test_kuairand_pure_says_how_to_get_the_data(data: Path, tmp_path: Path) -> None:
    done = _build("kuairand_pure", data, f"--manual_dir={tmp_path / 'none'}")
    assert done.returncode != 0
    assert "https://kuairand.com" in done.stderr
