"""The file that `tt-jax init` writes: Python, a recipe and a configuration in one, what the user decides at its top."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from input_pipeline.infer_schema.guess_features import Features, features_of
from input_pipeline.infer_schema.guess_text_format import (
    Guess,
    as_lists,
    delimiter_of_files,
    example_of,
    has_decimal_commas,
    markers_of,
    separator_of,
)
from input_pipeline.infer_schema.roles import GuessedRoles, roles_of
from input_pipeline.infer_schema.sample import Sample, take_sample
from input_pipeline.infer_schema.sampled_columns import Column, columns_of, quoted
from input_pipeline.infer_schema.tasks import Outcome
from input_pipeline.logs.to_schema import EVERY_ROW, OTHER, ROW_NUMBER
from input_pipeline.readers import NO_TYPES, STRICT, Errors, ReadError, Types
from input_pipeline.readers.quotes import QuoteError
from input_pipeline.sources.text_format import JSON
from tt_jax.schema import TOWERS, DType, Feature, Schema, Task

SAMPLE_ROWS = 50_000
_WIDTH = 110
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Feature)}
_STEPS, _BATCHES = 100, (1, 16, 4096)  # batches are sized for so many steps; the least, the least of 200 rows, the most


@dataclass(frozen=True)
class InferredRecipe:
    """A schema, and the text of a recipe that declares it; `remarks` is what the user has to know first."""

    schema: Schema
    outcomes: tuple[Outcome, ...]
    left_out: dict[str, str]
    remarks: tuple[str, ...]
    text: str


def infer_recipe(source: str, out: Path, rows: int = SAMPLE_ROWS, errors: Errors = STRICT) -> InferredRecipe:
    """Looks at a source and writes, as text, the file `out`. Raises `ReadError` if nothing can be trained on it."""
    guess = Guess(delimiter_of_files(source))

    def look(types: Types = NO_TYPES) -> tuple[Sample, dict[str, Column]]:
        sample = take_sample(source, rows, guess.format, types, errors)
        return sample, columns_of(sample.table, sample.counts, sample.rows)

    try:
        sample, columns = look()
    except QuoteError as e:
        if e.delimiter != "\t":  # where quotes are mostly text
            raise
        guess.quotes = False
        sample, columns = look()
    if markers := markers_of(columns):
        guess.missing = markers
        sample, columns = look()
    roles = roles_of(columns, sample.files, source)
    if roles.scenario in columns and not columns[roles.scenario].is_text:  # the names are as the files have them
        sample, columns = look({roles.scenario: pa.string()})
        roles = roles_of(columns, sample.files, source)
    columns = _with_lists(columns, roles, guess)
    features = _both_sides(features_of(columns, roles), source)
    schema = Schema(
        name=out.stem, features=tuple(f for f, _ in features.features),
        tasks=tuple(Task(o.name, o.label) for o in roles.outcomes if o.chosen), scenario=roles.scenario,
        scenarios=roles.scenarios, ad_id=roles.ad_id, request_id=roles.request_id, user_id=roles.user_id,
        time=roles.time, ad_id_dtype=_ad_id_dtype(columns, roles),
    )  # fmt: skip
    left_out = features.left_out | dict.fromkeys(sample.partial, "not every file has it")
    left_out |= {name: f"its type is {of}" for name, of in sample.opaque.items()}
    parts = (
        _head(source, out, sample), guess.source_text(), _tasks(roles), _scenario(roles),
        _features(features, roles.scenario), _left_out(left_out), _rest(schema, sample, roles, out),
    )  # fmt: skip
    doubts = (f"task {o.name}: {o.remark}" for o in roles.outcomes if o.chosen and o.remark)
    remarks = (*guess.remarks(), *_of_bid(columns), *doubts)
    return InferredRecipe(schema, roles.outcomes, left_out, remarks, "\n".join(filter(None, parts)))


def _of_bid(columns: dict[str, Column]) -> Iterator[str]:
    if "bid" in columns and columns["bid"].numbers is None:
        yield "bid: a column of this name is read as what an ad pays, and it has other values: rename it"


def _with_lists(columns: dict[str, Column], roles: GuessedRoles, guess: Guess) -> dict[str, Column]:
    """The columns, those of text that is lists or vectors as these; their separators go into the guess."""
    keys, result = (*roles.left_out, roles.user_id, roles.ad_id, roles.scenario), dict(columns)
    for name, column in columns.items():
        if not column.is_text or name in keys:
            continue
        if has_decimal_commas(column, guess.delimiter):
            roles.left_out[name] = "numbers with a decimal comma: write them with a point"
        elif separator := separator_of(column):
            result[name] = as_lists(column, separator)
            if separator != JSON:  # which is what is expected of lists in text
                guess.separators[name] = separator
                guess.examples[name] = example_of(column, separator)
    return result


def _both_sides(guess: Features, source: str) -> Features:
    """Where one side has no feature, it gets every other one: nothing told them apart."""
    if len(guess.features) < 2:
        raise ReadError(f"{source}: fewer than two columns can be features; left out: " + "; ".join(
            f"{name}: {why}" for name, why in guess.left_out.items()))  # fmt: skip
    if len({f.tower for f, _ in guess.features}) == len(TOWERS):
        return guess
    sides = {f.name: TOWERS[i % 2] for i, (f, _) in enumerate(guess.features)}
    moved = [(replace(f, tower=sides[f.name]), note) for f, note in guess.features]
    return Features(sorted(moved, key=lambda made: TOWERS.index(made[0].tower)), guess.left_out, guessed=True)


def _ad_id_dtype(columns: dict[str, Column], roles: GuessedRoles) -> DType:
    return "string" if roles.ad_id != ROW_NUMBER and columns[roles.ad_id].is_text else "int"


# ---- Source text -----------------------------------------------------------------------------------------------------


def _head(source: str, out: Path, sample: Sample) -> str:
    source = source.replace("\\", "\\\\").replace('"', '\\"')
    files = f"{len(sample.files)} file{'s' if len(sample.files) > 1 else ''}"
    return f'''"""A first schema, written by `tt-jax init`: a recipe and a configuration in one, yours to edit.

    tt-jax prepare {out} --source={source} --out=prepared/{out.stem}
    tt-jax train --config={out} --workdir=runs/{out.stem}

It is a guess from {len(sample.table):,} of the {sample.rows:,} rows of {files}; types, and the values of columns that
have few, are of all rows. Check, in this order: TASKS, what to learn; SCENARIO; of FEATURES, on which side each one
is ("query": the user and the request; "ad"), and that all of them are known before ads are ranked. What a field
means: `python -m pydoc tt_jax.schema`.
"""

from ml_collections import ConfigDict

from input_pipeline import logs
from tt_jax import Config, DataConfig, Feature, ModelConfig, Schema, Task, TrainConfig, config_dict
'''


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _tasks(roles: GuessedRoles) -> str:
    lines = ["# What to learn: name, label. `COLUMN=VALUE` is 1 where the column has that value; or >=, <=, >, <, !=."]
    lines.append("TASKS = (")
    for o in roles.outcomes:
        task = f"Task({quoted(o.name)}, {quoted(o.label)}),"
        notes = "".join(f"; {_in_a_line(note)}" for note in (o.note, o.remark) if note)
        lines.append(f"    {'' if o.chosen else '# '}{task}  # {o.rate:.4f} of the rows{notes}{_within(o, roles)}")
    return "\n".join([*lines, ")", ""])


def _within(outcome: Outcome, roles: GuessedRoles) -> str:
    """Of an outcome that only another one can have: it might count only where that one happened."""
    ones = outcome.values == 1
    for other in roles.outcomes:
        wider = other is not outcome and (other.values == 1).sum() > 1.2 * ones.sum()
        if wider and ones.any() and other.label == other.column and (other.values[ones] == 1).all():
            return f"; all with {other.column}: mask={quoted(other.column)} learns it given that"
    return ""


def _scenario(roles: GuessedRoles) -> str:
    others = f" Perhaps: {', '.join(roles.other_scenarios)}." if roles.other_scenarios else ""
    if roles.scenario == EVERY_ROW:
        head = f"# No column of scenarios was found: all rows are one.{others} If you name one, make it a feature too."
        return f'{head}\nSCENARIO = logs.EVERY_ROW\nSCENARIOS = ("all",)\n'
    rest = f" {OTHER!r} is every other value." if OTHER in roles.scenarios else ""
    values = _vocabulary(roles.scenarios, "")
    head = f"# The column of the scenario, and its values.{rest}{others}"
    return f"{head}\nSCENARIO = {quoted(roles.scenario)}\nSCENARIOS = {values}\n"


def _features(guess: Features, scenario: str) -> str:
    lines = ["# Nothing told the sides apart: every other column is on either. Move them."] if guess.guessed else []
    lines.append("FEATURES = (")
    for tower in TOWERS:
        lines.append(f"    # {'The query: the user and the request' if tower == 'query' else 'The ad'}.")
        lines += [_feature(f, note, f.name == scenario) for f, note in guess.features if f.tower == tower]
    return "\n".join([*lines, ")", ""])


def _feature(feature: Feature, note: str, scenario: bool) -> str:
    positional = ["name", "kind", "tower"]
    if feature.is_ids:
        positional.append("dtype")
    arguments = [quoted(getattr(feature, name)) for name in positional]
    for name, default in _DEFAULTS.items():
        value = getattr(feature, name)
        always = name == "dim" and feature.kind == "dense"
        if name not in positional and name != "vocabulary" and (value != default or always):
            arguments.append(f"{name}={_literal(value)}")
    start = f"    Feature({', '.join(arguments)}"
    comment = f"  # {_in_a_line(note)}" if note else ""
    if not feature.vocabulary:
        return f"{start}),{comment}"
    if scenario:
        return f"{start}, vocabulary=SCENARIOS),{comment}"
    vocabulary = _vocabulary(feature.vocabulary, "    ")
    return f"{start}, vocabulary={vocabulary}),{comment}"


def _literal(value: object) -> str:
    return quoted(value) if isinstance(value, str) else repr(value)


def _vocabulary(values: tuple[str | int, ...], indent: str) -> str:
    if len(values) > 3 and values == tuple(range(len(values))):
        return f"tuple(range({len(values)}))"
    items = [_literal(v) + "," for v in values]
    if sum(map(len, items)) <= _WIDTH // 3:
        return f"({' '.join(items) if len(items) == 1 else ' '.join(items).removesuffix(',')})"
    lines = [indent + "   "]
    for item in items:
        if len(lines[-1]) + len(item) >= _WIDTH:
            lines.append(indent + "   ")
        lines[-1] += " " + item
    return "\n".join(["(", *lines, f"{indent})"])


def _left_out(left_out: dict[str, str]) -> str:
    lines = ["#   " + " ".join(f"{name}: {why}".split()) for name, why in left_out.items()]
    return "\n".join(["# Left out, and why. Make a feature of one by a line above.", *lines, ""]) if lines else ""


def batch_size(train_rows: float) -> int:
    """Rows of a batch, a power of two: about a hundred steps an epoch, of 16 to 4,096 rows; fewer if there are."""
    least, small, most = _BATCHES
    rows = min(max(train_rows / _STEPS, small), most, max(train_rows / 4, least))
    return 2 ** int(math.log2(rows))


def _rest(schema: Schema, sample: Sample, roles: GuessedRoles, out: Path) -> str:
    batch = batch_size(roles.train_share * sample.rows)
    joins = "".join(f"\n    {quoted(path)}: {quoted(key)}," for path, key in sample.joins.items())
    names = [n for n in ("request_id", "user_id", "time") if getattr(schema, n)]
    ids = "".join(f"    {n}={quoted(getattr(schema, n))},\n" for n in names)
    ad_id = "logs.ROW_NUMBER,  # no column is the ad's id" if schema.ad_id == ROW_NUMBER else f"{quoted(schema.ad_id)},"
    return f'''SPLIT = logs.{roles.split}  # {roles.split_reason}
JOINS = {{{joins}{chr(10) if joins else ""}}}  # files beside the log: the column by which their rows are looked up

SCHEMA = Schema(
    name="{schema.name}",
    features=FEATURES,
    tasks=TASKS,
    scenario=SCENARIO,
    scenarios=SCENARIOS,
    ad_id={ad_id}
    ad_id_dtype="{schema.ad_id_dtype}",
{ids})


def schema(_source=None):
    """For `tt-jax prepare`, as the three below."""
    return SCHEMA


def read(source, errors=logs.STRICT, parts=None):
    return logs.read_logs(source, SCHEMA, SPLIT, JOINS, errors, parts, TEXT)


def parts(source):
    """The files of the log: what `--runner=ray` shares among its workers."""
    return logs.parts_of_logs(source, JOINS)


def ads(source):
    return logs.ads_of_logs(source, SCHEMA, JOINS, TEXT)


def get_config(_arg: str = "") -> ConfigDict:
    """For `tt-jax train`. All fields and their meaning: `python -m pydoc tt_jax.config`."""
    return config_dict(
        Config(
            model=ModelConfig(experts=3, full_rank_layers=1, low_rank_layers=1, rank=32, mlp=(128, 64), output_dim=32),
            data=DataConfig(path="prepared/{out.stem}", eval_split="{roles.eval_split}", batch_size={batch}),
            train=TrainConfig(epochs=1.0),
            utility="",  # what ads are ranked by: the first task, or an expression of them, as "bid * click"
        )
    )
'''
