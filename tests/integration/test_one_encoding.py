"""One value has one encoding: the same rows in every format, and as requests, are the same bytes."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from input_pipeline import logs
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from serving.service.messages import read_request
from tests.support import log_files
from tt_jax.features.encoder import Encoder
from tt_jax.schema import Feature, Schema, Task

SCHEMA = Schema(
    "one",
    (
        Feature("city", "categorical", "query", hash_size=1 << 20),
        Feature("known", "categorical", "query", vocabulary=("1", "01", "NaN", " ", "null", "a,b", '"'), hash_size=99),
        Feature("user", "categorical", "query", "int", hash_size=1 << 20),
        Feature("tags", "bag", "query", max_length=4, hash_size=1 << 20),
        Feature("seen", "sequence", "query", max_length=3, shares="city"),
        Feature("ages", "sequence", "query", "int", max_length=3, shares="user"),
        Feature("price", "numeric", "query", std=1e3, indicator=True),
        Feature("ad", "categorical", "ad", hash_size=1 << 20),
    ),
    (Task("click", "clicked"),),
    "place",
    ("home", "01"),
    ad_id="ad",
    ad_id_dtype="string",
    request_id="request",
    user_id="user",
)
WORDS = [
    "", "0", "00", "007", "1.10", "1.1", "1e5", "0x1F", "+1", "-0", "NaN", "nan", "null", "NULL", "None", "NA", "\\N",
    "true", "True", "inf", " ", " a", "a ", "\t", "home & garden", "Children's", '"', "''", "a,b", "a|b", "a;b", "[]",
    "[1, 2]", "['a']", '["a"]', "{}", "\u00e9", "e\u0301", "\U0001f600", "\u4e2d", "a\nb", "a\r\nb", "\u2028",
    "\ufeff", "a\x00b", "\x01", "123456789012345678901234567890", "9223372036854775808", "2024-01-31",
]  # fmt: skip
TEXTS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
ROWS = st.lists(
    st.fixed_dictionaries({
        "city": st.none() | TEXTS,
        "known": st.none() | TEXTS | st.sampled_from(SCHEMA.feature("known").vocabulary),
        "user": st.none() | INTS,
        "tags": st.none() | st.lists(TEXTS, max_size=5),
        "seen": st.none() | st.lists(TEXTS, max_size=5),
        "ages": st.none() | st.lists(INTS, max_size=5),
        "price": st.none() | st.integers(-(10**4), 10**4).map(lambda n: n / 8),
        "ad": TEXTS.filter(bool),
        "place": st.sampled_from(SCHEMA.scenarios),
        "request": st.integers(-(2**63), 2**63 - 1),
        "clicked": st.sampled_from([0, 1]),
    }),
    min_size=1,
    max_size=4,
)  # fmt: skip
TYPES = {
    **dict.fromkeys(("city", "known", "ad", "place"), pa.string()),
    **dict.fromkeys(("tags", "seen"), pa.list_(pa.string())),
    **dict.fromkeys(("user", "request", "clicked"), pa.int64()),
    "ages": pa.list_(pa.int64()),
    "price": pa.float64(),
}
Rows = list[dict[str, Any]]


def table(rows: Rows, text: pa.DataType | None = None) -> pa.Table:
    """The rows as Arrow has them, their texts of another type."""
    fields = []
    for name, type_ in TYPES.items():
        if text is not None and type_ == pa.string():
            type_ = text
        elif text is not None and type_ == pa.list_(pa.string()) and not pa.types.is_dictionary(text):
            type_ = pa.list_(text)
        fields.append((name, type_))
    return pa.table({name: pa.array([row[name] for row in rows], type_) for name, type_ in fields})


def delimited(delimiter: str) -> Callable[[Rows, Path], None]:
    def write(rows: Rows, path: Path) -> None:
        with tempfile.TemporaryFile("w+", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")  # so that both are put in quotes
            writer.writerow(TYPES)
            for row in rows:
                cells = [json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in map(row.get, TYPES)]
                writer.writerow(["" if v is None else v for v in cells])
            file.seek(0)
            log_files.write_bytes(path, file.read().encode())

    return write


def json_lines(rows: Rows, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(text: pa.DataType) -> Callable[[Rows, Path], None]:
    return lambda rows, path: pq.write_table(table(rows, text), path)


WRITERS: dict[str, Callable[[Rows, Path], None]] = {
    "a.csv": delimited(","),
    "a.tsv": delimited("\t"),
    "a.csv.gz": delimited(","),
    "a.jsonl": json_lines,
    "string.parquet": parquet(pa.string()),
    "large.parquet": parquet(pa.large_string()),
    "dictionary.parquet": parquet(pa.dictionary(pa.int32(), pa.string())),
    "view.parquet": parquet(pa.string_view()),
    "view.arrow": lambda rows, path: log_files.write_arrow(table(rows, pa.string_view()), path),
    "a.feather": lambda rows, path: feather.write_feather(table(rows, pa.large_string()), str(path)),
    "a.tfrecord": lambda rows, path: log_files.write_tfrecord(table(rows), path),
    "a.array_record": lambda rows, path: log_files.write_array_record(table(rows), path),
}


def prepared(source: Path, out: Path, text: logs.TextFormat | None = None) -> PreparedSet:
    prepare(SCHEMA, logs.read_logs(source, SCHEMA, logs.every(10), text=text or logs.TextFormat()), out)
    return PreparedSet.open(out)


def as_request(row: dict[str, Any]) -> dict[str, Any]:
    """The row's query, as a service has it of a body."""
    query = {f.name: row[f.name] for f in SCHEMA.tower_features("query")}
    found = read_request(json.dumps({"query": query}).encode()).query
    assert found is not None
    return found


def stored(found: PreparedSet) -> dict[bytes, bytes]:
    """Ids and floats of each row, by its request and its ad."""
    blocks = found.blocks(("train",))
    rows = {}
    for block in (blocks[i] for i in range(len(blocks))):
        for i in range(len(block["keys"])):
            key = block["keys"][i].tobytes()
            rows[key] = b"".join(block[name][i].tobytes() for name in ("query_ids", "query_floats", "ad_ids"))
    return rows


@settings(max_examples=20, deadline=None)
@given(ROWS)
@example([
    {"city": word, "known": word, "user": None, "tags": [word, "x", word], "seen": [word], "ages": [2**53 + 1],
     "price": -0.5, "ad": word or "?", "place": "01", "request": i, "clicked": 0}
    for i, word in enumerate(WORDS)
][:9])  # fmt: skip
def test_the_same_rows_are_the_same_in_every_format_and_as_requests(rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for i, (name, write) in enumerate(WRITERS.items()):
            source = Path(folder, str(i))
            source.mkdir()
            write(rows, source / name)
            sets[name] = prepared(source, Path(folder, f"set{i}"))
        fingerprints = {name: found.fingerprint for name, found in sets.items()}
        assert len(set(fingerprints.values())) == 1, fingerprints
        expected = stored(sets["a.csv"])
    encoder = Encoder(SCHEMA)
    queries = encoder.encode_queries([as_request(row) for row in rows]).arrays
    ads = encoder.encode({"ad": [row["ad"] for row in rows]}, ("ad",), outcomes=False).arrays
    columns = {name: [row[name] for row in rows] for name in ("request", "user", "ad", "place", "clicked")}
    keys = encoder.encode(columns, ()).arrays["keys"]
    found = {
        keys[i].tobytes(): b"".join((queries["query_ids"][i].tobytes(), queries["query_floats"][i].tobytes(),
                                     ads["ad_ids"][i].tobytes()))
        for i in range(len(rows))
    }  # fmt: skip
    assert found == expected


def test_every_word_is_an_id_of_its_own(tmp_path: Path) -> None:
    """Of the words that no format may mistake for another one, in an exact vocabulary."""
    words = [word for word in WORDS if word]
    vocabulary = Feature("city", "categorical", "query", vocabulary=tuple(words))
    schema = Schema("words", (vocabulary, SCHEMA.feature("ad")), SCHEMA.tasks, "place", ("01",), "ad")
    expected = np.arange(len(words)) + 2
    for name, write in WRITERS.items():
        rows = [
            {"city": word, "known": "", "user": 1, "tags": [], "seen": [], "ages": [], "price": 0.0, "ad": word,
             "place": "01", "request": 1, "clicked": 1}
            for word in words
        ]  # fmt: skip
        (tmp_path / name).mkdir()
        write(rows, tmp_path / name / name)
        chunks = logs.read_logs(tmp_path / name, schema, logs.every(1000))
        table_ = pa.concat_tables([chunk.table for chunk in chunks])
        found = Encoder(schema).encode({c: table_.column(c) for c in table_.column_names}).arrays["query_ids"]
        assert found[:, 0].tolist() == expected.tolist(), name
