"""Quotes in CSV: around cells, or part of their text; never lost, and no line is taken for a part of a cell."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.infer_schema.write import infer_recipe
from input_pipeline.readers import ReadError, TextFormat, delimited, read
from input_pipeline.readers.quotes import QuoteError
from tests.support.init_logs import call, log

RAW = TextFormat(quotes=False)


def texts(path: Path, text: TextFormat | None = None) -> list[str]:
    types = {"a": pa.string(), "b": pa.string()}
    tables = [table for _, _, table in read(path, types, text=text or TextFormat())]
    return pa.concat_tables(tables).column("b").to_pylist()


@pytest.mark.parametrize(
    ("cell", "row"),
    [
        ('"The Show" again', 1),
        ('"no end', 1),
        (r'"say \"hi\" now"', 1),
        ('"a""b" c', 1),
    ],
)
@pytest.mark.parametrize("block", [16, 40, 1 << 20])
def test_a_quote_within_a_cell_in_quotes_is_refused_by_row(
    cell: str, row: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", block)
    path = tmp_path / "a.tsv"
    path.write_text(f"a\tb\n1\tx\n\n2\t{cell}\n3\ty\n4\t{cell}\n5\tz\n")
    with pytest.raises(ReadError, match=rf"a\.tsv: row {row}: expected cells with quotes .* line \d.*quotes=False"):
        texts(path)
    assert texts(path, RAW) == ["x", cell, "y", cell, "z"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_what_is_well_formed_is_read_as_python_reads_it(delimiter: str, end: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [[str(i), "".join(rng.choices(["a", '"', delimiter, "\n", " ", "\\"], k=rng.randint(1, 4)))]
            for i in range(300)]  # fmt: skip
    whole = io.StringIO(newline="")
    csv.writer(whole, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    path = tmp_path / "a.csv"
    for mark in ("", "\ufeff"):
        path.write_text(mark + whole.getvalue(), encoding="utf-8", newline="")
        for block in (64, 1 << 20):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(delimited, "CHUNK_BYTES", block)
                assert texts(path, TextFormat(delimiter)) == [b for _, b in rows]


def test_a_quote_in_a_cell_without_quotes_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,5" pipe\n2,"x, y"\n3,say "hi"\n4,"""z"""\n')
    assert texts(path) == ['5" pipe', "x, y", 'say "hi"', '"z"']


def test_long_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,5" pipe\n2,"' + "x," * 200_000 + '"\n')
    assert texts(path)[1] == "x," * 200_000


def test_init_takes_quotes_between_tabs_for_text(tmp_path: Path) -> None:
    titles = np.array(['"Bohemian', 'The "Show"', "plain", '"The Show" again'])[np.arange(1000) % 4]
    columns = log(1000, title=titles)
    source, out = tmp_path / "log.tsv", tmp_path / "mine.py"
    rows = zip(*columns.values(), strict=True)
    source.write_text("\n".join("\t".join(map(str, row)) for row in [tuple(columns), *rows]) + "\n")
    found = infer_recipe(str(source), out, 1000)
    out.write_text(found.text)
    assert any("quotes are part of the text" in remark for remark in found.remarks)
    vocabulary = next(f.vocabulary for f in found.schema.features if f.name == "title")
    assert set(vocabulary) == set(titles)
    assert call("prepare", out, f"--source={source}", f"--out={tmp_path / 'set'}") == 0
    (tmp_path / "log.csv").write_text(source.read_text().replace("\t", ","))
    with pytest.raises(QuoteError):
        infer_recipe(str(tmp_path / "log.csv"), out, 1000)
