"""Prepare: what is stored is what was encoded, counted right, in bounded memory, and appears whole or not at all."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.blocks.block import Blocks, BlockWriter, PreparedError
from input_pipeline.blocks.manifest import Manifest
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare import writer as writer_module
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.small_logs import SPLITS, chunks_of, small_logs
from tt_jax.features.encoder import Encoder
from tt_jax.io.publish import PublishError
from tt_jax.io.verify import sha256_of
from tt_jax.schema import SchemaError, array_specs


def _stored(prepared: PreparedSet, split: str, scenario: str) -> dict[str, np.ndarray]:
    blocks = prepared.blocks((split,), (scenario,))
    read = [blocks[i] for i in range(len(blocks))]
    return {name: np.concatenate([b[name] for b in read]) for name in read[0]}


@pytest.mark.parametrize("block_rows", [50, 4096])
def test_stored_rows_equal_the_encoder(tmp_path: Path, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_PART_BLOCKS", 3)
    logs = small_logs()
    prepare(tiny.SCHEMA, chunks_of(logs), tmp_path / "set", block_rows)
    prepared = PreparedSet.open(tmp_path / "set", verify=True)
    for split, table in logs.items():
        whole = Encoder(tiny.SCHEMA).encode(dict(zip(table.column_names, table.columns, strict=True))).arrays
        for index, scenario in enumerate(tiny.SCENARIOS):
            rows = whole["scenario"][:, 0] == index
            stored = _stored(prepared, split, scenario)
            assert list(stored) == list(array_specs(tiny.SCHEMA))
            for name, matrix in stored.items():
                assert matrix.tobytes() == whole[name][rows].tobytes()
                assert matrix.dtype == array_specs(tiny.SCHEMA)[name][0]
            files = prepared.files(split, (scenario,))
            assert sum(f.rows for f in files) == rows.sum()
            assert len(files) == max(1, -(-int(rows.sum()) // (3 * block_rows)))


def test_manifest_counts_equal_plain_python(tmp_path: Path) -> None:
    logs = small_logs(1)
    ads = tiny.ads_table(np.random.default_rng(0), 20)
    manifest = prepare(tiny.SCHEMA, chunks_of(logs), tmp_path / "set", 64, ads)
    assert Manifest.from_json((tmp_path / "set" / "manifest.json").read_text()) == manifest
    assert pq.read_table(tmp_path / "set" / "ads.parquet").equals(ads)
    for split, table in logs.items():
        for scenario in tiny.SCENARIOS:
            rows = [r for r in table.to_pylist() if r["scenario"] == scenario]
            counts = manifest.splits[split][scenario]
            converted = [r["converted"] for r in rows if r["clicked"] == 1]  # elsewhere it is masked
            taught = [r["teacher_score"] for r in rows if r["teacher_score"] is not None]
            assert counts.rows == len(rows)
            assert counts.labelled == {"click": len(rows), "conversion": len(converted), "teacher": len(taught)}
            assert counts.rate["click"] == pytest.approx(np.mean([r["clicked"] for r in rows]))
            assert counts.rate["conversion"] == pytest.approx(np.mean(converted))
            assert counts.rate["teacher"] == pytest.approx(np.mean(taught), rel=1e-6)  # labels are float32
            for name in ("user", "age", "history", "query_embedding"):
                assert counts.coverage[name] == pytest.approx(np.mean([bool(r[name]) for r in rows]))


def test_a_scenario_and_a_split_without_rows(tmp_path: Path) -> None:
    logs = small_logs()
    standard = [s == "standard" for s in logs["train"]["scenario"].to_pylist()]
    logs = {"train": logs["train"].filter(pa.array(standard)), "eval": logs["eval"].slice(0, 0)}
    chunks = [Chunk(split, split, 0, table) for split, table in logs.items()]
    manifest = prepare(tiny.SCHEMA, chunks, tmp_path / "set", 64)
    assert manifest.splits["train"]["shopping"].rows == 0
    assert manifest.splits["train"]["shopping"].rate["click"] is None
    prepared = PreparedSet.open(tmp_path / "set")
    assert prepared.rows("train") == sum(standard)
    for split, scenarios, message in (
        ("train", ("shopping",), "scenario 'shopping' has no rows in the split 'train'"),
        ("train", ("shoping",), "unknown scenario 'shoping'; did you mean 'shopping'"),
        ("eval", (), "split 'eval' is empty"),
        ("trian", (), "unknown split 'trian'; did you mean 'train'"),
    ):
        with pytest.raises(PreparedError, match=message):
            prepared.blocks((split,), scenarios)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("clicked", 2, "column 'clicked', row 133: expected a label of 0 or 1, got 2"),
        ("teacher_score", float("nan"), "column 'teacher_score', row 133: expected a label within 0..1, got nan"),
        ("scenario", "shoping", "column 'scenario', row 133: unknown scenario 'shoping'"),
        ("scenario", None, "column 'scenario', row 133: the scenario is missing"),
        ("importance", -1.0, "column 'importance', row 133: expected a float32 weight >= 0"),
        ("clicked", "yes", "column 'clicked': expected numbers, got string"),
    ],
)
def test_a_bad_value_is_named_with_file_and_row_and_leaves_nothing(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    logs = small_logs()
    values = logs["train"][column].to_pylist()
    values[133] = value
    if isinstance(value, str):
        values = [str(v) if column == "clicked" else v for v in values]
    position = logs["train"].column_names.index(column)
    logs["train"] = logs["train"].set_column(position, column, pa.array(values, from_pandas=False))
    with pytest.raises(SchemaError, match=message) as error:
        prepare(tiny.SCHEMA, chunks_of(logs), tmp_path / "set")
    assert str(error.value).startswith("train.log: ")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_not_consecutive_are_named_by_their_number(tmp_path: Path) -> None:
    table = small_logs()["train"].slice(0, 3)
    table = table.set_column(table.column_names.index("clicked"), "clicked", pa.array([0, 1, 5]))
    chunk = Chunk("train", "log.csv", 1000, table, np.array([2, 7, 40]))
    with pytest.raises(SchemaError, match=r"log\.csv: column 'clicked', row 1040"):
        prepare(tiny.SCHEMA, [chunk], tmp_path / "set")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    logs = {"train": small_logs()["train"].drop_columns(["country"])}
    with pytest.raises(SchemaError, match="'country': the column is missing"):
        prepare(tiny.SCHEMA, chunks_of(logs), tmp_path / "set")


def test_out_is_refused_if_it_exists_or_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(PublishError, match="already exists"):
        prepare(tiny.SCHEMA, chunks_of(small_logs()), tmp_path / "there")
    partial = tmp_path / ".set.partial"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(PublishError, match="another run is writing it"):
        prepare(tiny.SCHEMA, chunks_of(small_logs()), tmp_path / "set")
    os.close(handle)


_KILLED = """
    import os, signal, sys
    from tests.support import small_logs
    from tests.support import tiny
    from input_pipeline.prepare.sequential import prepare

    def chunks():
        for i, chunk in enumerate(small_logs.chunks_of(small_logs.small_logs())):
            if i == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    prepare(tiny.SCHEMA, chunks(), sys.argv[1], 32)
"""


def test_a_killed_run_leaves_no_set_and_does_not_block_the_next(tmp_path: Path) -> None:
    out = tmp_path / "set"
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(_KILLED), str(out)], cwd=ROOT)
    assert run.returncode == -9
    assert [p.name for p in tmp_path.iterdir()] == [".set.partial"]
    with pytest.raises(PreparedError, match="not a prepared set"):
        PreparedSet.open(out)
    manifest = prepare(tiny.SCHEMA, chunks_of(small_logs()), out, 32)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert PreparedSet.open(out, verify=True).fingerprint == manifest.fingerprint
    assert prepare(tiny.SCHEMA, chunks_of(small_logs(), 17), tmp_path / "again", 32).fingerprint == manifest.fingerprint
    assert prepare(tiny.SCHEMA, chunks_of(small_logs(9)), tmp_path / "other", 32).fingerprint != manifest.fingerprint


def test_a_set_that_is_not_whole_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(tiny.SCHEMA, chunks_of(small_logs()), tmp_path / "set", 64)
    root = tmp_path / "set"
    before = PreparedSet.open(root)
    part = next(root.glob("split=train/*/*.parquet"))
    content, manifest = part.read_bytes(), (root / "manifest.json").read_text()

    def refused(message: str, verify: bool = False) -> None:
        with pytest.raises(PreparedError, match=message):
            PreparedSet.open(root, verify)
        part.write_bytes(content)
        (root / "manifest.json").write_text(manifest)
        PreparedSet.open(root, verify=True)

    part.write_bytes(content[:-1])
    refused(f"{part.name}: expected {len(content)} bytes, got {len(content) - 1}")
    part.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    refused(f"{part.name}: expected SHA-256", verify=True)
    part.unlink()
    refused(f"{part.name}: missing")
    (root / "manifest.json").unlink()
    refused("half written")
    (root / "manifest.json").write_text(manifest[:-20])
    refused(r"manifest\.json: manifest: not valid JSON")
    (root / "manifest.json").write_text(manifest.replace('"block_rows": 64', '"block_rows": 65'))
    refused("its digest is not that of its content")
    data = json.loads(manifest)
    (root / "manifest.json").write_text(json.dumps({**data, "version": 3}))
    refused("expected 'tt-jax prepared set' version 1 or 2, found")
    of_version_1 = {k: v for k, v in data.items() if k not in ("beside", "digest")} | {"version": 1}
    (root / "manifest.json").write_text(json.dumps(of_version_1, indent=1) + "\n")
    with caplog.at_level("WARNING"):
        assert PreparedSet.open(root, verify=True).rows("train") == before.rows("train")
    assert "prepared by an earlier version" in caplog.text
    data = of_version_1
    (root / "manifest.json").write_text(json.dumps({**data, "rows": 2}))
    refused("unknown key 'rows'")
    data["files"][0]["sha256"] = "0" * 64
    (root / "manifest.json").write_text(json.dumps(data))
    refused("the fingerprint does not match")
    schema = (root / "schema.json").read_text()
    (root / "schema.json").write_text(schema.replace('"hash_size": 80', '"hash_size": 81'))
    with pytest.raises(PreparedError, match="not the schema"):
        PreparedSet.open(root)
    (root / "schema.json").write_text(schema)
    part.with_name("part-00099.parquet").write_bytes(content)
    with pytest.raises(PreparedError, match=r"part-00099\.parquet: not in the manifest"):
        PreparedSet.open(root)


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    prepare(tiny.SCHEMA, chunks_of(small_logs()), tmp_path / "set", 64)
    prepared = PreparedSet.open(tmp_path / "set")
    file = prepared.files("train", ("standard",))[0]
    path = tmp_path / "set" / file.path
    group = pq.ParquetFile(path).metadata.row_group(2)
    damaged = bytearray(path.read_bytes())
    first = group.column(0).data_page_offset
    damaged[first : first + 60] = bytes(60)
    path.write_bytes(damaged)
    with pytest.raises(PreparedError, match=rf"{path.name}: expected SHA-256"):
        prepared.blocks(("train",), ("standard",))[1]
    blocks = Blocks(prepared.root, prepared.schema, [dataclasses.replace(file, sha256=sha256_of(path))])
    assert len(blocks[1]["labels"]) == 64
    with pytest.raises(PreparedError, match=rf"{path.name}: block 2 is not readable"):
        blocks[2]


def test_a_block_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    writer = BlockWriter(tmp_path / "a.parquet", tiny.SCHEMA)
    block = {name: np.zeros((4, width), dtype) for name, (dtype, width) in array_specs(tiny.SCHEMA).items()}
    with pytest.raises(ValueError, match=r"'keys' has the shape \(3, 5\), expected \(4, 5\)"):
        writer.write({**block, "keys": block["keys"][:3]})
    writer.write(block)
    writer.close()


_MEMORY = """
    import resource, sys
    from tests.support import small_logs
    from tests.support import tiny
    from input_pipeline.prepare.sequential import prepare

    [log] = list(small_logs.chunks_of({"train": small_logs.small_logs()["train"]}, 700))
    prepare(tiny.SCHEMA, (log for _ in range(int(sys.argv[2]))), sys.argv[1], 1024)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_times_the_rows_need_no_more_memory(tmp_path: Path) -> None:
    def peak_kib(times: int) -> int:
        command = [sys.executable, "-c", textwrap.dedent(_MEMORY), str(tmp_path / str(times)), str(times)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(run.stdout)

    few, many = peak_kib(60), peak_kib(600)
    row_bytes = sum(dtype.itemsize * width for dtype, width in array_specs(tiny.SCHEMA).values())
    further_kib = (600 - 60) * SPLITS["train"] * row_bytes >> 10
    assert further_kib > 50_000
    assert many - few < further_kib // 4
