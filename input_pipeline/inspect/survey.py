"""One pass over a log: `Survey.add` for every chunk, `Survey.merge` for every part, then `report.report_of`.

Memory is bounded, by `Bounds`. Where nothing exceeds its bound, surveys of parts merged in order are that of all rows.
A part is some files of a `Log`, by their sizes only: the report does not depend on the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from input_pipeline import recipes
from input_pipeline.inspect.label_counts import Group, LabelCounts, Roles
from input_pipeline.inspect.statistics import Bounds, ChunkPlace, Column, SplitStats, SplitSummary
from input_pipeline.inspect.values import row_keys, values_of
from input_pipeline.logs.to_schema import column_of
from input_pipeline.readers import PLAIN, STRICT, Chunk, Errors, ReadError, TextFormat, list_files, read
from input_pipeline.runner import Runner, groups_of
from input_pipeline.values.column_names import require_columns, require_different
from input_pipeline.values.label_expression import Comparison
from input_pipeline.values.times import times, unix_ms
from tt_jax.features.hashing import hash_string


@dataclass(frozen=True, eq=False)
class Counted:
    """What a survey found.

    Attributes:
      splits: by name, in the order in which they came; a column has the kind of its first values.
      whole: all of them together.
      labels: see `LabelCounts.of`.
      troubles: what is wrong with columns, a line each, in the order of reading.
    """

    roles: Roles
    bounds: Bounds
    splits: dict[str, SplitSummary]
    whole: SplitSummary
    labels: dict[Group, np.ndarray]
    troubles: list[str]


@dataclass(frozen=True, order=True)
class Seen:
    """The first values of one kind of a column: where they are, their row in the file, their type."""

    place: ChunkPlace
    row: int
    type: str

    def after(self, before: Column) -> str:
        """That they are of another kind than those before."""
        name, kind, lists = before
        was = f"{'lists of ' if lists else ''}{kind}"
        return f"{self.place[-1]}, row {self.row}: column {name!r} is {self.type} and was {was} before"


class Survey:
    """Counts over chunks of a log."""

    def __init__(self, roles: Roles, bounds: Bounds | None = None, part: int = 0) -> None:
        """`part`: number of the part of the log that it begins with."""
        self._roles, self._bounds = roles, bounds or Bounds()
        self._splits: dict[str, SplitStats] = {}
        self._labels = LabelCounts(roles, self._bounds)
        self._seen: dict[Column, Seen] = {}
        self._part, self._chunks = part, 0

    def add(self, chunk: Chunk) -> None:
        """Adds the rows of a chunk. Raises `ReadError` where a column with a role is not there or not of its kind."""
        table, rows = _with_labels(_flattened(chunk.table, chunk.file), self._roles, chunk.file), chunk.table.num_rows
        require_columns(chunk.file, table, self._roles.named)
        table = _with_times(table, self._roles.time, chunk)
        place = self._part, self._chunks, chunk.file
        self._chunks += 1
        columns = {name: values_of(table.column(name)) for name in table.column_names}
        for name, values in columns.items():
            if values.kind != "none":
                seen = Seen(place, chunk.row_number(0) if rows else chunk.first_row, str(table.field(name).type))
                self._see((name, values.kind, values.lengths is not None), seen)
        self._split(chunk.split, place).add(columns, row_keys(columns.items(), rows), place)
        self._labels.add(chunk.split, chunk.file, table, columns)

    def merge(self, other: Survey) -> None:
        """Adds the survey of a later part. Raises `ReadError` where `add` would for its rows."""
        for column, seen in other._seen.items():
            self._see(column, seen)
        for name, split in other._splits.items():
            self._split(name, split.began).merge(split)
        self._labels.merge(other._labels)

    @property
    def rows(self) -> int:
        """Of all splits."""
        return sum(split.rows for split in self._splits.values())

    def _split(self, name: str, began: ChunkPlace) -> SplitStats:
        if name not in self._splits:
            self._splits[name] = SplitStats(self._bounds, began, (self._part, hash_string(name)))
        return self._splits[name]

    def _see(self, column: Column, seen: Seen) -> None:
        """Raises `ReadError` if the column must have one kind and has another one."""
        if column in self._seen:
            return
        for before in self._seen:
            if before[0] == column[0] in self._roles.counted:
                raise ReadError(seen.after(before))
        self._seen[column] = seen

    def counted(self) -> Counted:
        """All of it."""
        kinds: dict[str, Column] = {}
        for column in self._seen:  # in the order of reading
            kinds.setdefault(column[0], column)
        total = SplitStats(self._bounds, (0, 0, ""), (0,))
        for split in self._splits.values():
            total.merge(split)
        splits = {name: split.of_kinds(kinds) for name, split in self._splits.items()}
        troubles = self._troubles(kinds)
        return Counted(self._roles, self._bounds, splits, total.of_kinds(kinds), self._labels.of, troubles)

    def _troubles(self, kinds: Mapping[str, Column]) -> list[str]:
        """Of each column the first one."""
        problems = []
        for column, seen in self._seen.items():
            if kinds[column[0]] != column:
                line = f"{seen.after(kinds[column[0]])}; its values are counted as missing"
                problems.append((seen.place, 0, column[0], line))
        for split in self._splits.values():
            for name in split.late:
                place = split.came[name]
                problems.append((place, 1, name, f"{place[-1]}: column {name!r} is new here: missing in files before"))
            for name, place in split.left.items():
                problems.append((place, 2, name, f"{place[-1]}: no column {name!r}, which files before have"))
        first: dict[str, str] = {}
        for _, _, name, line in sorted(problems):
            first.setdefault(name, line)
        return list(first.values())


def survey(chunks: Iterable[Chunk], roles: Roles, bounds: Bounds | None = None, part: int = 0) -> Survey:
    """All chunks, counted. Raises `ReadError` as `Survey.add` does."""
    result = Survey(roles, bounds, part)
    for chunk in chunks:
        result.add(chunk)
    return result


def raw_chunks(tables: Iterable[tuple[str, int, pa.Table]], known: Sequence[str]) -> Iterable[Chunk]:
    """Tables of a log by split: the folder `split=NAME` of a file's path, else the beginning of its name where that is
    one of `known`, else `all`."""
    for file, first_row, table in tables:
        folders = [part.removeprefix("split=") for part in file.split("/") if part.startswith("split=")]
        stem = file.rsplit("/", 1)[-1].lower()
        names = [name for name in known if stem.startswith(name)]
        yield Chunk((*folders, *names, "all")[0], file, first_row, table)


def _with_labels(table: pa.Table, roles: Roles, file: str) -> pa.Table:
    """With a column for each label that compares another one, as `rating>=4`."""
    for label in roles.labels.values():
        compared = Comparison.of(label, table.column_names)
        if compared is not None and compared.column in table.column_names:
            holds = compared.holds(column_of(table, compared.column, file), file)
            table = table.append_column(label, holds.cast(pa.int8()))
    return table


def _with_times(table: pa.Table, name: str | None, chunk: Chunk) -> pa.Table:
    """With the time, in whatever spelling, as timestamps."""
    if name is None:
        return table
    when = unix_ms(times(column_of(table, name, chunk.file), name, chunk.file, chunk.first_row))
    return table.set_column(table.column_names.index(name), name, when.cast(pa.timestamp("ms")))


def _flattened(table: pa.Table, file: str) -> pa.Table:
    """Structs as columns `a.b`. Raises `ReadError` if two columns then have one name."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    require_different(file, table.column_names)
    return table


SPLITS = ("train", "valid", "eval", "test", "dev", "holdout")  # names of files of a raw log that make a split
PARTS = 64  # at most: to merge two surveys takes some hundredths of a second
Track = Callable[[Iterable[Chunk]], Iterator[Chunk]]


@dataclass(frozen=True)
class Log:
    """What is inspected: anything that `read` reads, or the source of a recipe. Can be sent to workers.

    Attributes:
      data: the source.
      recipe: its name; None of a raw log.
      errors: what becomes of rows and files that cannot be read.
      text: how a raw log writes values as text; a recipe knows that of its own.
      load: a recipe's module, by its name.
    """

    data: str
    recipe: str | None = None
    errors: Errors = STRICT
    text: TextFormat = PLAIN
    load: Callable[[str], Any] = recipes.load

    def parts(self) -> list[list[str] | None]:
        """Files, in the order of reading; of a log that is only read as a whole, None."""
        return groups_of(self._files(), PARTS)

    def _files(self) -> list[str] | None:
        if self.recipe is None:
            return None if self.data.startswith("tfds:") else list_files(self.data, self.errors)
        module = self.load(self.recipe)
        return module.parts(self.data) if hasattr(module, "parts") else None

    def chunks(self, part: list[str] | None) -> Iterable[Chunk]:
        """The rows of a part; of None, all."""
        if self.recipe is None:
            return raw_chunks(read(self.data, errors=self.errors, parts=part, text=self.text), SPLITS)
        module = self.load(self.recipe)
        return module.read(self.data, errors=self.errors, **({} if part is None else {"parts": part}))


def surveys(log: Log, roles: Roles, runner: Runner, tracked: Track = iter) -> Iterator[Survey]:
    """The survey of each part, in order. `tracked` wraps the chunks where they are read, to report progress.

    Raises `ReadError` as `Survey.add` does.
    """
    return runner.map(partial(_survey_part, log, roles, tracked), enumerate(log.parts()))


def _survey_part(log: Log, roles: Roles, tracked: Track, part: tuple[int, list[str] | None]) -> Survey:
    number, files = part
    return survey(tracked(log.chunks(files)), roles, part=number)


def merged(parts: Iterable[Survey], roles: Roles) -> Survey:
    """All of them as one; of none, an empty one. One and the next are in memory. Raises `ReadError`."""
    total = None
    for one in parts:
        if total is None:
            total = one
        else:
            total.merge(one)
    return Survey(roles) if total is None else total
