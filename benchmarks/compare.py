"""Ours against the peers, in turn (A B A B ...), as one table of ratios with their spread.

    python -m benchmarks.compare --peers=../shared/peers --peer-python=peers-venv/bin/python --rounds=5

`--peers` holds `train_step_torch.py` and `topk_peers.py`; `--peer-python` is a Python with torch, faiss-cpu and NumPy.
The peers of the input, each at its best setting, are in this folder, and have their rows in memory already. A ratio is
speed over speed: above 1, ours is faster. `--only=rows` compares ours with itself, on tables of other sizes. All sides
run with huge pages, as `tt-jax` does. Prints a JSON line per ratio of each round, then a table of their spread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

TRAIN_SHAPES = {  # name -> flags that both sides understand
    "default": [],
    "batch 1k": ["--batch", "1024"],
    "batch 16k": ["--batch", "16384"],
    "2 experts": ["--experts", "2"],
    "8 experts": ["--experts", "8"],
    "narrow": ["--cat", "7", "--dim", "16", "--num", "16"],
    "wide": ["--cat", "32", "--num", "32"],
}
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # for GLIBC_TUNABLES: docs/how-to/profile_a_run.md
TABLE_ROWS = ("1e4", "1e6", "1e7", "1e8")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", type=Path)
    p.add_argument("--peer-python")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--shapes", nargs="+", choices=TRAIN_SHAPES, default=["default"])
    p.add_argument("--only", choices=("train_step", "top_k", "input", "rows"))
    a = p.parse_args()
    if a.only != "rows" and not (a.peers and a.peer_python):
        p.error("expected --peers and --peer-python, which only --only=rows does without")
    os.environ.setdefault("GLIBC_TUNABLES", HUGE_PAGES)
    ratios = Ratios()
    for _ in range(a.rounds):
        if a.only in (None, "train_step"):
            for shape in a.shapes:
                for dtype in ("f32", "bf16"):
                    _train_round(a, shape, dtype, ratios)
        if a.only in (None, "top_k"):
            _top_k_round(a, ratios)
        if a.only in (None, "input"):
            _input_round(a, ratios)
        if a.only in (None, "rows"):
            _rows_round(ratios)
    print(f"\n{'ours / peer':<44}{'median':>8}{'min':>8}{'max':>8}")
    for name, found in ratios.found.items():
        spread = statistics.median(found), min(found), max(found)
        print(f"{name:<44}" + "".join(f"{v:>8.2f}" for v in spread))


class Ratios:
    """Ratios of every round by name; each is printed as it is found, with the two figures it is of."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, ours: float, peer: float, ratio: float | None = None) -> None:
        """`ratio`: where it is not `ours / peer`, as for times."""
        ratio = ours / peer if ratio is None else ratio
        self.found[name].append(ratio)
        line = {"ratio": name, "round": len(self.found[name]), "ours": ours, "peer": peer, "value": round(ratio, 3)}
        print(json.dumps({**line, "load": round(os.getloadavg()[0], 1)}), flush=True)


def _train_round(a: argparse.Namespace, shape: str, dtype: str, ratios: Ratios) -> None:
    flags = [*TRAIN_SHAPES[shape], "--dtype", dtype]
    ours = _run([sys.executable, "-m", "benchmarks.train_step", *flags])[-1]
    peer = _run([a.peer_python, str(a.peers / "train_step_torch.py"), "--compile", *flags])[-1]
    ratios.add(f"train step {dtype} {shape} / torch.compile", ours["examples_per_s"], peer["examples_per_s"])


def _top_k_round(a: argparse.Namespace, ratios: Ratios) -> None:
    ours = {line["batch"]: line["ms"] for line in _run([sys.executable, "-m", "benchmarks.top_k"])}
    for line in _run([a.peer_python, str(a.peers / "topk_peers.py")]):
        b, peer = line["batch"], line["ms"]
        ratios.add(f"top-k of 1e6, B = {b} / {line['peer']}", ours[b], peer, peer / ours[b])


def _input_round(a: argparse.Namespace, ratios: Ratios) -> None:
    found = _run([sys.executable, "-m", "benchmarks.input", "--runs", "3"])[-1]
    ours = found["examples_per_s"]
    ratios.add("input / plain scan of the same bytes", ours, round(ours / found["ratio"]))
    torch = str(Path(__file__).parent / "peers" / "input_torch.py")
    for command in ([sys.executable, "-m", "benchmarks.input_rows", "--runs", "1"], [a.peer_python, torch, "--runs=1"]):
        best: dict[str, int] = {}
        for line in _run(command):
            best[line["peer"]] = max(best.get(line["peer"], 0), line["examples_per_s"])
        for peer, rate in best.items():
            ratios.add(f"input / {peer}", ours, rate)


def _rows_round(ratios: Ratios) -> None:
    """Time of a step on the smallest table over that on a larger one."""
    step = [sys.executable, "-m", "benchmarks.train_step", "--rows"]
    times = [_run([*step, rows])[-1]["step_ms"] for rows in TABLE_ROWS]
    for rows, ms in zip(TABLE_ROWS[1:], times[1:], strict=True):
        ratios.add(f"train step, {rows} / {TABLE_ROWS[0]} table rows", ms, times[0], times[0] / ms)


def _run(command: list[str]) -> list[dict[str, Any]]:
    """The JSON lines that a command prints. Raises if it fails or prints none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return lines


if __name__ == "__main__":
    main()
