"""pandas reads a file, for `benchmarks.readers`: python -m benchmarks.peers.read_pandas FILE."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_CHUNK = 65_536


def measure(chunks: Callable[[], Iterator[int]]) -> None:
    """Counts rows; prints them, the seconds, and the memory it took beyond what there was, in MB (Linux)."""
    before = _memory("VmRSS")
    start = time.perf_counter()
    rows = sum(chunks())
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "s": seconds, "peak_mb": round(_memory("VmHWM") - before)}))


def _memory(name: str) -> float:
    """Of this process in MB: VmRSS now, VmHWM at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    import pandas as pd

    path = sys.argv[1]

    def chunks() -> Iterator[int]:
        if path.endswith(".parquet"):
            yield len(pd.read_parquet(path))
        elif path.endswith(".arrow"):
            yield len(pd.read_feather(path))
        else:
            read = pd.read_csv(path, chunksize=_CHUNK) if ".csv" in path else None
            yield from map(len, read or pd.read_json(path, lines=True, chunksize=_CHUNK))

    measure(chunks)


if __name__ == "__main__":
    main()
