"""Rows per second of AdWorld: `taskset -c 0 python -m benchmarks.adworld` prints one JSON line.

A row is a row of the impression or of the candidate log. `rows_per_s`: simulated, as Arrow tables.
`written_rows_per_s`: simulated and written as Parquet, with its oracle, to a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from input_pipeline.adworld.simulate import AdWorldConfig, generate, simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests_per_day", type=int, default=AdWorldConfig.requests_per_day)
    parser.add_argument("--users", type=int, default=AdWorldConfig.users)
    parser.add_argument("--ads", type=int, default=AdWorldConfig.ads)
    args = parser.parse_args()
    config = AdWorldConfig(**vars(args))

    start = time.perf_counter()
    rows = sum(batch.table.num_rows for batch in simulate(config))
    simulated_s = time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate(config, Path(folder) / "world")
        written_s = time.perf_counter() - start
        size = sum(p.stat().st_size for p in Path(folder).rglob("*.parquet"))

    print(
        json.dumps(
            {
                "benchmark": "adworld",
                **vars(args),
                "cores": len(os.sched_getaffinity(0)),
                "rows": rows,
                "simulated_s": round(simulated_s, 3),
                "rows_per_s": round(rows / simulated_s),
                "written_s": round(written_s, 3),
                "written_rows_per_s": round(rows / written_s),
                "bytes_per_row": round(size / rows, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
