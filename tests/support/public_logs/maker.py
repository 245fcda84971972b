"""Small logs in the shapes of public ones, with what `tt-jax init` is to make of each."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 600
START = 1_413_849_600  # 2014-10-21 00:00 UTC


@dataclass(frozen=True)
class Found:
    """What is to be found: "" and empty where nothing is.

    Attributes:
      tasks: their labels.
      user, ad, time: columns.
      kinds: feature -> kind, of some.
      out: columns that are no features.
      text: texts that are in the file.
    """

    tasks: tuple[str, ...]
    user: str = ""
    ad: str = "row_number"
    time: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    out: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


Columns = Mapping[str, Any]  # name -> ROWS values
LOGS: dict[str, tuple[Callable[[Path], None], Found]] = {}


def log(found: Found) -> Callable[[Callable[[np.random.Generator], tuple[str, Columns]]], None]:
    """Names a maker of `(file name, columns)`, by its own name."""

    def add(make: Callable[[np.random.Generator], tuple[str, Columns]]) -> None:
        def write(folder: Path) -> None:
            name, columns = make(np.random.default_rng(len(make.__name__)))
            write_file(folder / name, columns)

        LOGS[make.__name__] = write, found

    return add


DELIMITERS = {".csv": ",", ".tsv": "\t", ".semicolons": ";", ".hive": "\x01"}


def write_file(path: Path, columns: Columns) -> None:
    """In the format of the suffix; semicolons in a `.csv`, Hive's text without a suffix."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(columns)), path)
        return
    if path.suffix == ".jsonl":
        kept = [{k: v for k, v in zip(columns, row, strict=True) if v is not None} for row in rows]
        path.write_text("".join(json.dumps(row, default=lambda v: v.item()) + "\n" for row in kept))
        return
    renamed = {".semicolons": path.with_suffix(".csv"), ".hive": path.with_suffix("")}.get(path.suffix, path)
    with renamed.open("w", newline="") as file:
        csv.writer(file, delimiter=DELIMITERS[path.suffix]).writerows([list(columns), *rows])


def ids(rng: np.random.Generator, n: int, prefix: str = "", size: int = ROWS) -> list[Any]:
    drawn = rng.integers(0, n, size) + 1000
    return [f"{prefix}{i}" for i in drawn] if prefix else drawn.tolist()


def clicks(rng: np.random.Generator, rate: float = 0.3) -> np.ndarray:
    return (rng.random(ROWS) < rate).astype(int)


def moments(step_s: int = 3600) -> list[datetime.datetime]:
    return [datetime.datetime.fromtimestamp(START + i * step_s, datetime.UTC) for i in range(ROWS)]


def joined(rng: np.random.Generator, words: Sequence[str], separator: str, most: int = 4) -> list[str]:
    return [separator.join(rng.choice(words, rng.integers(1, most + 1), replace=False)) for _ in range(ROWS)]
