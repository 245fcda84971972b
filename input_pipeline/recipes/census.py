"""Census-Income (KDD) (UCI data set 117, doi 10.24432/C5N30T), the multi-task benchmark of MMoE (Ma et al., KDD 2018).

It has no ads, no users and no scenarios: it checks the multi-task part against published figures. The tasks are
`income` (over 50,000 dollars) and `never_married`; neither label column is a feature. The source directory holds the
owners' training file as `train.parquet`, and held-back rows as `eval.parquet` and `test.parquet`, either of them. Every
tenth row of the training file is the split `valid`, to select by.

The two sides stand for nothing. The query side is what the person is, the ad side what they earn and where they live;
a heavy ranker sees both at once.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.readers import STRICT, Chunk, Errors, ReadError, first_below
from input_pipeline.readers import read as read_tables
from input_pipeline.values.column_names import require_columns
from tt_jax.schema import Feature, Schema, Task, Tower, Transform

DIM = 8
SPLITS = ("train", "valid", "eval", "test")
VALID_EVERY = 10  # rows of the training file
LABELS = {"income": ("income", "50000+."), "never_married": ("marital_stat", "Never married")}
SCENARIO = "all"

_QUERY = (
    "class_of_worker", "detailed_industry_recode", "detailed_occupation_recode", "education",
    "enroll_in_edu_inst_last_wk", "major_industry_code", "major_occupation_code", "race", "hispanic_origin", "sex",
    "member_of_a_labor_union", "reason_for_unemployment", "full_or_part_time_employment_stat", "citizenship",
    "country_of_birth_father", "country_of_birth_mother", "country_of_birth_self", "own_business_or_self_employed",
    "fill_inc_questionnaire_for_veterans_admin", "veterans_benefits",
)  # fmt: skip
_AD = (
    "tax_filer_stat", "region_of_previous_residence", "state_of_previous_residence",
    "detailed_household_and_family_stat", "detailed_household_summary_in_household", "migration_code-change_in_msa",
    "migration_code-change_in_reg", "migration_code-move_within_reg", "live_in_this_house_1_year_ago",
    "migration_prev_res_in_sunbelt", "family_members_under_18",
)  # fmt: skip
# Counts, with mean and deviation over the training file, and amounts in dollars (log1p; wages in cents), over the
# amounts that are not 0. Each is also a category by its very value: most amounts are of a few hundred different values.
_COUNTS: dict[str, tuple[Tower, float, float]] = {
    "age": ("query", 34.5, 22.3),
    "weeks_worked_in_year": ("query", 23.2, 24.4),
    "num_persons_worked_for_employer": ("query", 1.96, 2.37),
}
_AMOUNTS: dict[str, tuple[Tower, float, float]] = {
    "wage_per_hour": ("ad", 6.7, 0.5),
    "capital_gains": ("ad", 8.7, 1.1),
    "capital_losses": ("ad", 7.5, 0.3),
    "dividends_from_stocks": ("ad", 5.7, 2.1),
}
_SIDES: dict[Tower, tuple[str, ...]] = {"query": _QUERY, "ad": _AD}
_NUMBERS = {**_COUNTS, **_AMOUNTS}


def schema(source: str | Path) -> Schema:
    """The vocabularies are the values of the training file. Raises `ReadError` if there is none."""
    train = _whole_table(source)

    def category(column: str, name: str, tower: Tower) -> Feature:
        values = tuple(sorted(pc.unique(train.column(column)).drop_null().to_pylist()))
        return Feature(name, "categorical", tower, "int" if isinstance(values[0], int) else "string", DIM,
                       vocabulary=values)  # fmt: skip

    features = [category(name, name, tower) for tower, names in _SIDES.items() for name in names]
    for name, (tower, mean, std) in _NUMBERS.items():
        amount = name in _AMOUNTS
        transform: Transform = "log1p" if amount else "none"
        features.append(category(name, f"{name}_value", tower))
        features.append(Feature(name, "numeric", tower, transform=transform, mean=mean, std=std, indicator=amount))
    return Schema(
        "census_income", tuple(features), tuple(Task(name, f"{name}_label") for name in LABELS),
        scenario="scenario", scenarios=(SCENARIO,), ad_id="row",
    )  # fmt: skip


def parts(source: str | Path) -> list[str]:
    """The files, in the order of reading. Raises `ReadError` if there are none."""
    return list(_files(source).values())


def read(source: str | Path, errors: Errors = STRICT, parts: Collection[str] | None = None) -> Iterator[Chunk]:
    """The rows; `errors` gets the bad ones. `parts`: only these files.

    Raises `ReadError` if the directory does not hold them, or a column is missing.
    """
    for split, path in _files(source).items():
        if parts is not None and path not in parts:
            continue
        for file, first_row, table in read_tables(path, errors=errors):
            require_columns(file, table, (*_QUERY, *_AD, *_NUMBERS, *(column for column, _ in LABELS.values())))
            row = np.arange(first_row, first_row + table.num_rows)
            table = pa.table(_columns(table, row))
            if split != "train":
                yield Chunk(split, file, first_row, table)
                continue
            held_back = row % VALID_EVERY == VALID_EVERY - 1
            for name, kept in (("train", ~held_back), ("valid", held_back)):
                rows = np.flatnonzero(kept)
                yield Chunk(name, file, first_row, table.take(pa.array(rows)), rows)


def _files(source: str | Path) -> dict[str, str]:
    """File by split."""
    paths = {split: first_below(source, f"{split}.parquet") for split in ("train", "eval", "test")}
    files = {split: path for split, path in paths.items() if path is not None}
    if not files:
        raise ReadError(f"{source}: no data: expected train.parquet, eval.parquet or test.parquet")
    return files


def ads(_source: str | Path) -> None:
    """There are none."""
    return


def _columns(table: pa.Table, row: np.ndarray) -> dict[str, pa.Array | pa.ChunkedArray]:
    columns = {name: table.column(name) for names in _SIDES.values() for name in names}
    for name in _NUMBERS:
        columns[f"{name}_value"] = columns[name] = table.column(name)
    for name in _AMOUNTS:  # 0 is none
        columns[name] = pc.if_else(pc.equal(columns[name], 0), None, columns[name])
    for name, (column, positive) in LABELS.items():
        columns[f"{name}_label"] = pc.equal(table.column(column), positive).cast(pa.int8())
    columns["scenario"] = pa.array([SCENARIO] * table.num_rows, pa.string())
    columns["row"] = pa.array(row)
    return columns


def _whole_table(source: str | Path) -> pa.Table:
    path = first_below(source, "train.parquet")
    if path is None:
        raise ReadError(f"{source}: expected train.parquet, whose values are the vocabularies")
    table = pa.concat_tables([table for _, _, table in read_tables(path)])
    require_columns(path, table, (*_QUERY, *_AD, *_NUMBERS, *(column for column, _ in LABELS.values())))
    return table
