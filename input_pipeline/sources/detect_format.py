"""Which format and which compression a file has: by its name, or by its first bytes where the name does not tell."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from input_pipeline.sources.crc32c import HEADER, masked_of
from input_pipeline.sources.text_format import DELIMITERS

JSON_ARRAY = "json"  # one array of objects; a file named `.json` may as well have an object a line


def begins(*magic: bytes) -> Callable[[bytes], bool]:
    """Whether the first bytes of a file are one of these."""
    return lambda head: head.startswith(magic)


def is_tfrecord(head: bytes) -> bool:
    """Whether the length of a first record has the checksum of a TFRecord."""
    return len(head) >= HEADER.size and masked_of(head[:8]) == HEADER.unpack(head[: HEADER.size])[1]


@dataclass(frozen=True)
class FileFormat:
    """A format of files.

    Attributes:
      suffixes: of names, without the dot.
      reader: the module of `input_pipeline.readers` whose `tables` reads it.
      shown_by: whether the first bytes of a file show this format; None of text, which `by_content` looks into.
      streamed: read from its beginning to its end, and so from within a compressed file; no bytes are no rows.
    """

    suffixes: tuple[str, ...]
    reader: str
    shown_by: Callable[[bytes], bool] | None = None
    streamed: bool = False


FORMATS = {
    "parquet": FileFormat(("parquet", "pq", "parq"), "parquet", begins(b"PAR1")),
    "arrow": FileFormat(("arrow", "arrows", "ipc", "feather"), "arrow_ipc", begins(b"ARROW1", b"\xff\xff\xff\xff")),
    "array_record": FileFormat(
        ("array_record", "arrayrecord"), "array_record", begins(bytes.fromhex("83af70d10d884a3f"))
    ),
    "tfrecord": FileFormat(("tfrecord", "tfrecords"), "tfrecord", is_tfrecord, streamed=True),
    "jsonl": FileFormat(("jsonl", "ndjson", "jsonlines"), "jsonl", streamed=True),
    JSON_ARRAY: FileFormat(("json",), "jsonl", streamed=True),
    "csv": FileFormat(("csv",), "delimited", streamed=True),
    "tsv": FileFormat(("tsv", "tab"), "delimited", streamed=True),
}
_BY_SUFFIX = {suffix: name for name, format_ in FORMATS.items() for suffix in format_.suffixes}
COMPRESSIONS = {
    "gz": "gzip", "gzip": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd", "zstd": "zstd", "lz4": "lz4",
}  # fmt: skip
HEAD_BYTES = 1 << 16

_NAME = re.compile(r"\.(\w+)(?:-\d+-of-\d+)?$")  # TFDS numbers its shards after the suffix
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_UNREAD = {
    b"ORC": "ORC", b"Obj\x01": "Avro", b"PK\x03\x04": "a zip archive", b"SEQ": "a Hadoop sequence file",
    b"\x89HDF": "HDF5", b"SQLite": "SQLite", b"7z\xbc\xaf": "a 7z archive", b"FEA1": "Feather version 1",
}  # fmt: skip
_NO_DATA_NAMES = ("license", "licence", "copying", "notice", "changelog", "citation")
_NO_DATA_SUFFIXES = (
    "md", "rst", "crc", "md5", "sha1", "sha256", "sha512", "pdf", "html", "htm", "py", "ipynb", "sh", "png", "jpg",
    "jpeg", "gif", "svg",
)  # fmt: skip
_UNFINISHED = ("tmp", "temp", "part", "partial", "inprogress", "crdownload", "bak", "old", "orig", "swp", "lock")
_VALUE = re.compile(r"\s*([-+.]?\d.*|null|nan|n/?a|none|true|false|\\n|-)\s*", re.IGNORECASE | re.DOTALL)  # no name


def by_name(name: str) -> tuple[str | None, str | None]:
    """`(format, compression)` as the name says, whatever the case of its letters; None where it does not."""
    name = name.rsplit("/", 1)[-1].lower()
    stem, _, last = name.rpartition(".")
    compression = COMPRESSIONS.get(last) if stem else None
    match = _NAME.search(stem if compression else name)
    return _BY_SUFFIX.get(match[1]) if match else None, compression


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder says that it is none of the data: by `.` or `_`, but for `_key=value`."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def holds_no_data(name: str) -> bool:
    """Whether the name is that of documentation, of a checksum or of a program."""
    name = name.rsplit("/", 1)[-1].lower()
    is_text = name.startswith("readme") or name.partition(".")[0] in _NO_DATA_NAMES
    return is_text or name.rpartition(".")[2] in _NO_DATA_SUFFIXES


def is_copy(name: str) -> bool:
    """Whether the name is that of a backup, or of a file that is still being written, whatever is in it."""
    return name.endswith("~") or name.lower().rpartition(".")[2] in _UNFINISHED


def compression_of(head: bytes) -> str | None:
    """The compression that the first bytes of a file show."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def by_content(head: bytes, whole: bool) -> tuple[str, str]:
    """`(format, delimiter)` of a file without its compression, by its first bytes; `whole`: they are all it has.

    The delimiter is that of the cells of text, else "".

    Raises ValueError saying what it is, if that is not read.
    """
    for name, format_ in FORMATS.items():
        if format_.shown_by is not None and format_.shown_by(head):
            return name, ""
    text = _text_of(head, whole)
    if text.lstrip().startswith(("{", "[")):
        return _json(text), ""
    delimiter = _delimited(text, whole)
    return "tsv" if delimiter == "\t" else "csv", delimiter


def _text_of(head: bytes, whole: bool) -> str:
    try:
        text = (head if whole else head[: head.rfind(b"\n") + 1] or head).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        what = next((what for magic, what in _UNREAD.items() if head.startswith(magic)), None)
        raise ValueError(f"{what}: write it as Parquet" if what else "neither its name nor its first bytes tell")
    return text


def _json(text: str) -> str:
    text = text.lstrip()
    if re.match(r"\[\s*[{\]]", text):
        return JSON_ARRAY
    line, end, _ = text.partition("\n")
    try:
        is_object = isinstance(json.loads(line), dict)
    except ValueError:
        is_object = False
    if not is_object and (end or not line.startswith("{")):
        raise ValueError("JSON, but neither an object a line nor one array of objects")
    return "jsonl"


def _delimited(text: str, whole: bool) -> str:
    """The delimiter of text. Raises ValueError if it is no table with a line of names."""
    if not text.strip():
        return ","  # of no rows
    delimiter = max((*DELIMITERS, " "), key=lambda d: len(cells_of(text, d, whole)))
    names = cells_of(text, delimiter, whole)
    if len(names) < 2 or (delimiter == " " and len(text.splitlines()) == 1):
        raise ValueError("text, but not of one number of cells in each line")
    if any(_VALUE.fullmatch(name) for name in names):
        raise ValueError(f"delimited text without a line of names: it begins with {text.splitlines()[0][:80]!r}")
    return delimiter


def cells_of(text: str, delimiter: str, whole: bool) -> list[str]:
    """The cells of the first line; none if another line has another number of them. `whole`: the text is not cut."""
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):  # a quote may be text
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
            rows = [row for row in reader if row]
        except csv.Error:
            continue
        if not whole and len(rows) > 1:
            rows.pop()  # may go on behind what was read
        if rows and all(len(row) == len(rows[0]) for row in rows):
            return rows[0]
    return []
