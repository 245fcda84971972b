"""Bad logs: an error that names the place, or rows kept aside, counted and bounded; never half a set."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.quarantine import QUARANTINE, Quarantine
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk, ReadError
from tests.support import log_files, tiny
from tests.support.paths import ROOT
from tests.support.quarantined import chunks_of, kept_rows
from tt_jax.cli.main import main
from tt_jax.schema import SchemaError


@pytest.fixture(scope="module")
def log() -> pa.Table:
    return pa.table(tiny.columns(np.random.default_rng(8), 200))


def _set(log: pa.Table, column: str, rows: dict[int, object]) -> pa.Table:
    values = [rows.get(i, v) for i, v in enumerate(log.column(column).to_pylist())]
    return log.set_column(log.column_names.index(column), column, pa.array(values))


def test_bad_rows_are_kept_aside_and_the_good_ones_prepared(log: pa.Table, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    good = log.take(pa.array([i for i in range(200) if i not in (3, 50, 51, 199)]))
    pq.write_table(
        _set(_set(log, "clicked", {3: 7, 50: 8}), "scenario", {51: "shoping", 199: None}), logs / "a.parquet"
    )
    log_files.write_jsonl(good, logs / "b.jsonl")
    lines = (logs / "b.jsonl").read_text().splitlines()
    lines[10:10] = ["{broken", '{"price": "much"}']
    (logs / "b.jsonl").write_text("\n".join(lines))
    log_files.write_delimited(good, logs / "c.csv")
    lines = (logs / "c.csv").read_text().splitlines()
    lines[1:1] = ["too,few"]
    lines[8:8] = [lines[9].replace(lines[9].split(",")[0], '"x"'), "again,few"]
    lines[9] = "again,few"
    (logs / "c.csv").write_text("\n".join(lines))
    quarantine = Quarantine(100)
    manifest = prepare(tiny.SCHEMA, chunks_of(logs, quarantine), tmp_path / "set", 64, quarantine=quarantine)
    kept = kept_rows(tmp_path / "set")
    places = [(Path(k["file"]).name, k["row"]) for k in kept]
    assert sorted(p for p in places if p[0] == "a.parquet") == [("a.parquet", r) for r in (3, 50, 51, 199)]
    assert sorted(p for p in places if p[0] == "b.jsonl") == [("b.jsonl", 10), ("b.jsonl", 11)]
    assert [p for p in places if p[0] == "c.csv"][:2] == [("c.csv", 0), ("c.csv", 8)]
    assert manifest.rejected == len(kept)
    by_place = dict(zip(places, kept, strict=True))
    assert by_place["a.parquet", 3]["reason"] == "column 'clicked': expected a label of 0 or 1, got 7.0"
    assert by_place["a.parquet", 3]["values"]["clicked"] == 7
    assert by_place["b.jsonl", 11]["values"] == {"price": "much"}
    assert by_place["b.jsonl", 10]["values"] == "{broken"
    prepared = PreparedSet.open(tmp_path / "set", verify=True)
    assert prepared.manifest.rejected == len(kept)
    assert prepared.rows("train") + len(kept) == 200 + 198 + 199


def test_the_good_rows_are_those_of_a_log_without_the_bad(log: pa.Table, tmp_path: Path) -> None:
    bad, quarantine = (0, 7, 8, 120), Quarantine(4)
    pq.write_table(_set(log, "teacher_score", dict.fromkeys(bad, 2.0)), tmp_path / "a.parquet")
    found = prepare(
        tiny.SCHEMA, chunks_of(tmp_path / "a.parquet", quarantine), tmp_path / "a", 64, quarantine=quarantine
    )
    good = log.take(pa.array([i for i in range(200) if i not in bad]))
    expected = prepare(tiny.SCHEMA, [Chunk("train", "log", 0, good)], tmp_path / "b", 64)
    assert found.fingerprint == expected.fingerprint
    assert found.splits == expected.splits


def test_one_bad_row_too_many_ends_the_run_and_leaves_nothing(log: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    pq.write_table(_set(log, "clicked", {3: 7, 50: 8}), tmp_path / "a.parquet")
    quarantine = Quarantine(1)
    chunks = chunks_of(tmp_path / "a.parquet", quarantine)
    with pytest.raises(
        ReadError, match=r"a\.parquet: row (3|50): column 'clicked': .* got [78].0 \(more than 1 bad rows\)"
    ):
        prepare(tiny.SCHEMA, chunks, tmp_path / "out" / "set", quarantine=quarantine)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ValueError, match="max_errors: expected a number >= 0, got -1"):
        Quarantine(-1)


def test_a_column_of_another_type_or_none_in_one_file_of_many(log: pa.Table, tmp_path: Path) -> None:
    position = log.column_names.index("clicked")
    texts = log.set_column(position, "clicked", pa.array(["yes"] * len(log))).slice(40, 20)
    for name, odd, message in (
        ("type", texts, "row 0: column 'clicked': expected double, got 'yes'"),
        ("gone", log.slice(40, 20).drop_columns(["price"]), "column 'price': the column is missing"),
    ):
        logs = tmp_path / name
        for day in range(10):
            (logs / f"day={day}").mkdir(parents=True)
            pq.write_table(odd if day == 2 else log.slice(20 * day, 20), logs / f"day={day}" / "a.parquet")
        with pytest.raises((SchemaError, ReadError), match=message) as error:
            prepare(tiny.SCHEMA, chunks_of(logs), tmp_path / "set")
        assert str(error.value).startswith(f"{logs}/day=2/a.parquet: ")
        quarantine = Quarantine(20)
        chunks = chunks_of(logs, quarantine)
        manifest = prepare(tiny.SCHEMA, chunks, tmp_path / f"{name}_set", quarantine=quarantine)
        assert manifest.rejected == 20
        assert {k["file"] for k in kept_rows(tmp_path / f"{name}_set")} == {f"{logs}/day=2/a.parquet"}


def test_a_key_of_another_type_in_one_file_is_named(log: pa.Table, tmp_path: Path) -> None:
    pq.write_table(log, tmp_path / "a.parquet")
    position = log.column_names.index("user_id")
    pq.write_table(log.set_column(position, "user_id", pa.array(range(200))), tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match=r"b\.parquet: column 'user_id': expected strings .* got integers: 0"):
        prepare(tiny.SCHEMA, chunks_of(tmp_path / "*.parquet"), tmp_path / "set")


def test_a_new_column_is_of_no_matter(log: pa.Table, tmp_path: Path) -> None:
    pq.write_table(log.slice(0, 100), tmp_path / "a.parquet")
    pq.write_table(log.slice(100).append_column("new", pa.array(range(100))), tmp_path / "b.parquet")
    found = prepare(tiny.SCHEMA, chunks_of(tmp_path / "*.parquet"), tmp_path / "set", 64)
    assert found.fingerprint == prepare(tiny.SCHEMA, [Chunk("train", "x", 0, log)], tmp_path / "b", 64).fingerprint


_RUN = """
    import os, signal, sys
    from pathlib import Path
    from input_pipeline.prepare.sequential import prepare
    from input_pipeline.prepare.quarantine import Quarantine
    from tests.support import quarantined
    from tests.support import tiny

    def chunks(source, quarantine):
        for i, chunk in enumerate(quarantined.chunks_of(source, quarantine)):
            if sys.argv[3] == "kill" and i == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    quarantine = Quarantine(1000)
    try:
        prepare(tiny.SCHEMA, chunks(Path(sys.argv[1]), quarantine), sys.argv[2], 16, quarantine=quarantine)
    except OSError as e:
        sys.exit(str(e))
"""


def test_killed_or_on_a_full_disk_there_is_no_set_and_the_next_run_starts_clean(log: pa.Table, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(_set(log, "clicked", {3: 7}), tmp_path / f"{name}.parquet")
    out = tmp_path / "out" / "set"

    def run(what: str, limit: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        code = limited + textwrap.dedent(_RUN)
        command = [sys.executable, "-c", code, str(tmp_path / "*.parquet"), str(out), what]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("kill").returncode == -signal.SIGKILL
    assert not out.exists()
    assert (out.parent / ".set.partial" / QUARANTINE).exists()
    full = run("full", 500)
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert full.stderr.count("\n") == 1
    assert not out.exists()
    done = run("well")
    assert done.returncode == 0, done.stderr
    assert PreparedSet.open(out, verify=True).manifest.rejected == 2
    assert len(kept_rows(out)) == 2


def test_the_verb_quarantines_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from input_pipeline.adworld.simulate import generate
    from tests.support.worlds import CONFIG

    generate(CONFIG, tmp_path / "world", ("impressions", "candidates"))
    file = next((tmp_path / "world" / "impressions").rglob("*.parquet"))
    table = pq.ParquetFile(file).read()
    click = [9, *table.column("click").to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("click"), "click", pa.array(click, pa.int8())), file)
    verb = ["prepare", "adworld", f"--source={tmp_path / 'world'}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as end:
        main(verb)
    assert end.value.code == 2
    assert f"{file}: column 'click', row 0: expected a label of 0 or 1, got 9" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*verb, "--on-error=quarantine", "--max-errors=1"])
    assert end.value.code == 0
    assert f"left out 1 bad rows: see {tmp_path / 'out' / QUARANTINE}" in capsys.readouterr().out
