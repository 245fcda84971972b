"""A log in parts: each is surveyed on its own, and the surveys merge in their order, whichever runner made them.

A part is some files of it, by their sizes only: the report does not depend on who works on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from input_pipeline import recipes
from input_pipeline.inspect.roles import Roles
from input_pipeline.inspect.survey import Survey, raw_chunks, survey
from input_pipeline.readers import PLAIN, STRICT, Chunk, Errors, TextFormat, list_files, read
from input_pipeline.runner import Runner, groups_of

SPLITS = ("train", "valid", "eval", "test", "dev", "holdout")  # names of files of a raw log that make a split
PARTS = 64  # at most: to merge two surveys takes some hundredths of a second
Told = Callable[[Iterable[Chunk]], Iterator[Chunk]]


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


def surveys(log: Log, roles: Roles, runner: Runner, told: Told = iter) -> Iterator[Survey]:
    """The survey of each part, in order. `told` is wrapped around the chunks where they are read: it tells of progress.

    Raises `ReadError` as `Survey.add` does.
    """
    return runner.map(partial(_survey_part, log, roles, told), enumerate(log.parts()))


def _survey_part(log: Log, roles: Roles, told: Told, part: tuple[int, list[str] | None]) -> Survey:
    number, files = part
    return survey(told(log.chunks(files)), roles, part=number)


def merged(found: Iterable[Survey], roles: Roles) -> Survey:
    """All of them as one; of none, an empty one. One and the next are in memory. Raises `ReadError`."""
    total = None
    for one in found:
        if total is None:
            total = one
        else:
            total.merge(one)
    return Survey(roles) if total is None else total
