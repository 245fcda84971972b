"""How the values of a log seem to be written as text: what divides cells and elements, what stands for nothing."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.infer_schema.sampled_columns import Column, quoted
from input_pipeline.readers import PLAIN, ReadError
from input_pipeline.sources.detect_format import HEAD_BYTES, cells_of
from input_pipeline.sources.listing import list_sources
from input_pipeline.sources.text_format import DELIMITERS, JSON, MARKERS, TextFormat
from input_pipeline.values.cast import cast
from input_pipeline.values.infer_types import types_of_texts

_EXPECTED = {"csv": ",", "tsv": "\t"}  # delimiter by format
_NEVER_TEXT = {"\\N", "#N/A", "<NA>", "(null)"}
_OFTEN = 0.01  # of the rows: a marker in a column of text
_CODE = re.compile(r"[A-Z]{2}")  # beside which `NA` is one more, as Namibia is beside DE
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL_COMMA = r"^[-+]?\d+,\d+$"
_SURE, _UNSURE = ("|", "^", "\x02", "\t", ";"), (",", " ")
_LIST_WORDS = {"list", "ids", "seq", "sequence", "history", "hist", "tags", "genres", "genre", "topics", "categories",
               "interests", "keywords", "hobbies"}  # fmt: skip
_PAST_WORDS = {"recent", "last", "past", "previous", "clicked", "viewed", "bought", "watched"}
_PROSE_WORDS = {"title", "text", "name", "description", "desc", "abstract", "headline", "comment", "review", "query",
                "summary", "address", "body"}  # fmt: skip
_EXAMPLE = 40  # characters
_MOST = 2_000  # distinct texts looked at


@dataclass
class Guess:
    """A `TextFormat` and, of each of its markers and separators, the columns or the reason."""

    delimiter: str = ""
    quotes: bool = True  # around cells; else they are text
    missing: dict[str, list[str]] = field(default_factory=dict)  # marker -> columns
    separators: dict[str, str] = field(default_factory=dict)  # column -> separator, none where it is JSON
    examples: dict[str, str] = field(default_factory=dict)  # column -> a text with its separator

    @property
    def format(self) -> TextFormat:
        """As `read` takes it."""
        return TextFormat(self.delimiter, tuple(self.missing), dict(self.separators), self.quotes)

    def source_text(self) -> str:
        """As Python, for people to correct."""
        head = "# How values are written as text: cells, what is missing, lists."
        if self.format == PLAIN:
            return f"{head}\nTEXT = logs.TextFormat()\n"
        lines = [head, "TEXT = logs.TextFormat("]
        if self.delimiter:
            lines.append(f"    delimiter={quoted(self.delimiter)},")
        if not self.quotes:
            lines.append("    quotes=False,  # they are part of the text")
        if self.missing:
            lines.append("    missing=(  # texts that stand for a missing value, in every column; where they were seen")
            for marker, names in self.missing.items():
                seen = " ".join(", ".join(names[:5]).split())
                lines.append(f"        {quoted(marker)},  # {seen}{', ...' * (len(names) > 5)}")
            lines.append("    ),")
        if self.separators:
            lines.append("    separators={  # of lists and vectors, by column")
            lines += [f"        {quoted(name)}: {quoted(separator)},  # as {quoted(self.examples[name])}"
                      for name, separator in self.separators.items()]  # fmt: skip
            lines.append("    },")
        return "\n".join([*lines, ")", ""])

    def remarks(self) -> Iterator[str]:
        """What was guessed, for people."""
        if self.delimiter:
            yield f"cells are divided by {self.delimiter!r}"
        if not self.quotes:
            yield "quotes are part of the text: some stand within a cell that begins with one"
        for marker, names in self.missing.items():
            yield f"{marker!r} stands for a missing value; seen in {', '.join(names)}"
        for name, separator in self.separators.items():
            yield f"{name}: lists or vectors divided by {separator!r}, as {self.examples[name]!r}"


def delimiter_of_files(source: str) -> str:
    """What divides the cells of the CSV and TSV files of a source; "" if what is expected of them does.

    Raises `ReadError` if files differ in it, or if the first line of one is none of names.
    """
    first_file: dict[str, str] = {}  # delimiter -> the first file
    for one in [] if source.startswith("tfds:") else list_sources(source).sources:
        if one.format in _EXPECTED and (head := one.head(HEAD_BYTES)).strip():
            delimiter = _delimiter(one.name, head, _EXPECTED[one.format])
            first_file.setdefault("" if delimiter == _EXPECTED[one.format] else delimiter, one.name)
    if len(first_file) > 1:
        (one, file), (other, its) = list(first_file.items())[:2]
        how = [f"by {d!r}" if d else "as their names say" for d in (one, other)]
        raise ReadError(f"the cells of {file} are divided {how[0]}, those of {its} {how[1]}; give --data one log")
    return next(iter(first_file), "")


def _delimiter(file: str, head: bytes, expected: str) -> str:
    """The expected delimiter if it divides the lines alike, else the one that makes most cells. Raises `ReadError`."""
    whole, text = len(head) < HEAD_BYTES, head.decode("utf-8-sig", "replace")
    cells = {d: cells_of(text, d, whole) for d in (expected, *DELIMITERS, " ")}
    delimiter = max(cells, key=lambda d: (d == expected and len(cells[d]) > 1, len(cells[d])))
    _check_names(file, text, cells[delimiter])
    return delimiter if len(cells[delimiter]) > 1 else expected


def _check_names(file: str, head: str, cells: list[str]) -> None:
    line = head.splitlines()[0]
    if "::" in line and len(cells) < 2:
        raise ReadError(f"{file}: cells divided by '::' are not read: write one character between them")
    numbers = [c for c in cells if _NUMBER.fullmatch(c.strip())]
    if 4 * len(numbers) >= max(len(cells), 1) and numbers and numbers != [str(i) for i in range(len(numbers))]:
        raise ReadError(f"{file}: a line of names is needed before the rows; the first one begins with {line[:60]!r}")


def markers_of(columns: Mapping[str, Column]) -> dict[str, list[str]]:
    """The texts that seem to stand for a missing value, and in which columns.

    Those beside which a column has only numbers, truth values or times; in text some that mean nothing else, and
    others that stand in one of a hundred rows.
    """
    columns_of: dict[str, list[str]] = {}
    for column in columns.values():
        if not column.is_text:
            continue
        texts = column.array.drop_null()
        distinct = texts.unique()
        there = [m for m in MARKERS if m in set(distinct.filter(pc.is_in(distinct, pa.array(MARKERS))).to_pylist())]
        rest = distinct.filter(pc.invert(pc.is_in(distinct, pa.array(there, pa.string()))))
        if not there or not len(rest):
            continue
        if not _is_typed(rest):
            there = [m for m in there if m in _NEVER_TEXT or _is_often(m, texts, rest)]
        for marker in there:
            columns_of.setdefault(marker, []).append(column.name)
    return columns_of


def _is_typed(texts: pa.Array) -> bool:
    batch = pa.record_batch({"texts": texts})
    if not pa.types.is_string(types_of_texts([batch], ())["texts"]):
        return True
    return pc.all(pc.match_substring_regex(texts, r"^\d{4}[-/]\d{2}[-/]\d{2}")).as_py() is True


def _is_often(marker: str, texts: pa.Array, rest: pa.Array) -> bool:
    if marker == "NA" and all(_CODE.fullmatch(t) for t in rest.slice(0, 100).to_pylist()):
        return False
    return pc.sum(pc.equal(texts, marker)).as_py() >= _OFTEN * len(texts)


def has_decimal_commas(column: Column, delimiter: str) -> bool:
    """Whether it is of numbers as `3,14`, not of lists: commas do not divide the cells, or there is one as `3,05`."""
    texts = column.array.drop_null()
    if delimiter in ("", ",") and not pc.any(pc.match_substring_regex(texts, r"^[-+]?\d+,0\d+$")).as_py():
        return False
    decimals = texts.filter(pc.match_substring_regex(texts, _DECIMAL_COMMA))
    rest = texts.filter(pc.invert(pc.match_substring_regex(texts, _DECIMAL_COMMA)))
    return len(decimals) > 0.5 * len(texts) and (not len(rest) or _is_typed(rest))


def separator_of(column: Column) -> str:
    """What divides the elements of lists or vectors in a column of text; "" if it is no such column."""
    distinct = column.array.drop_null().unique().slice(0, _MOST)
    if not len(distinct):
        return ""
    if pc.mean(pc.match_substring_regex(distinct, r"(?s)^\s*\[.*\]\s*$").cast(pa.float64())).as_py() == 1:
        return (
            JSON if not (lists_of(distinct, JSON, pa.string())[1] and lists_of(distinct, JSON, pa.float64())[1]) else ""
        )
    words = set(column.words)
    for separator in (*_SURE, *_UNSURE):
        has_it = pc.match_substring(distinct, separator)
        if not pc.any(has_it).as_py():
            continue
        if is_vector(distinct, separator):
            return separator
        if pc.mean(has_it.cast(pa.float64())).as_py() < 0.05 or (separator in _UNSURE and words & _PROSE_WORDS):
            continue
        elements = lists_of(distinct, separator, pa.string())[0].flatten().unique()
        if _is_of_few(elements, distinct, separator, words):
            return separator
    return ""


def example_of(column: Column, separator: str) -> str:
    """The beginning of a text with that separator."""
    texts = column.array.drop_null()
    text = texts.filter(pc.match_substring(texts, separator))[0].as_py()
    return text if len(text) <= _EXAMPLE else text[:_EXAMPLE] + "..."


def _is_of_few(elements: pa.Array, texts: pa.Array, separator: str, words: set[str]) -> bool:
    """Whether texts are made of few elements, of which each is one thing: not the words of prose."""
    if separator in _SURE:
        return len(elements) < len(texts)
    few, named = 2 * len(elements) < len(texts), bool(words & _LIST_WORDS)
    if separator == ",":
        return few and (named or not pc.any(pc.match_substring(texts, ", ")).as_py())
    are_ids = pc.mean(pc.match_substring_regex(elements, r"\d").cast(pa.float64())).as_py() > 0.9
    return (are_ids and (few or named or bool(words & _PAST_WORDS))) or (few and named)


def is_vector(texts: pa.Array, separator: str) -> bool:
    """Whether all texts are lists of equally many numbers, some of them no whole ones."""
    lists, wrong = lists_of(texts, separator, pa.float64())
    lengths = pc.list_value_length(lists).unique()
    if wrong or len(lengths) != 1 or (lengths[0].as_py() or 0) < 2:
        return False
    numbers = lists.flatten()
    return not pc.all(pc.equal(numbers, pc.floor(numbers))).as_py()


def as_lists(column: Column, separator: str) -> Column:
    """A column of text as lists: of numbers if all elements are, else of text."""
    texts, wrong = lists_of(column.array, separator, pa.string())
    of = types_of_texts([pa.record_batch({"elements": texts.flatten()})], ())["elements"]
    of = pa.float64() if wrong else of if of in (pa.int64(), pa.float64()) else pa.string()
    return Column(column.name, lists_of(column.array, separator, of)[0])


def lists_of(texts: pa.Array, separator: str, of: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """The lists `[n]` of texts, and what does not fit, by row."""
    return cast(texts, pa.list_(of), TextFormat(separators={"lists": separator}), "lists")
