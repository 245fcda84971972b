"""How long a service takes until it is ready, and an import of the scorer.

    python -m benchmarks.start

Makes a bundle of the default model with random weights and an index of random ads, then starts `tt-jax serve` on them,
in turn without and with an admin listener (whose ads can change), and both from a compile cache, and prints a JSON line
per start: seconds from the start of the process until `/health/ready` answers 200. `import` is a process that imports
`Scorer` and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks.serve import ROOT, prepare
from benchmarks.train_step import add_shape


def seconds_until_ready(folder: Path, *flags: str) -> float:
    """Of a server on the bundle and the index there, which is ended afterwards."""
    command = [sys.executable, "-m", "tt_jax", "serve", f"--bundle={folder / 'bundle'}", f"--index={folder / 'index'}"]
    environment, start = {**os.environ, "PYTHONPATH": str(ROOT)}, time.perf_counter()
    with subprocess.Popen([*command, "--port=0", *flags], stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if address := re.match(r"serving (http://\S+)", line):
                    break
            else:
                raise RuntimeError("the server ended before it was ready")
            with urllib.request.urlopen(f"{address[1]}/health/ready", timeout=10):  # the socket listens already
                return time.perf_counter() - start
        finally:
            server.terminate()


def seconds_of_import() -> float:
    """Of a process that imports the scorer."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from serving import Scorer"], cwd=ROOT, check=True)
    return time.perf_counter() - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(p)
    p.add_argument("--ads", type=int, default=1_000_000)
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args()
    a.k = 100
    with tempfile.TemporaryDirectory(prefix="tt-jax-start-") as name:
        folder = Path(name)
        prepare(a, folder)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text("t" * 32)
        admin = ("--admin-port=0", f"--admin-token-file={token}")
        cache = f"--compile-cache={folder / 'cache'}"
        for flags in ((), admin):  # which have different programs
            seconds_until_ready(folder, *flags, cache)
        cases: dict[str, Callable[[], float]] = {
            "import": seconds_of_import,
            "ready": lambda: seconds_until_ready(folder),
            "ready, admin listener": lambda: seconds_until_ready(folder, *admin),
            "ready, from the cache": lambda: seconds_until_ready(folder, cache),
            "ready, admin listener, from the cache": lambda: seconds_until_ready(folder, *admin, cache),
        }
        for i in range(a.rounds):
            for what, measure in cases.items():
                line = {"what": what, "ads": a.ads, "round": i + 1, "s": round(measure(), 2), "jax": jax.__version__}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
