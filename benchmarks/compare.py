"""Ours against the peers, in turn (A B A B ...), as one table of ratios with their spread.

    python -m benchmarks.compare --peers=../shared/peers --peer-python=peers-venv/bin/python --rounds=5

`--peers` holds `train_step_torch.py` and `topk_peers.py`; `--peer-python` is a Python with torch, faiss-cpu and NumPy.
The peers of the input, each at its best setting, are in this folder, and have their rows in memory already. A ratio is
speed over speed: above 1, ours is faster. Prints a JSON line per ratio, then the table.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", type=Path, required=True)
    p.add_argument("--peer-python", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--shapes", nargs="+", choices=TRAIN_SHAPES, default=["default"])
    p.add_argument("--only", choices=("train_step", "top_k", "input"))
    a = p.parse_args()
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(a.rounds):
        if a.only in (None, "train_step"):
            for shape in a.shapes:
                for dtype in ("f32", "bf16"):
                    _train_round(a, shape, dtype, ratios)
        if a.only in (None, "top_k"):
            _top_k_round(a, ratios)
        if a.only in (None, "input"):
            _input_round(a, ratios)
    for name, found in ratios.items():
        print(json.dumps({"ratio": name, "rounds": len(found), **_spread(found)}))
    print(f"\n{'ours / peer':<44}{'median':>8}{'min':>8}{'max':>8}")
    for name, found in ratios.items():
        print(f"{name:<44}" + "".join(f"{v:>8.2f}" for v in _spread(found).values()))


def _train_round(a: argparse.Namespace, shape: str, dtype: str, ratios: dict[str, list[float]]) -> None:
    flags = [*TRAIN_SHAPES[shape], "--dtype", dtype]
    ours = _run([sys.executable, "-m", "benchmarks.train_step", *flags])[-1]
    peer = _run([a.peer_python, str(a.peers / "train_step_torch.py"), "--compile", *flags])[-1]
    ratios[f"train step {dtype} {shape} / torch.compile"].append(ours["examples_per_s"] / peer["examples_per_s"])


def _top_k_round(a: argparse.Namespace, ratios: dict[str, list[float]]) -> None:
    ours = {line["batch"]: line["ms"] for line in _run([sys.executable, "-m", "benchmarks.top_k"])}
    for line in _run([a.peer_python, str(a.peers / "topk_peers.py")]):
        ratios[f"top-k of 1e6, B = {line['batch']} / {line['peer']}"].append(line["ms"] / ours[line["batch"]])


def _input_round(a: argparse.Namespace, ratios: dict[str, list[float]]) -> None:
    found = _run([sys.executable, "-m", "benchmarks.input", "--runs", "1"])[-1]
    ours = found["examples_per_s"]
    ratios["input / plain scan of the same bytes"].append(found["ratio"])
    torch = str(Path(__file__).parent / "peers" / "input_torch.py")
    for command in ([sys.executable, "-m", "benchmarks.input_rows", "--runs", "1"], [a.peer_python, torch, "--runs=1"]):
        best: dict[str, int] = {}
        for line in _run(command):
            best[line["peer"]] = max(best.get(line["peer"], 0), line["examples_per_s"])
        for peer, rate in best.items():
            ratios[f"input / {peer}"].append(ours / rate)


def _run(command: list[str]) -> list[dict[str, Any]]:
    """The JSON lines that a command prints. Raises if it fails or prints none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return lines


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
