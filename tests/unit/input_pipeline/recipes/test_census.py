"""The Census-Income recipe on the real data: its README's counts, and neither label among the features."""

from __future__ import annotations

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import ReadError
from input_pipeline.recipes import census
from tests.support.paths import LOGS
from tt_jax.schema import UNKNOWN_ID

DATA = LOGS / "census_income"
LABELS = ("income", "marital_stat")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """The whole data set."""
    out = tmp_path_factory.mktemp("census") / "set"
    prepare(census.schema(DATA), census.read(DATA), out, ads=census.ads(DATA))
    return PreparedSet.open(out)


def test_rows_and_rates_are_those_of_the_readme_and_every_tenth_row_is_held_back(prepared):
    counts = {split: scenarios["all"] for split, scenarios in prepared.manifest.splits.items()}
    assert {split: c.rows for split, c in counts.items()} == {"train": 179_571, "valid": 19_952, "eval": 49_881}
    for task, train, evaluated in (("income", 0.06206, 0.06277), ("never_married", 0.43346, 0.43307)):
        whole = sum((counts[s].rate[task] or 0) * counts[s].rows for s in ("train", "valid")) / 199_523
        assert whole == pytest.approx(train, abs=5e-6)
        assert counts["eval"].rate[task] == pytest.approx(evaluated, abs=5e-6)
    rows = prepared.blocks(("valid",))[0]["keys"][:, 0]
    np.testing.assert_array_equal(rows[:3], [9, 19, 29])


def test_both_labels_are_left_out_and_every_other_column_is_a_feature(prepared):
    columns = set(pq.read_schema(DATA / "train.parquet").names)
    names = {f.name.removesuffix("_value") for f in prepared.schema.features}
    assert names == columns - set(LABELS)
    assert len(names) == 38
    assert not {f.name for f in prepared.schema.features} & {"income_label", "never_married_label", *LABELS}


def test_rows_are_encoded_as_the_file_says(prepared):
    raw = pq.read_table(DATA / "eval.parquet").slice(0, 500)
    block, schema = prepared.blocks(("eval",))[0], prepared.schema
    np.testing.assert_array_equal(block["labels"][:500, 0], [v == "50000+." for v in raw["income"].to_pylist()])
    np.testing.assert_array_equal(
        block["labels"][:500, 1], [v == "Never married" for v in raw["marital_stat"].to_pylist()]
    )
    for tower in ("query", "ad"):
        for name, slot, _ in schema.layout[tower].ids:
            vocabulary = schema.feature(name).vocabulary
            place = {value: i + UNKNOWN_ID + 1 for i, value in enumerate(vocabulary)}
            expected = [place.get(v, UNKNOWN_ID) for v in raw[name.removesuffix("_value")].to_pylist()]
            np.testing.assert_array_equal(block[f"{tower}_ids"][:500, slot], expected, err_msg=name)
    first = next(first for name, first, _ in schema.layout["ad"].floats if name == "capital_gains")
    gains = raw["capital_gains"].to_numpy()
    number = np.where(gains > 0, (np.log1p(gains) - 8.7) / 1.1, 0)
    np.testing.assert_allclose(block["ad_floats"][:500, first], number, rtol=1e-5)
    np.testing.assert_array_equal(block["ad_floats"][:500, first + 1], gains > 0)
    assert (gains > 0).any()


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ReadError, match=r"expected train\.parquet, whose values are the vocabularies"):
        census.schema(tmp_path)
    with pytest.raises(ReadError, match=r"no data: expected train\.parquet"):
        list(census.read(tmp_path))
    table = pq.read_table(DATA / "eval.parquet").slice(0, 10)
    pq.write_table(table.rename_columns(["agee", *table.column_names[1:]]), tmp_path / "train.parquet")
    for use in (census.schema, lambda source: list(census.read(source))):
        with pytest.raises(ReadError, match=r"train\.parquet: no column 'age'; did you mean 'agee'"):
            use(tmp_path)


def test_a_small_source_of_one_split_is_read(tmp_path):
    pq.write_table(pq.read_table(DATA / "eval.parquet").slice(0, 30), tmp_path / "train.parquet")
    chunks = list(census.read(tmp_path))
    assert [(c.split, c.table.num_rows) for c in chunks] == [("train", 27), ("valid", 3)]
    assert chunks[1].row_number(2) == 29
    assert isinstance(chunks[0].table, pa.Table)
    assert census.ads(tmp_path) is None


def test_a_url_is_read_as_a_directory(tmp_path):
    pq.write_table(pq.read_table(DATA / "eval.parquet").slice(0, 30), tmp_path / "train.parquet")
    fsspec.filesystem("memory").put_file(str(tmp_path / "train.parquet"), f"/{tmp_path.name}/train.parquet")
    url = f"memory://{tmp_path.name}"
    assert census.schema(url) == census.schema(tmp_path)
    chunks = list(census.read(url))
    assert [c.table for c in chunks] == [c.table for c in census.read(tmp_path)]
    assert chunks[0].file.startswith("memory://")
    with pytest.raises(ReadError, match=r"^memory://none: expected train\.parquet"):
        census.schema("memory://none")
