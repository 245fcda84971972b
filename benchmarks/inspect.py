"""Inspect: rows/s and peak memory of `tt-jax inspect` on a large log, beside one reading of it and DuckDB's SUMMARIZE.

    python -m benchmarks.inspect --workdir=runs/prepare [--rows 10000000 --rounds 3 --peer-python=venv/bin/python]

The log is the impressions of `benchmarks.prepare_log`, 15 columns in files of 250,000 rows, written once. Each program
is a process of its own, all in turn. Ours finds coverage, ranges, quantiles, distinct and top values, label rates over
time and by scenario, drift, leaks and duplicate rows, and writes its page. `read` decodes the same files by pyarrow, a
batch at a time in one thread, and does nothing with them. SUMMARIZE finds coverage, ranges, quantiles, distinct values.
A figure is the median over the rounds; `peak_mb` is the largest resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.prepare import PEERS, figures, run_in_turn
from benchmarks.prepare_log import log_in

READ = """
import sys, pyarrow.parquet as pq
for path in sys.argv[1:]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536, use_threads=False):
            batch.validate()
"""
ROLES = ("--labels=click,long_click", "--scenario=scenario", "--time=time_ms")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", type=Path, required=True, help="directory of the log; outputs are removed")
    p.add_argument("--rows", type=int, default=10_000_000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--peer-python", default="", help="a Python with duckdb; without, no SUMMARIZE")
    a = p.parse_args()
    log, out = log_in(a.workdir, a.rows) / "impressions", a.workdir / "inspected"
    inspect = [sys.executable, "-m", "tt_jax", "inspect", f"--data={log}", *ROLES, f"--out={out}"]
    commands = {"ours": inspect, "read": [sys.executable, "-c", READ, *map(str, sorted(log.iterdir()))]}
    if a.peer_python:
        commands["duckdb"] = [a.peer_python, str(PEERS / "summarize_duckdb.py"), f"{log}/*.parquet"]
    for name, runs in run_in_turn(commands, a.rounds, out).items():
        print(json.dumps(figures(name, a.rows, runs)))


if __name__ == "__main__":
    main()
