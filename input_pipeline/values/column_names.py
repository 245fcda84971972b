"""The names of columns: one rule, for every format and every verb. See docs/reference/formats.md."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from input_pipeline.sources.notices import report
from input_pipeline.sources.source import ReadError
from input_pipeline.values.chunks import Types
from tt_jax.io.strict_json import nearest

# As pandas writes the index of a frame to Parquet, and as it calls a column without a name that it has read.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+(\.\d+)?(_level_\d+)?")


def plain_name(name: str) -> str:
    """A name without spaces around it, and without the mark that some programs put before UTF-8."""
    return name.strip("\ufeff \t\r\n")


def require_different(file: str, names: list[str]) -> None:
    """Raises `ReadError` naming the columns of the same name; those without one may be several."""
    first: dict[str, int] = {}
    for place, name in enumerate(map(plain_name, names), 1):
        if name and first.setdefault(name, place) != place:
            raise ReadError(f"{file}: two columns are named {name!r}, number {first[name]} and number {place}")


def require_columns(file: str, table: pa.Table, names: Iterable[str]) -> None:
    """Raises `ReadError` naming the first of the columns that the table lacks, and the nearest one."""
    for name in names:
        if name not in table.column_names:
            raise ReadError(f"{file}: no column {name!r}{nearest(name, table.column_names)}")


def with_names(source: str, file: str, table: pa.Table, types: Types) -> pa.Table:
    """The columns that have a name of their own, by that name. Others are reported, once a source.

    `types` has names that are wanted as they are. Raises `ReadError` as `require_different` does.
    """
    names = table.column_names
    plain = [name if name in types else plain_name(name) for name in names]
    kept = [i for i, name in enumerate(plain) if name in types or (name and not _PANDAS_INDEX.fullmatch(name))]
    require_different(file, [name if i in kept else "" for i, name in enumerate(plain)])
    _report(source, names, plain, kept)
    if len(kept) < len(names):
        table = table.select(kept)
    return table if plain == names else table.rename_columns([plain[i] for i in kept])


def _report(source: str, names: list[str], plain: list[str], kept: list[int]) -> None:
    for i in sorted({*range(len(names))} - {*kept}):
        what = f"is named {plain[i]!r}, as the index of pandas" if plain[i] else "has no name"
        report(f"{source}: column number {i + 1} {what}; it is left out")
    spaced = [names[i] for i in kept if names[i] != plain[i]]
    if spaced:
        report(f"{source}: names are read without the spaces around them: {', '.join(map(repr, spaced))}")
    in_one_case: dict[str, str] = {}
    for name in (plain[i] for i in kept):
        other = in_one_case.setdefault(name.casefold(), name)
        if other != name:
            report(f"{source}: columns {other!r} and {name!r} differ in case only; they are two columns")
