"""HTTP servers around the same application, in turn: the service's own, and stock ones that could take its place.

    python -m benchmarks.http_servers --rounds=5 --servers ours uvicorn-httptools uvicorn-h11 granian

Each round starts every server once, in a process of its own, on the bundle and the index of `benchmarks.serve`, and
prints a JSON line: p50 of one client, the most requests/s of `--clients`, and, with twice that offered, the share of it
that is answered in time, by deadline. The last lines are medians. uvicorn and granian have to be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.serve import load, prepare, running, say
from benchmarks.train_step import add_shape

SERVERS = ("ours", "uvicorn-httptools", "uvicorn-h11", "granian")


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(p)
    p.add_argument("--ads", type=int, default=100_000)
    p.add_argument("--k", type=int, default=100)
    p.add_argument("--clients", type=int, nargs="+", default=(64, 128))
    p.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    p.add_argument("--deadline-ms", type=int, nargs="+", default=(100, 200))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    p.add_argument("--serve", choices=SERVERS[1:], help="be that server, for the files in --folder")
    p.add_argument("--folder", type=Path)
    return p.parse_args()


def serve(name: str, folder: Path, max_k: int) -> None:
    """The application in a stock server, without what the service's own adds: limits on clients, a clean end."""
    from serving.http.server import bound, calm_garbage_collector, listen
    from serving.scorer_updates import load as load_scorer
    from serving.service.app import create_app

    listener = bound("127.0.0.1", 0)
    port = listener.getsockname()[1]
    app = create_app(load_scorer(folder / "bundle", folder / "index", max_k=max_k))
    calm_garbage_collector()
    address = f"serving http://127.0.0.1:{port}"
    if name == "granian":
        listener.close()
        from granian.constants import Interfaces  # pyright: ignore[reportMissingImports], not a dependency
        from granian.server.embed import Server  # pyright: ignore[reportMissingImports]

        print(address, flush=True)
        more: dict[str, Any] = {"backlog": 2048, "backpressure": 2048, "log_enabled": False, "websockets": False}
        asyncio.run(Server(app, "127.0.0.1", port, interface=Interfaces.ASGI, **more).serve())
        return
    import uvicorn  # pyright: ignore[reportMissingImports], not a dependency

    listen(listener)
    print(address, flush=True)
    config = uvicorn.Config(
        app,
        http="h11" if name == "uvicorn-h11" else "httptools",
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


def measure(a: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """One start of one server."""
    flags = [f"--max-k={max(a.k, 128)}"]
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.http_servers", f"--serve={name}", f"--k={a.k}"]
    command.append(f"--folder={folder}")
    if name == "ours":
        flags += [f"--bundle={folder / 'bundle'}", f"--index={folder / 'index'}", "--port=0"]
        command = [sys.executable, "-m", "tt_jax", "serve", *flags]
    with running(command) as server:
        load(a, folder, server, 8)  # warm
        lone = load(a, folder, server, 1)["p50_ms"]
        peak = max(load(a, folder, server, clients)["per_s"] for clients in a.clients)
        line: dict[str, Any] = {"server": name, "p50_ms": lone, "peak_per_s": peak}
        for ms in a.deadline_ms:
            over = load(a, folder, server, 512, f"--rate={2 * peak}", f"--deadline-ms={ms}")
            line[f"in_time_share_{ms}_ms"] = round(over["in_time_per_s"] / peak, 3)
        return line


def main() -> None:
    a = parse_args()
    if a.serve:
        serve(a.serve, a.folder, max(a.k, 128))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in a.servers}
    with tempfile.TemporaryDirectory(prefix="tt-jax-servers-") as folder:
        prepare(a, Path(folder))
        for i in range(a.rounds):
            for name in a.servers if i % 2 == 0 else reversed(a.servers):
                line = measure(a, Path(folder), name)
                found[name].append(line)
                say("round", line)
    for name, lines in found.items():
        figures = {key: statistics.median(line[key] for line in lines) for key in lines[0] if key != "server"}
        say("median", {"server": name, **figures, "rounds": len(lines)})


if __name__ == "__main__":
    main()
