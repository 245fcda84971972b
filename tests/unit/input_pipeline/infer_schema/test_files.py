"""`tt-jax init` over the files of a log: it looks at all of each, and `prepare` takes what it writes as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.infer_schema.write import InferredRecipe, infer_recipe
from input_pipeline.readers import ReadError
from tests.support.init_logs import call, log, write_csv


def test_what_no_sampled_row_has(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    columns = log(
        20_000, surface=np.array(["feed", "search"] * 10_000, object), kind=np.array(["a", "b"] * 10_000, object)
    )
    columns["surface"][[5, 7]] = "rare", ""
    columns["kind"][9] = "c"
    columns["clicked"][11] = 2
    columns["dist"] = [0.5 if i == 19_990 else i % 50 for i in range(20_000)]
    write_csv(tmp_path / "data" / "log.csv", columns)
    found = prepared(20_000)
    assert found.schema.scenarios == ("feed", "search", "other")
    assert found.schema.feature("kind").vocabulary == ("a", "b", "c")
    assert found.schema.feature("dist").kind == "numeric"
    assert [t.label for t in found.schema.tasks] == ["clicked=1"]
    assert found.remarks == ("task clicked: 0 in 1 row of other values (2)",)


def test_numbers_in_one_file_and_text_in_another(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    names = ("brand", "user_id", "ad_id")
    for name, values in (
        ("a", [f"{i % 7:03d}" for i in range(300)]),
        ("b", range(300)),
        ("c", [f"x{i}" for i in range(300)]),
    ):
        write_csv(tmp_path / "data" / f"{name}.csv", log(300, **dict.fromkeys(names, values)))
    pq.write_table(pa.table(log(300, **dict.fromkeys(names, range(300)))), tmp_path / "data" / "d.parquet")
    found = prepared(1200)
    assert [found.schema.feature(name).dtype for name in names] == ["string"] * 3
    assert found.schema.ad_id_dtype == "string"


def test_parts_without_rows(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    table = pa.table(log(300))
    pq.write_table(table, tmp_path / "data" / "b.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "data" / "a.parquet")
    pq.write_table(pa.table({"user_id": pa.nulls(0), "other": pa.nulls(0)}), tmp_path / "data" / "c.parquet")
    (tmp_path / "data" / "d.csv").write_text(",".join(table.column_names) + "\n")
    (tmp_path / "data" / "e.csv").touch()
    assert prepared(300).schema.feature("ad_id").dtype == "int"


def test_a_log_without_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,ad_id,clicked\n")
    with pytest.raises(ReadError, match=r"log\.csv: there are no rows"):
        infer_recipe(str(tmp_path / "log.csv"), tmp_path / "mine.py")


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "\x01", " "])
def test_delimiters(delimiter: str, tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    write_csv(
        tmp_path / "data" / "log.csv", log(300, note=[f"one, two; three {i % 40}" for i in range(300)]), delimiter
    )
    found = prepared(300)
    assert found.remarks == (f"cells are divided by {delimiter!r}",)
    assert found.schema.feature("note").kind == "categorical"


def test_what_is_no_table_with_names(tmp_path: Path) -> None:
    def refused(names: bool, delimiters: str, text: str = "") -> str:
        for i, delimiter in enumerate(delimiters):
            write_csv(tmp_path / f"{i}.csv", log(50), delimiter, names)
        if text:
            (tmp_path / "0.csv").write_text(text)
        with pytest.raises(ReadError) as error:
            infer_recipe(str(tmp_path), tmp_path / "mine.py")
        return str(error.value)

    assert "0.csv: a line of names is needed before the rows; the first one begins with 'u" in refused(False, ",")
    assert "a line of names is needed" in refused(True, "", "0\t1\t\t5\t68fd1e64\t80e26c9b\n1\t0\t3\t7\t68fd1e65\ta0\n")
    assert "cells divided by '::' are not read" in refused(True, "", "userId::movieId\n1::2\n")
    assert "0.csv are divided as their names say, those of" in refused(True, ",;")


def test_ids_that_are_no_int64(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    big = [2**63 + 7 * (i % 60) for i in range(300)]
    unsigned = pa.array(big, pa.uint64())
    rounded = 2.0**54 * (1 + np.arange(300) % 60)
    columns = log(300, user_id=unsigned, request_id=pa.array([b + i // 3 for i, b in enumerate(big)], pa.uint64()))
    columns |= {
        "ad_id": pa.array([i % 60 for i in range(300)], pa.uint64()),
        "member": rounded,
        "size": rounded * 2**200,
    }
    pq.write_table(pa.table(columns), tmp_path / "data" / "log.parquet")
    found = prepared(300)
    assert (found.schema.feature("user_id").dtype, found.schema.feature("ad_id").dtype) == ("string", "int")
    assert "2^53 and more, stored as floats" in found.left_out["member"]
    assert found.schema.feature("size").kind == "numeric"


def test_names_that_are_no_words(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    names = [
        "a/b",
        "..",
        "class",
        'say "hi"',
        "it's",
        "new\nline",
        "größe",
        "点击",
        "a=b",
        "a>b",
        "{x}",
        "\\",
        "%s",
        "None",
    ]
    names_of = {name: [f"v{i % 40}" for i in range(300)] for name in names}
    columns = log(300, **names_of)
    columns['is "liked">=?'] = columns.pop("clicked")
    pq.write_table(pa.table(columns), tmp_path / "data" / "log.parquet")
    found = prepared(300)
    assert set(names) <= {f.name for f in found.schema.features}
    assert [(t.name, t.label) for t in found.schema.tasks] == [("liked", 'is "liked">=?')]


@pytest.mark.parametrize("rows", [12, 200])
def test_few_rows_take_steps_as_written(rows: int, tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    write_csv(tmp_path / "data" / "log.csv", log(rows))
    prepared(rows)
    small = ("--config.precision=f32", "--config.model.kind=mlp", "--config.model.mlp=8", "--config.model.output_dim=4")
    run = tmp_path / "run"
    assert (
        call(
            "train",
            f"--config={tmp_path / 'mine.py'}",
            f"--workdir={run}",
            f"--config.data.path={tmp_path / 'set'}",
            *small,
        )
        == 0
    )
    assert '"step": 0' not in (run / "metrics.jsonl").read_text().splitlines()[-1]


def test_truth_and_nested_columns(tmp_path: Path, prepared: Callable[[int], InferredRecipe]) -> None:
    truth = [None if i % 50 == 0 else bool(i % 3) for i in range(300)]
    write_csv(tmp_path / "data" / "a.csv", log(300, is_new=truth, tab=truth))
    more = {"is_new": truth, "tab": truth, "of": [{"a": 1}] * 300, "lists": [[[1]]] * 300}
    pq.write_table(pa.table(log(300, **more)), tmp_path / "data" / "b.parquet")
    found = prepared(600)
    assert found.schema.feature("is_new").vocabulary == (0, 1)
    assert found.schema.scenario == "every_row"  # true and false are no places where ads are shown
    assert set(found.left_out) == {"clicked", "ts", "of", "lists"}


def test_decimal_commas_are_told(tmp_path: Path) -> None:
    for name, delimiter, texts in (
        ("a", ";", [f"{i % 90},{i % 7}" for i in range(300)]),
        ("b", ",", [f"{i % 90},{i % 40:02d}" for i in range(300)]),
    ):
        write_csv(tmp_path / f"{name}.csv", log(300, size=texts), delimiter)
        found = infer_recipe(str(tmp_path / f"{name}.csv"), tmp_path / "mine.py")
        assert found.left_out["size"] == "numbers with a decimal comma: write them with a point"
