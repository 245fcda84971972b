"""Whether transfers of batches overlap the training step, read from a trace of a run.

    tt-jax train ... --config.profile=60:70 --workdir=W
    python -m benchmarks.overlap W/profile

Prints one JSON line: calls of `device_put` by the input threads and their time, the share of that time in which the
device computed, and the time that the training thread waited for `next(batches)`.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

Span = tuple[float, float]  # from, to, microseconds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("profile", type=Path, help="directory that a run with --config.profile wrote")
    a = p.parse_args()
    files = sorted(a.profile.rglob("*.trace.json.gz"))
    if not files:
        raise SystemExit(f"{a.profile}: no trace; expected what a run with --config.profile=start:stop wrote")
    events = json.loads(gzip.decompress(files[-1].read_bytes()))["traceEvents"]
    busy = _union(_spans(events, lambda e, thread, process: thread.startswith("tf_XLAEigen") or "device:" in process))
    puts = _spans(events, lambda e, *_: e["name"].endswith("_batched_device_put_impl"))
    waits = _spans(events, lambda e, *_: e["name"].startswith("$pipeline.py:") and e["name"].endswith("__next__"))
    if not busy or not puts:
        raise SystemExit(f"{files[-1]}: no computation or no `device_put` in the trace")
    first, last = busy[0][0], busy[-1][1]
    time = sum(b - a for a, b in puts)
    figures = {
        "benchmark": "overlap", "seconds": round((last - first) / 1e6, 3), "device_puts": len(puts),
        "device_put_ms": round(time / 1e3, 2),
        "share_during_computation": round(sum(_common(put, busy) for put in puts) / time, 3),
        "wait_ms": round(sum(b - a for a, b in waits) / 1e3, 2),
    }  # fmt: skip
    print(json.dumps(figures))


def _spans(events: list[dict[str, Any]], wanted: Any) -> list[Span]:
    """Of the events that `wanted(event, name of its thread, name of its process)` takes."""
    names: dict[tuple[str, Any, Any], str] = {}
    for e in events:
        if e.get("ph") == "M" and e["name"] in ("thread_name", "process_name"):
            names[e["name"], e["pid"], e.get("tid") if e["name"] == "thread_name" else None] = e["args"]["name"]
    found = []
    for e in (e for e in events if e.get("ph") == "X"):
        thread = names.get(("thread_name", e["pid"], e["tid"]), "")
        if wanted(e, thread, names.get(("process_name", e["pid"], None), "")):
            found.append((e["ts"], e["ts"] + e["dur"]))
    return found


def _union(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def _common(span: Span, busy: list[Span]) -> float:
    return sum(max(0.0, min(span[1], end) - max(span[0], start)) for start, end in busy)


if __name__ == "__main__":
    main()
