"""Readers: rows/s and peak memory of every format, of the same rows, beside pyarrow and pandas where they can read it.

    python -m benchmarks.readers [--rows 1000000 --runs 1 --pandas-python=venv/bin/python]

A log of twelve columns (ids, texts, numbers some of which are missing, a list, a label), one file a format, read from
the page cache, chunk by chunk where the library can. Each reading is a process of its own; `peak_mb` is what it takes
beyond its imports. A figure is the median of the runs, taken in turn. pandas is of another Python, if one is given.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.json
import pyarrow.parquet as pq

from benchmarks.peers.read_pandas import measure

FORMATS = ("parquet", "arrow", "csv", "csv.gz", "jsonl", "jsonl.gz", "tfrecord", "array_record")
_WRITTEN = 100_000  # rows that are drawn and serialised; the file has them again and again
_CHUNK = 65_536
_TYPES = {"tags": pa.list_(pa.int64())}  # which text and Examples do not tell


def _log(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 50, (rows, 3)).tolist()
    numbers = {f"number{i}": pa.array(rng.normal(size=rows).round(4), mask=rng.random(rows) < 0.1) for i in range(4)}
    return pa.table({
        "user": rng.integers(0, 10**6, rows), "ad": rng.integers(0, 10**5, rows), "ts": 1_790_000_000 + np.arange(rows),
        "country": np.array(["de", "fr", "jp", "us"])[rng.integers(0, 4, rows)],
        "device": np.array(["phone", "tablet", "desktop"])[rng.integers(0, 3, rows)],
        "brand": [f"brand {b}" for b in rng.integers(0, 1000, rows)],
        **numbers, "tags": [row[: 1 + i % 3] for i, row in enumerate(tags)], "clicked": rng.integers(0, 2, rows),
    })  # fmt: skip


def _write(folder: Path, rows: int) -> None:
    """The same rows as one file of every format."""
    part = _log(min(rows, _WRITTEN))
    times = max(1, rows // part.num_rows)
    table = pa.concat_tables([part] * times)
    pq.write_table(table, folder / "log.parquet")
    with pa.ipc.new_file(folder / "log.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=_CHUNK)
    texts = [json.dumps(tags) for tags in part.column("tags").to_pylist()]
    at = part.column_names.index("tags")
    csv.write_csv(pa.concat_tables([part.set_column(at, "tags", pa.array(texts))] * times), folder / "log.csv")
    lines = "".join(json.dumps(row) + "\n" for row in part.to_pylist()).encode()
    (folder / "log.jsonl").write_bytes(lines * times)
    for name in ("csv", "jsonl"):
        content = (folder / f"log.{name}").read_bytes()
        (folder / f"log.{name}.gz").write_bytes(gzip.compress(content, 1))
    _write_examples(folder, [_example(row) for row in part.to_pylist()], times)


def _write_examples(folder: Path, records: list[bytes], times: int) -> None:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    from input_pipeline.sources.crc32c import crc32c, masked

    heads = [len(r).to_bytes(8, "little") for r in records]
    sums = [[int(c).to_bytes(4, "little") for c in masked(crc32c(parts))] for parts in (heads, records)]
    framed = b"".join(h + s + r + c for h, s, r, c in zip(heads, sums[0], records, sums[1], strict=True))
    (folder / "log.tfrecord").write_bytes(framed * times)
    writer: Any = array_record_module.ArrayRecordWriter(str(folder / "log.array_record"), "group_size:64")
    for _ in range(times):
        for record in records:
            writer.write(record)
    writer.close()


def _example(row: dict[str, Any]) -> bytes:
    from input_pipeline.readers.example import Example

    example = Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        for v in [] if value is None else value if isinstance(value, list) else [value]:
            if isinstance(v, str):
                feature.bytes_list.value.append(v.encode())
            else:
                (feature.float_list if isinstance(v, float) else feature.int64_list).value.append(v)
    return example.SerializeToString()


# ---- One reading, in a process of its own ----------------------------------------------------------------------------


def _ours(path: str) -> Iterator[int]:
    from input_pipeline.readers import read

    return (table.num_rows for _, _, table in read(path, _TYPES))


def _pyarrow(path: str) -> Iterator[int]:
    if path.endswith(".parquet"):
        return (b.num_rows for b in pq.ParquetFile(path, pre_buffer=False).iter_batches(_CHUNK))
    if path.endswith(".arrow"):
        file = pa.ipc.open_file(path)
        return (file.get_batch(i).num_rows for i in range(file.num_record_batches))
    if ".csv" in path:
        return (b.num_rows for b in csv.open_csv(pa.input_stream(path)))
    return iter([pyarrow.json.read_json(pa.input_stream(path)).num_rows])  # knows no chunks


_READERS: dict[str, Callable[[str], Iterator[int]]] = {"ours": _ours, "pyarrow": _pyarrow}
_EXAMPLES = ("tfrecord", "array_record")  # which only ours reads


def _one(reader: str, path: str) -> None:
    import input_pipeline.readers  # noqa: F401  (before the clock starts)

    measure(lambda: _READERS[reader](path))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=float, default=1e6)
    p.add_argument("--runs", type=int, default=1)
    p.add_argument("--pandas-python", help="an interpreter that has pandas and pyarrow")
    p.add_argument("--one", nargs=2, metavar=("READER", "PATH"), help="what a child process does")
    a = p.parse_args()
    if a.one:
        _one(*a.one)
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), int(a.rows))
        for name in FORMATS:
            path = Path(folder) / f"log.{name}"
            commands = {r: [sys.executable, "-m", "benchmarks.readers", "--one", r, str(path)] for r in _READERS}
            if a.pandas_python:
                commands["pandas"] = [a.pandas_python, "-m", "benchmarks.peers.read_pandas", str(path)]
            readers = [r for r in commands if r == "ours" or name not in _EXAMPLES]
            runs = [{r: _measured(commands[r]) for r in readers} for _ in range(a.runs)]
            found: dict[str, Any] = {"format": name, "file_mb": round(path.stat().st_size / 1e6)}
            for r in readers:
                rate = statistics.median(run[r]["rows"] / run[r]["s"] for run in runs)
                found[r] = {"rows_per_s": round(rate), "peak_mb": statistics.median(run[r]["peak_mb"] for run in runs)}
            print(json.dumps(found), flush=True)


def _measured(command: list[str]) -> dict[str, Any]:
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
