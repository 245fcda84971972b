"""Which columns are labels, scenario and time; rows and labels, counted by split, day and scenario."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from input_pipeline.inspect.statistics import Bounds
from input_pipeline.inspect.values import Kind, Values, numbers_of
from input_pipeline.readers import ReadError
from tt_jax.features.columns import decoded, one_array
from tt_jax.schema import Schema


@dataclass(frozen=True)
class Roles:
    """What some columns are. Columns of `Schema` have the names of its features.

    Attributes:
      labels: task -> its label column; labels are numbers, booleans included.
      masks: task -> the column that is 1 where its label counts.
      scenario, time: columns, None without.
      schema: of a recipe, which says which columns are features, and which of them ids.
    """

    labels: dict[str, str]
    masks: dict[str, str]
    scenario: str | None = None
    time: str | None = None
    schema: Schema | None = None

    @staticmethod
    def of(schema: Schema) -> Roles:
        """The roles that a schema gives."""
        labels = {t.name: t.label for t in schema.tasks}
        masks = {t.name: t.mask for t in schema.tasks if t.mask}
        return Roles(labels, masks, schema.scenario, schema.time or None, schema)

    @property
    def named(self) -> list[str]:
        """The columns that must be there."""
        return [*self.labels.values(), *self.masks.values(), *(c for c in (self.scenario, self.time) if c is not None)]

    @property
    def counted(self) -> list[str]:
        """The columns that must be of one kind, since labels are counted by them."""
        return [*self.labels.values(), *self.masks.values(), *([] if self.time is None else [self.time])]

    def is_ids(self, column: str) -> bool:
        """Whether numbers of the column are ids, of which a range means nothing."""
        features = [f for f in self.schema.features if f.name == column] if self.schema else []
        return bool(features) and features[0].is_ids


UNDATED, REST = None, "(others)"
Group = tuple[str, int | None, str]
_NUMBERS: tuple[Kind, ...] = ("int", "bool", "float", "none")
_NO_DAY = -(2**40)
_DAY_US = 86_400_000_000


class LabelCounts:
    """Counts of groups of rows.

    Attributes:
      of: (split, day, scenario) -> float64 `[1 + 2 T]`: rows, then labels and their sum, by task. A day is of UTC,
        counted from 1970, or `UNDATED`. What comes after the bounds is of no day, and of the scenario `REST`.
    """

    def __init__(self, roles: Roles, bounds: Bounds) -> None:
        self.of: dict[Group, np.ndarray] = {}
        self._roles, self._bounds = roles, bounds
        self._days: set[int] = set()
        self._scenarios: set[str] = set()

    def add(self, split: str, file: str, table: pa.Table, columns: Mapping[str, Values]) -> None:
        """Adds rows. Raises `ReadError` where a label is none."""
        for group, counts in self._groups(split, file, table, columns):
            self._add(group, counts)

    def merge(self, other: LabelCounts) -> None:
        """Adds the counts of later rows."""
        for group, counts in other.of.items():
            self._add(group, counts)

    def _add(self, group: Group, counts: np.ndarray) -> None:
        split, day, scenario = group
        if day not in self._days and len(self._days) >= self._bounds.days:
            day = UNDATED
        if scenario not in self._scenarios and len(self._scenarios) >= self._bounds.scenarios:
            scenario = REST
        if day is not None:
            self._days.add(day)
        self._scenarios.add(scenario)
        at = (split, day, scenario)
        self.of[at] = self.of.get(at, 0) + counts

    def _groups(
        self, split: str, file: str, table: pa.Table, columns: Mapping[str, Values]
    ) -> Iterator[tuple[Group, np.ndarray]]:
        """The counts of each group of the rows, by day and scenario."""
        rows = table.num_rows
        parts = self._parts(file, columns, rows)
        days, dated = self._days_of(columns, rows)
        scenario, names = self._scenarios_of(table)
        of_day = pa.array(np.where(dated, days, _NO_DAY)).dictionary_encode()
        group = of_day.indices.to_numpy().astype(np.int64) * len(names) + scenario
        counts = np.stack([np.bincount(group, part, len(of_day.dictionary) * len(names)) for part in parts], axis=1)
        keys = [(day, name) for day in of_day.dictionary.to_pylist() for name in names]
        for at in sorted(np.flatnonzero(counts[:, 0]).tolist(), key=lambda at: (keys[at][0], at)):
            day, name = keys[at]
            yield (split, UNDATED if day == _NO_DAY else day, name), counts[at]

    def _parts(self, file: str, columns: Mapping[str, Values], rows: int) -> list[np.ndarray]:
        """What is summed, `[rows]` each."""
        roles, parts = self._roles, [np.ones(rows)]
        for name in {*roles.labels.values(), *roles.masks.values()}:
            if columns[name].lengths is not None or columns[name].kind not in _NUMBERS:
                got = "lists" if columns[name].lengths is not None else columns[name].kind
                raise ReadError(
                    f"{file}: column {name!r}: expected numbers of a label, or a comparison as '{name}=1', got {got}"
                )
        for task, label in roles.labels.items():
            mask = columns[roles.masks[task]] if task in roles.masks else None
            y, counts = label_of(columns[label], mask)
            parts += [counts, np.where(counts, y, 0)]
        return parts

    def _days_of(self, columns: Mapping[str, Values], rows: int) -> tuple[np.ndarray, np.ndarray]:
        name = self._roles.time
        if name is None:
            return np.zeros(rows, np.int64), np.zeros(rows, bool)
        return days_of(columns[name])

    def _scenarios_of(self, table: pa.Table) -> tuple[np.ndarray, list[str]]:
        """The scenario of each row, by its place in a list of names."""
        if self._roles.scenario is None:
            return np.zeros(table.num_rows, np.int64), [""]
        encoded = decoded(one_array(table.column(self._roles.scenario))).dictionary_encode(null_encoding="encode")
        names = ["(missing)" if name is None else str(name) for name in encoded.dictionary.to_pylist()]
        return encoded.indices.to_numpy().astype(np.int64), names


def label_of(label: Values, mask: Values | None) -> tuple[np.ndarray, np.ndarray]:
    """A label as float64 `[n]`, and where it counts."""
    counts = label.valid.copy()
    if mask is not None:
        counts &= mask.valid & (numbers_of(mask.kind, mask.keys) == 1)
    return numbers_of(label.kind, label.keys), counts


def days_of(times: Values) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970 in UTC, int64 `[n]`, and where there is one."""
    return np.where(times.valid, times.keys.view(np.int64), 0) // _DAY_US, times.valid
