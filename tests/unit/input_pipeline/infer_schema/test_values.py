"""Values that logs have in public: ids in any spelling and size, JSON as Python writes it, types without a meaning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.infer_schema.write import InferredRecipe, infer_recipe
from tests.support.init_logs import call, log, write_csv


@pytest.mark.parametrize("ids", [
    ["1e+05", "250000", "3E5"],
    ["7.", "-8.0", "9"],
])  # fmt: skip
def test_whole_numbers_written_as_floats_are_ids(
    ids: list[str], tmp_path: Path, prepared: Callable[[int], InferredRecipe]
) -> None:
    write_csv(tmp_path / "data" / "a.csv", log(900, shop_id=ids * 300))
    feature = next(f for f in prepared(900).schema.features if f.name == "shop_id")
    assert (feature.dtype, set(feature.vocabulary)) == ("int", {int(float(v)) for v in ids})


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("first", [1, -5])
def test_ids_beyond_int64_in_one_file_only_are_text(
    first: int, suffix: str, tmp_path: Path, prepared: Callable[[int], InferredRecipe]
) -> None:
    ids = [[first + i % 20 for i in range(500)], [2**63 + i % 20 for i in range(500)]]
    for number, column in enumerate(ids):
        path = tmp_path / "data" / f"{number}.{suffix}"
        columns = log(500, user_id=pa.array(column, pa.uint64() if number else pa.int64()))
        if suffix == "csv":
            write_csv(path, columns)
        elif suffix == "jsonl":
            rows = pa.table(columns).to_pylist()
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.table(columns), path)
    feature = next(f for f in prepared(1000).schema.features if f.name == "user_id")
    assert feature.dtype == "string"


def test_json_of_whole_numbers_and_text_is_text_and_nan_is_missing(
    tmp_path: Path, prepared: Callable[[int], InferredRecipe]
) -> None:
    columns = log(600, user_id=[i % 20 if i % 3 else f"u{i % 20}" for i in range(600)])
    columns |= {"age": [float("nan") if i % 2 else float("inf") if i % 4 else 30.5 + i for i in range(600)]}
    rows = [{n: v.item() if isinstance(v, np.generic) else v for n, v in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)]  # fmt: skip
    for text in ("".join(json.dumps(row) + "\n" for row in rows), json.dumps(rows)):
        (tmp_path / "data" / "a.json").write_text(text)
        features = {f.name: f for f in prepared(600).schema.features}
        assert features["user_id"].dtype == "string"
        assert features["age"].kind == "numeric"
        (tmp_path / "mine.py").unlink()
        shutil.rmtree(tmp_path / "set")


def test_a_log_without_rows_is_refused_by_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, schema = tmp_path / "data", tmp_path / "mine.py"
    source.mkdir()
    write_csv(source / "a.csv", log(300))
    schema.write_text(infer_recipe(str(source), schema, 1000).text)
    for name in ("a.csv", "b.csv"):
        write_csv(source / name, log(0))
    for verb in (
        ["prepare", schema, f"--source={source}", f"--out={tmp_path / 'set'}"],
        ["init", f"--data={source}", f"--out={tmp_path / 'other.py'}"],
    ):
        assert call(*verb) == 2
        assert capsys.readouterr().err == f"tt-jax: error: {source}: there are no rows\n"
    assert not (tmp_path / "set").exists()


def test_columns_of_which_nothing_is_learned_are_left_out_by_their_type(
    tmp_path: Path, prepared: Callable[[int], InferredRecipe]
) -> None:
    columns = log(400)
    view = pa.array([str(i) for i in range(400)], pa.string_view())
    opaque = {
        "item_id": pa.StructArray.from_arrays([view, pa.array(range(400))], ["name", "number"]),
        "video_id": pa.array([b"0123456789ab"] * 400, pa.binary(12)),
        "click_map": pa.array([[("a", 1)]] * 400, pa.map_(pa.string(), pa.int64())),
        "liked": pa.array([[[1], [0]]] * 400),
        "is_clicked": pa.array([b"\xff\x00", b"\xfe"] * 200, pa.binary()),
        "bought": pa.array([(0, 1, 0)] * 400, pa.month_day_nano_interval()),
    }
    table = pa.table(columns | opaque)
    with pa.ipc.new_file(tmp_path / "data" / "a.arrow", table.schema) as file:
        file.write_table(table)
    found = prepared(400)
    assert {name: found.left_out[name].startswith("its type is ") for name in opaque} == dict.fromkeys(opaque, True)
    assert [t.label for t in found.schema.tasks] == ["clicked"]


@pytest.mark.parametrize("unit", [1, 1e3, 1e9])
def test_a_time_with_a_fraction_splits(unit: float, tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    times = unit * (1_790_000_000.25 + 600 * np.arange(1000))
    times[::50] = np.nan
    columns = log(1000, timestamp=times)
    del columns["ts"]
    pq.write_table(pa.table(columns), tmp_path / "data" / "a.parquet")
    found = prepared(1000)
    start = int(found.text.partition('SPLIT = logs.by_time("timestamp", ')[2].partition(")")[0])
    assert 80 <= (times >= start).sum() <= 120


@pytest.mark.parametrize(
    ("values", "scenarios"),
    [
        (["1.0", "0.0", ""], {"1.0", "0.0", "other"}),
        (["1", "2 ", "1"], {"1", "2 "}),
        (["1", "-0", "3"], {"1", "-0", "3"}),
        (["True", "TRUE", "x"], {"True", "TRUE", "x"}),
    ],
)
def test_scenarios_are_named_as_prepare_reads_them(
    values: list[str], scenarios: set[str], tmp_path: Path, prepared: Callable[[int], InferredRecipe]
) -> None:
    write_csv(tmp_path / "data" / "a.csv", log(600, tab=values * 200))
    assert set(prepared(600).schema.scenarios) == scenarios
    counts = PreparedSet.open(tmp_path / "set").manifest.splits["train"]
    assert all(180 / len(scenarios) < counts[name].rows for name in scenarios)  # of 540 rows


def test_what_prepare_would_refuse_is_not_guessed(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    columns = log(600, shop_id=["inf", "1", "2"] * 200, timestamp=["true", "false"] * 300, tab=["x" * 300, "y"] * 300)
    write_csv(tmp_path / "data" / "a.csv", columns)
    found = prepared(600)
    assert next(f for f in found.schema.features if f.name == "shop_id").kind == "numeric"
    assert (found.schema.time, found.schema.scenario) == ("ts", "every_row")


def test_a_bid_that_is_no_number_is_told(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", log(300, bid=["$5", "$6.5"] * 150))
    remarks = infer_recipe(str(tmp_path / "a.csv"), tmp_path / "mine.py", 1000).remarks
    assert any(remark.startswith("bid: ") for remark in remarks)


def test_true_and_false_in_one_file_and_numbers_in_another(
    tmp_path: Path, prepared: Callable[[int], InferredRecipe]
) -> None:
    clicked = pa.array(log(300)["clicked"])
    for number, type_ in enumerate((pa.bool_(), pa.int64(), pa.float64())):
        columns = log(300)
        columns |= {"clicked": clicked.cast(type_), "member": pa.array(np.arange(300) % 2).cast(type_)}
        pq.write_table(pa.table(columns), tmp_path / "data" / f"{number}.parquet")
    found = prepared(900)
    assert [(t.name, t.label) for t in found.schema.tasks] == [("clicked", "clicked")]
    assert found.outcomes[0].rate == pytest.approx(np.mean(clicked.to_numpy()))
    assert next(f for f in found.schema.features if f.name == "member").vocabulary == (0, 1)


def test_a_frame_as_one_json_object_has_nothing_to_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = {name: {str(i): i % 2 for i in range(50)} for name in ("user_id", "item_id", "clicked")}
    (tmp_path / "a.json").write_text(json.dumps(frame))
    assert call("init", f"--data={tmp_path / 'a.json'}", f"--out={tmp_path / 'mine.py'}") == 2
    assert "nothing to learn" in capsys.readouterr().err
