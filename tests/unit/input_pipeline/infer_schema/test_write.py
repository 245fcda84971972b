"""`tt-jax init`: what it guesses of small logs, and that what it writes prepares and trains as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.infer_schema.write import InferredRecipe, infer_recipe
from input_pipeline.readers import ReadError
from tests.support.public_api import imported_privately
from tt_jax.cli.main import main
from tt_jax.cli.python_file import load_python
from tt_jax.schema import Feature

ROWS, USERS, ADS = 3000, 40, 30
START = 1_700_000_000
SMALL_MODEL = (
    "--config.precision=f32",
    "--config.model.kind=mlp",
    "--config.model.mlp=8",
    "--config.model.output_dim=4",
)


def log_columns() -> dict[str, Any]:
    """A log of clicks that depend on user and ad, with a leak, and one column of nearly every sort."""
    rng = np.random.default_rng(0)
    user, ad = rng.integers(0, USERS, ROWS // 3).repeat(3), rng.integers(0, ADS, ROWS)
    click = rng.random(ROWS) < 0.1 + 0.5 * (user % 5 == ad % 5)
    purchase = click & (rng.random(ROWS) < 0.3)
    age = rng.integers(18, 80, USERS).astype(float)
    return {
        "request_id": np.arange(ROWS) // 3 + 10**17,
        "user_id": [f"u{u}" for u in user],
        "ad_id": ad + 500,
        "ts": START + np.arange(ROWS) * 60,
        "surface": np.array(["feed", "search", "story"])[rng.choice(3, ROWS, p=[0.7, 0.298, 0.002]).repeat(3)[:ROWS]],
        "age": [None if u % 7 == 0 else age[u] for u in user],
        "spent": np.exp(rng.normal(0, 2, USERS))[user],
        "country": np.array(["de", "fr", "jp"])[user % 3],
        "brand": [f"brand {a % 6}" for a in ad],
        "size_code": rng.integers(0, 900, ADS)[ad] + 10**6,
        "is_click": click.astype(int),
        "purchased": purchase.astype(int),
        "watch_time_ms": rng.exponential(1000, ROWS),
        "landing": click * 3.0 + rng.random(ROWS),
        "position": rng.integers(0, 3, ROWS),
        "version": ["v1"] * ROWS,
        "note": [f"free text {i}" for i in range(ROWS)],
    }


@pytest.fixture(scope="module")
def parquet_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of a log with lists, and a table of ads beside them."""
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(1)
    columns = log_columns()
    columns["recent_ads"] = [(500 + rng.integers(0, ADS, n)).tolist() for n in rng.integers(0, 9, ROWS)]
    columns["topics"] = [[f"t{i}" for i in rng.integers(0, 12, n)] for n in rng.integers(1, 4, ROWS)]
    table = pa.table(columns)
    pq.write_table(table.slice(0, 1400), folder / "day1.parquet")
    pq.write_table(table.slice(1400), folder / "day2.parquet")
    vectors = [rng.normal(size=4).tolist() for _ in range(ADS)]
    side = {"ad_id": np.arange(ADS) + 500, "title_embedding": vectors, "bid": rng.random(ADS)}
    pq.write_table(pa.table(side), folder / "creatives.parquet")
    return folder


@pytest.fixture(scope="module")
def csv_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log as CSV, its lists as text, its time as ISO text."""
    path = tmp_path_factory.mktemp("csv") / "clicks.csv"
    rng = np.random.default_rng(2)
    columns = log_columns()
    columns["ts"] = [str(t) for t in np.array(columns["ts"], "datetime64[s]")]
    columns["topics"] = ["|".join(f"t{i}" for i in rng.integers(0, 12, n)) for n in rng.integers(1, 4, ROWS)]
    csv.write_csv(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def starter(parquet_log: Path) -> InferredRecipe:
    return infer_recipe(str(parquet_log), Path("mine.py"))


def kinds(starter: InferredRecipe, tower: str) -> dict[str, str]:
    return {f.name: f.kind for f in starter.schema.features if f.tower == tower}


def test_kinds_and_towers(starter: InferredRecipe) -> None:
    assert kinds(starter, "query") == {
        "user_id": "categorical", "surface": "categorical", "age": "numeric", "spent": "numeric",
        "country": "categorical", "recent_ads": "sequence", "topics": "bag",
    }  # fmt: skip
    assert kinds(starter, "ad") == {
        "ad_id": "categorical", "brand": "categorical", "size_code": "categorical", "title_embedding": "dense",
    }  # fmt: skip


def test_sizes(starter: InferredRecipe) -> None:
    feature, columns = starter.schema.feature, log_columns()
    assert feature("country") == Feature("country", "categorical", "query", dim=8, vocabulary=("de", "fr", "jp"))
    assert (feature("ad_id").dtype, feature("ad_id").hash_size) == ("int", 1024)
    assert (feature("recent_ads").shares, feature("recent_ads").max_length) == ("ad_id", 8)
    assert feature("topics").vocabulary == tuple(sorted(f"t{i}" for i in range(12)))
    assert feature("title_embedding").dim == 4
    assert feature("spent").transform == "log1p"
    assert feature("spent").mean == pytest.approx(np.log1p(columns["spent"]).mean(), rel=0.01)
    known = [a for a in columns["age"] if a is not None]
    assert (feature("age").indicator, feature("age").transform) == (True, "none")
    assert feature("age").std == pytest.approx(np.std(known), rel=0.01)


def test_ids_time_scenario_and_tasks(starter: InferredRecipe) -> None:
    schema = starter.schema
    assert (schema.request_id, schema.user_id, schema.ad_id, schema.time) == ("request_id", "user_id", "ad_id", "ts")
    assert (schema.scenario, schema.scenarios) == ("surface", ("feed", "search", "other"))
    assert [(t.name, t.label) for t in schema.tasks] == [("click", "is_click"), ("purchased", "purchased")]
    assert f'by_time("ts", {START + 60 * ROWS * 9 // 10})  # the last tenth of the rows, 2023-11-16' in starter.text
    assert 'all with is_click: mask="is_click"' in starter.text


def test_what_is_left_out_and_why(starter: InferredRecipe) -> None:
    assert "AUC of 1.000 for click" in starter.left_out.pop("landing")
    assert starter.left_out == {
        "request_id": "the request id",
        "ts": "a time: what may be learned of it is its hour, or the age of something",
        "is_click": "an outcome, see TASKS",
        "purchased": "an outcome, see TASKS",
        "watch_time_ms": "is known only afterwards",
        "position": "is decided after ranking",
        "version": "the same in all rows",
        "note": "nearly every row has a value of its own",
        "bid": "is for ranking by `bid * task`, not for the model",
    }


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def two_steps(config: Path, prepared: Path, workdir: Path) -> dict[str, Any]:
    """Trains, and returns the last line of its metrics."""
    rows = sum(c.rows for c in PreparedSet.open(prepared).manifest.splits["train"].values())
    epochs = f"--config.train.epochs={512 / rows}"
    overrides = (f"--config.data.path={prepared}", "--config.data.batch_size=256", epochs, *SMALL_MODEL)
    assert call("train", f"--config={config}", f"--workdir={workdir}", *overrides) == 0
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("log", ["parquet_log", "csv_log"])
def test_the_written_file_prepares_and_trains(log: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source, out, prepared = request.getfixturevalue(log), tmp_path / "mine.py", tmp_path / "prepared"
    assert call("init", f"--data={source}", f"--out={out}") == 0
    assert imported_privately(out.read_text()) == []
    module = load_python(out, "mine", "test", ValueError)
    assert infer_recipe(str(source), out).schema == module.SCHEMA  # what is written is what was found
    assert call("prepare", out, f"--source={source}", f"--out={prepared}") == 0
    splits = PreparedSet.open(prepared).manifest.splits
    rows = {split: sum(c.rows for c in scenarios.values()) for split, scenarios in splits.items()}
    assert rows == {"train": 2700, "eval": 300}
    assert splits["train"]["other"].rows + splits["eval"]["other"].rows > 0
    assert two_steps(out, prepared, tmp_path / "run")["step"] == 2
    corpus = pq.read_table(prepared / "ads.parquet")
    assert sorted(corpus["ad_id"].to_pylist()) == sorted(set(log_columns()["ad_id"].tolist()))
    bids = dict(zip(corpus["ad_id"].to_pylist(), corpus["bid"].to_pylist(), strict=True))
    if log == "parquet_log":
        side = pq.read_table(source / "creatives.parquet")
        assert bids == dict(zip(side["ad_id"].to_pylist(), side["bid"].to_numpy().astype(np.float32), strict=True))


def test_labels_of_text_without_ids_or_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("train", 400), ("test", 100)):
        columns = {
            "education": np.array(["none", "school", "college"])[rng.integers(0, 3, n)],
            "years": rng.integers(0, 40, n),
            "income": np.array(["low", "high"])[(rng.random(n) < 0.3).astype(int)],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    found = infer_recipe(str(tmp_path), Path("c.py"))
    assert [(t.name, t.label) for t in found.schema.tasks] == [("income", "income=high")]
    assert (kinds(found, "query"), kinds(found, "ad")) == ({"education": "categorical"}, {"years": "numeric"})
    assert "# Nothing told the sides apart" in found.text
    out = tmp_path / "c.py"
    out.write_text(found.text)
    module = load_python(out, "c", "test", ValueError)
    (train,) = [c for c in module.read(tmp_path) if c.split == "train"]
    raw = pq.read_table(tmp_path / "train.parquet")
    assert train.table["income=high"].to_pylist() == [int(v == "high") for v in raw["income"].to_pylist()]
    assert {c.split for c in module.read(tmp_path)} == {"train", "test"}
    assert module.ads(tmp_path) is None


def test_a_sample_is_bounded_and_of_all_files(parquet_log: Path) -> None:
    from input_pipeline.infer_schema.sample import take_sample

    sample = take_sample(parquet_log, 1000)
    assert (len(sample.table), sample.rows, sample.joins) == (1000, ROWS, {"creatives.parquet": "ad_id"})
    when = sample.table["ts"].to_numpy()
    assert (np.diff(when) > 0).all()
    assert np.median(when) == pytest.approx(START + 30 * ROWS, abs=60 * 150)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def refuse(*arguments: object) -> str:
        assert call(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    yield refuse
    assert not list(tmp_path.glob("*.py"))  # nothing was written


def test_what_cannot_be_a_first_schema(refused: Any, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "mine.py"
    data.mkdir()

    def init(**tables: dict[str, Any]) -> str:
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), data / f"{name}.parquet")
        return refused("init", f"--data={data}", f"--out={out}")

    nothing = "nothing to learn: no column is an outcome by its name, or has two values"
    assert nothing in init(a={"x": range(100), "z": range(100)})
    assert f"{data}: fewer than two columns can be features; left out: click: an outcome" in init(
        a={"click": [0, 1] * 50, "x": range(100)}
    )
    assert "a.parquet, and none of them by which to join it" in init(b={"z": range(9)})
    assert "there are no rows" in init(a={"x": pa.array([], pa.int64())}, b={"x": pa.array([], pa.int64())})
    assert "expected a Python file, NAME.py" in refused("init", f"--data={data}", f"--out={tmp_path / 'my-logs.py'}")
    assert "no such file" in refused("init", "--data=nowhere", f"--out={out}")


def test_a_recipe_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    for text, message in (
        ("def schema(source): pass", "expected a function read(source) in it"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ):
        path.write_text(text)
        assert call("prepare", path, f"--source={tmp_path}", f"--out={tmp_path / 'p'}") == 2
        assert f"prepare {path}: {message}" in capsys.readouterr().err
    assert call("init", f"--data={tmp_path}", f"--out={path}") == 2
    assert "already exists" in capsys.readouterr().err
    assert path.read_text() == "1 / 0"


def test_a_label_that_is_a_feature_too_is_refused(tmp_path: Path) -> None:
    from input_pipeline.logs import EVERY_ROW, ROW_NUMBER, every, read_logs
    from tt_jax.schema import Schema, Task

    pq.write_table(pa.table({"a": ["x", "y"], "b": ["1", "2"], "c": [1.5, 2.0]}), tmp_path / "t.parquet")

    def read(features: tuple[Feature, ...], label: str = "a=x", scenario: str = EVERY_ROW) -> list[Any]:
        schema = Schema("s", features, (Task("t", label),), scenario, ("all",), ROW_NUMBER)
        return list(read_logs(tmp_path, schema, every(2)))

    b = Feature("b", "categorical", "query", vocabulary=("1", "2"))
    c = Feature("c", "numeric", "ad")
    train, held_out = sorted(read((b, c)), key=lambda chunk: chunk.split, reverse=True)
    assert (train.split, train.row_number(0), held_out.split, held_out.row_number(0)) == ("train", 0, "eval", 1)
    with pytest.raises(ReadError, match=r"the column 'b' of its label is also a feature"):
        read((b, c), label="b=1")
    with pytest.raises(ReadError, match=r"t\.parquet: no column 'd'"):
        read((b, Feature("d", "numeric", "ad")))
    with pytest.raises(ReadError, match=r"t\.parquet: row 0: column 'c': expected int64, got 1\.5"):
        read((b, Feature("c", "categorical", "ad", "int", hash_size=9)))
    with pytest.raises(ReadError, match=r"t\.parquet: no column 'tab'"):
        read((b, c), scenario="tab")
