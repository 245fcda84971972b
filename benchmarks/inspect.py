"""Inspect: rows/s and peak memory of logs of growing length, beside a plain read of them and DuckDB's summary.

    python -m benchmarks.inspect --workdir=runs/inspect [--rows 1000000 10000000 --peer-python=venv/bin/python]

The log is that of `benchmarks.prepare_log` (15 columns, files of 250,000 rows); up to `--written` rows are written,
a longer one has these files several times, by links. Each program is a process of its own, all in turn: `tt-jax
inspect` with labels, scenario and time; the limit, which reads all columns with pyarrow, file by file; and `SUMMARIZE`
of DuckDB (extremes, mean, deviation, nulls; distinct values and quantiles by sketches), a part of the work. A figure
is the median over the rounds; `peak_mb` is the largest resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from benchmarks.prepare import run
from benchmarks.prepare_log import FILE_ROWS, write

READ = """import sys, pathlib, pyarrow.parquet as pq
for file in sorted(pathlib.Path(sys.argv[1]).rglob("*.parquet")):
    for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(65536):
        pass"""
SUMMARIZE = """import sys, duckdb
print(duckdb.sql(f"SUMMARIZE SELECT * FROM '{sys.argv[1]}/**/*.parquet'").fetchall())"""


def _log(workdir: Path, rows: int, written: int) -> Path:
    """The folder of a log: links to the files of one of `written` rows, where it is longer."""
    whole = workdir / f"log-{min(rows, written)}"
    if not whole.exists():
        unfinished = workdir / "unfinished"
        write(unfinished, min(rows, written))
        unfinished.rename(whole)
    if rows <= written:
        return whole / "impressions"
    linked, files = workdir / f"log-{rows}", sorted((whole / "impressions").iterdir())
    for i in range(-(-rows // FILE_ROWS)):
        copy = linked / f"copy-{i // len(files):03d}" / files[i % len(files)].name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            os.link(files[i % len(files)], copy)
    return linked


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", type=Path, required=True, help="directory of the logs; outputs are removed")
    p.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--written", type=int, default=10_000_000, help="rows on the disk: 0.6 GB for the default")
    p.add_argument("--peer-python", default="", help="a Python with duckdb; without, no summary of DuckDB")
    a = p.parse_args()
    for rows in a.rows:
        log = str(_log(a.workdir, rows, a.written))
        inspect = ["inspect", f"--data={log}", "--labels=click,long_click", "--scenario=scenario", "--time=time_ms"]
        commands = {
            "ours": [sys.executable, "-m", "tt_jax", *inspect],
            "pyarrow, read": [sys.executable, "-c", READ, log],
        }
        if a.peer_python:
            commands["duckdb, SUMMARIZE"] = [a.peer_python, "-c", SUMMARIZE, log]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(a.rounds):
            for name, command in commands.items():
                found[name].append(run(command))
        for name, runs in found.items():
            seconds, peaks = zip(*runs, strict=True)
            to_ours = [ours / s for (ours, _), s in zip(found["ours"], seconds, strict=True)]
            print(json.dumps({
                "program": name, "rows": rows, "rows_per_s": round(rows / statistics.median(seconds)),
                "seconds": [round(s, 1) for s in seconds], "peak_mb": round(statistics.median(peaks)),
                "to_ours": round(statistics.median(to_ours), 2),
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
