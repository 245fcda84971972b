"""Prepare: rows/s and peak memory of a large log, beside DuckDB and Polars doing the same join and partitioning.

    python -m benchmarks.prepare --workdir=runs/prepare [--rows 10000000 --rounds 3 --peer-python=venv/bin/python]

The log (`benchmarks.prepare_log`, 15 columns in files of 250,000 rows, joined with 500,000 users and 100,000 ads) is
written once. Each program is a process of its own, all in turn: read, join, part by split and scenario, write as LZ4
Parquet. Ours encodes the rows besides (24 features to matrices), counts them, and hashes the files. A figure is the
median over the rounds; `peak_mb` is the largest resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.prepare_log import EVAL_FROM, log_in

PEERS = Path(__file__).parent / "peers"


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a process. Raises if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def run_in_turn(commands: dict[str, list[str]], rounds: int, out: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds and peak megabytes of each program, by round. `out`, which they write, is removed each time."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            found[name].append(_run(command))
    shutil.rmtree(out, ignore_errors=True)
    return found


def figures(name: str, rows: int, runs: list[tuple[float, float]]) -> dict[str, Any]:
    """What is printed of a program's rounds."""
    seconds, peaks = zip(*runs, strict=True)
    speeds = [round(rows / s) for s in seconds]
    peak = round(statistics.median(peaks))
    return {
        "program": name,
        "rows": rows,
        "rows_per_s": round(statistics.median(speeds)),
        "all": speeds,
        "peak_mb": peak,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", type=Path, required=True, help="directory of the log; outputs are removed")
    p.add_argument("--rows", type=int, default=10_000_000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--peer-python", default="", help="a Python with duckdb and polars; without, ours alone")
    a = p.parse_args()
    log, out = log_in(a.workdir, a.rows), a.workdir / "out"
    recipe = str(Path(__file__).parent / "prepare_log.py")
    commands = {"ours": [sys.executable, "-m", "tt_jax", "prepare", recipe, f"--source={log}", f"--out={out}"]}
    if a.peer_python:
        peer = {name: [a.peer_python, str(PEERS / f"prepare_{name}.py")] for name in ("duckdb", "polars")}
        given = [str(log), str(out), str(EVAL_FROM)]
        commands |= {
            "duckdb": [*peer["duckdb"], *given],
            "duckdb, in order": [*peer["duckdb"], *given, "ordered"],
            "polars": [*peer["polars"], *given],
        }
    found = run_in_turn(commands, a.rounds, out)
    for name, runs in found.items():
        ratios = [ours / seconds for (ours, _), (seconds, _) in zip(found["ours"], runs, strict=True)]
        print(json.dumps({**figures(name, a.rows, runs), "to_ours": round(statistics.median(ratios), 2)}))


if __name__ == "__main__":
    main()
